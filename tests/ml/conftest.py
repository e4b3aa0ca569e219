"""A tiny bundle with random weights, and volumes of geometric heads, for tests that need no trained network."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ml.bundle import Bundle, BundleConfig, identify
from ml.config import Calibration, Logistic, OperatingPoint, Preprocessing, Provenance, Window
from ml.networks.drn import DrnConfig, Level
from ml.networks.patchfcn import PatchFcn, PatchFcnConfig
from ml.volume import Geometry, Volume

MakeVolume = Callable[..., Volume]

TINY_NETWORK = PatchFcnConfig(
    DrnConfig(6, 4, 3, 2, (Level("conv", 16, 1), Level("residual", 16, 1, stride=2, dilation=2))),
    class_pooling="smooth-max",
    fine_levels=(1,),
    fine_channels=(6,),
)
TINY_PREPROCESSING = Preprocessing(
    pixel_mm=4.0, size=64, windows=(Window(-10, 110), Window(-300, 900)), slab_mm=5.0, neighbour_mm=5.0
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Bits that do not depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_config() -> BundleConfig:
    """A bundle's configuration for a network that runs in milliseconds."""
    return BundleConfig(
        name="tiny",
        version="0",
        network=TINY_NETWORK,
        preprocessing=TINY_PREPROCESSING,
        operating_point=OperatingPoint(pixel_prob=0.5, exam_score=0.5, least_lesion_ml=0.1),
        calibration=Calibration(Logistic((1.0, 0.5, 0.5), -1.0), Logistic((0.2, 0.5, 0.5), -1.0)),
        provenance=Provenance("none: random weights", "tests", 0, "none", 0),
    )


@pytest.fixture
def tiny_bundle(tiny_config: BundleConfig) -> Bundle:
    """Random weights that give probabilities over the whole range."""
    torch.manual_seed(1)
    network = PatchFcn(tiny_config.network)
    torch.nn.init.normal_(network.pixel_score.weight, 0, 2.0)
    torch.nn.init.constant_(network.get_parameter("pixel_score.bias"), 0.0)
    return Bundle(tiny_config, identify(tiny_config, "0" * 64), network.state_dict())


def geometry(offsets_mm: npt.NDArray[np.floating], *, spacing_mm: tuple[float, float] = (2.0, 2.0)) -> Geometry:
    """Axial slices at the given heights."""
    positions = np.zeros((len(offsets_mm), 3))
    positions[:, 2] = offsets_mm
    return Geometry(
        positions_lps=positions,
        row_lps=np.array([1.0, 0.0, 0.0]),
        column_lps=np.array([0.0, 1.0, 0.0]),
        pixel_spacing_mm=spacing_mm,
        sop_instance_uids=tuple(f"1.2.{z}" for z in range(len(offsets_mm))),
    )


@pytest.fixture
def make_volume() -> MakeVolume:
    """A head of concentric ellipses with a bright cube in its left front, slices at the given heights."""

    def make(offsets_mm: npt.NDArray[np.floating] | None = None, *, shape: tuple[int, int] = (120, 100)) -> Volume:
        offsets = np.arange(0.0, 50.0, 5.0) if offsets_mm is None else offsets_mm
        v, u = np.mgrid[: shape[0], : shape[1]].astype(float)
        radius = np.hypot((v - shape[0] / 2) / (shape[0] * 0.42), (u - shape[1] / 2) / (shape[1] * 0.38))
        head = np.where(radius < 1, 900.0, -1000.0)
        head[radius < 0.9] = 30.0
        hu = np.repeat(head[None], len(offsets), axis=0).astype(np.float32)
        middle = (offsets > offsets.mean() - 8) & (offsets < offsets.mean() + 8)
        hu[np.flatnonzero(middle), shape[0] // 3 : shape[0] // 3 + 10, shape[1] // 2 + 5 : shape[1] // 2 + 15] = 70.0
        return Volume(hu, geometry(offsets))

    return make
