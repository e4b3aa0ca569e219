"""A child's head is shown to the network as large as an adult's; nobody else's is changed."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from ml.bundle import Bundle
from ml.config import COMPACT_PREPROCESSING
from ml.inference import head_size as module
from ml.inference.head_size import SMALLEST, as_adult, head_size
from ml.inference.predictor import Predictor
from ml.inference.preprocessing import prepare
from ml.phantom import PEDIATRIC, SimulatedExam, draw_spec, simulate
from ml.phantom.spec import Zone
from ml.volume import Volume
from tests.real_heads import ge_head, head_and_neck, injured_head, visible_human

NEWBORN, ADULT = 4_951_042, 5
"""Seeds."""


@functools.cache
def exam(seed: int) -> SimulatedExam:
    """In slices of 5 mm."""
    spec = draw_spec(seed, institution=PEDIATRIC if seed == NEWBORN else "any", bleed=True)
    length = 160 * spec.head.size
    scanner = replace(spec.scanner, zones=(Zone(round(length / 5), 5.0, 5.0),), start_mm=-70.0 * spec.head.size)
    return simulate(replace(spec, scanner=scanner), matrix=256)


def shrunk(volume: Volume, size: float) -> Volume:
    """The same head, smaller."""
    geometry = volume.geometry
    down_mm, across_mm = geometry.pixel_spacing_mm
    smaller = replace(
        geometry, positions_lps=geometry.positions_lps * size, pixel_spacing_mm=(down_mm * size, across_mm * size)
    )
    return Volume(volume.hu, smaller)


@pytest.mark.parametrize(
    "head", [ge_head, injured_head, lambda: injured_head(3), head_and_neck, visible_human], ids=list("gishv")
)
def test_real_adults_are_adults(head: object) -> None:
    """Four of them, one cut off above the ventricles."""
    volume: Volume = head()  # type: ignore[operator] # a parameter
    assert head_size(volume) == 1.0
    assert as_adult(volume) is volume


@pytest.mark.parametrize("size", [0.6, 0.7, 0.75])
def test_a_small_head_is_measured_however_it_is_turned(size: float) -> None:
    """Within a tenth; turned by 30 degrees within a twentieth of that."""
    volume = shrunk(injured_head(3), size)
    found = head_size(volume)
    assert found == pytest.approx(size, rel=0.1)
    turned = ndimage.rotate(volume.hu, 30.0, axes=(1, 2), reshape=False, order=1, cval=-1000.0)
    assert head_size(replace(volume, hu=turned)) == pytest.approx(found, rel=0.05)


def test_a_newborn_is_three_fifths_as_large_and_an_adult_is_none() -> None:
    """Simulated ones."""
    child = exam(NEWBORN)
    assert head_size(child.volume) == pytest.approx(child.spec.head.size, abs=0.08)
    assert head_size(exam(ADULT).volume) == 1.0


def test_what_is_no_whole_head_is_taken_as_it_is() -> None:
    """A few slices at the vertex are small in any head; and no head is half as large as an adult's."""
    volume = injured_head(3)
    top = replace(
        volume.geometry,
        positions_lps=volume.geometry.positions_lps[-8:],
        sop_instance_uids=volume.geometry.sop_instance_uids[-8:],
    )
    assert head_size(Volume(volume.hu[-8:], top)) == 1.0
    assert head_size(shrunk(volume, 0.4)) == SMALLEST
    assert head_size(replace(volume, hu=np.full_like(volume.hu, -1000.0))) == 1.0


def test_the_network_sees_a_small_head_as_it_sees_a_large_one() -> None:
    """The images of the same head, whatever its size, and the way back onto its own pixels."""
    volume = ge_head()
    small = shrunk(volume, 0.7)
    config = replace(COMPACT_PREPROCESSING, pixel_mm=1.9, size=128)
    large, enlarged = prepare(volume, config), prepare(small, config)
    as_it_is = prepare(small, replace(config, adult_size=False))
    seen, wanted = enlarged.hu_zvu[14] > -300, large.hu_zvu[14] > -300
    assert 2 * (seen & wanted).sum() / (seen.sum() + wanted.sum()) > 0.9
    assert (as_it_is.hu_zvu[14] > -300).sum() < 0.6 * (large.hu_zvu[14] > -300).sum()
    back = enlarged.to_source(np.clip(enlarged.hu_zvu[enlarged.sampling.analysed], 0, 1))
    assert back.shape == small.hu.shape
    tissue = small.hu[14] > 0
    assert np.mean((back[14] > 0.5) == tissue) > 0.97
    assert np.ptp(enlarged.geometry.offsets_mm) > 1.3 * np.ptp(small.geometry.offsets_mm)


def test_the_scores_of_a_small_head_are_those_of_a_large_one(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence is gathered over mm and lesions count by mL: both as in the head that the network saw."""
    config = replace(tiny_bundle.config, preprocessing=replace(tiny_bundle.config.preprocessing, adult_size=True))
    predictor = Predictor(replace(tiny_bundle, config=config), device="cpu", engine="torch", threads=1)
    volume = injured_head(3)
    large = predictor.analyse(volume)
    monkeypatch.setattr(module, "head_size", lambda _: 0.7)
    small = predictor.analyse(shrunk(volume, 0.7))
    assert small.prob == pytest.approx(large.prob, abs=1e-3)
    assert small.geometry.offsets_mm == pytest.approx(large.geometry.offsets_mm)
    assert small.geometry.voxel_volumes_ml == pytest.approx(large.geometry.voxel_volumes_ml)
    scores = [predictor.predict(one).slice_scores for one in (shrunk(volume, 0.7), shrunk(volume, 0.5))]
    assert scores[0] == pytest.approx(predictor_scores(predictor, volume, monkeypatch), abs=1e-3)
    assert not np.allclose(scores[0], scores[1], atol=1e-3)


def predictor_scores(predictor: Predictor, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> npt.NDArray[np.float32]:
    """Of a head as it is."""
    monkeypatch.setattr(module, "head_size", lambda _: 1.0)
    return predictor.predict(volume).slice_scores
