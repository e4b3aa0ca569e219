"""Slices that are thicker than their distance are known by their noise."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from ml.config import COMPACT_PREPROCESSING
from ml.inference.preprocessing import prepare
from ml.inference.thickness import overlapping_mm
from ml.phantom import draw_spec, simulate
from ml.volume import HuArray, Volume
from tests.real_heads import injured_head

MOST_MM = 5.0


def noise(slices: int) -> HuArray:
    """(z, v, u) brain of 35 HU, as noisy as thin slices are."""
    grain = np.random.default_rng(3).normal(35, 8, (slices, 64, 64)).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(grain, (0, 0.6, 0.6)), dtype=np.float32)


def overlap(hu: HuArray, offsets_mm: npt.NDArray[np.floating]) -> float:
    """In pixels of 0.95 mm."""
    return overlapping_mm(hu, offsets_mm, 0.95, MOST_MM)


@pytest.mark.parametrize("step_mm", [0.625, 1.0, 3.0])
def test_slices_that_touch_do_not_overlap(step_mm: float) -> None:
    """Their noise is independent."""
    assert overlap(noise(60), np.arange(60) * step_mm) == 0.0


@pytest.mark.parametrize(("slices", "step_mm"), [(3, 1.5), (3, 1.0), (4, 1.0), (4, 0.5)])
def test_slices_that_overlap_are_measured(slices: int, step_mm: float) -> None:
    """Means of several thin ones at every thin one's place are as much thicker than their distance."""
    thick = np.stack([noise(60)[z : z + slices].mean(axis=0) for z in range(60 - slices)])
    expected = (slices - 1) * step_mm
    assert overlap(thick, np.arange(len(thick)) * step_mm) == pytest.approx(expected, abs=0.3 * step_mm)


def test_interpolated_slices_are_as_thick_as_they_were() -> None:
    """4 mm to 1 mm, linearly: at least 3 mm overlap; of thicker ones it is said that they are thick enough."""
    fine = ndimage.zoom(noise(20), (4, 1, 1), order=1, grid_mode=False)
    assert overlap(fine, np.arange(len(fine)) * (76 / 79)) > 3.0
    assert overlap(fine, np.arange(len(fine)) * 2.0) >= MOST_MM - 2.0


def test_nothing_is_said_without_soft_tissue() -> None:
    """Air; a single slice; slices that become bone."""
    air = np.full((40, 64, 64), -1000, dtype=np.float32)
    assert overlap(air, np.arange(40.0)) == 0.0
    assert overlap(noise(1), np.arange(1.0)) == 0.0


def test_simulated_thin_slices_are_averaged_as_ever() -> None:
    """They touch: the shipped bundle was trained on slabs of them."""
    spec = draw_spec(3, bleed=True)
    zones = tuple(replace(zone, thickness_mm=2.0, slices=40) for zone in spec.scanner.zones[:1])
    volume = simulate(replace(spec, scanner=replace(spec.scanner, zones=zones)), matrix=256).volume
    assert np.count_nonzero(prepare(volume, COMPACT_PREPROCESSING).sampling.slabs[20]) == 3


def test_a_real_head_that_was_resampled_is_not_averaged_once_more() -> None:
    """Slices of 4.5 mm, interpolated to 1.5 mm; those that the scanner made 1.5 mm apart overlap, and are in part."""
    thick, thin = injured_head(3), injured_head(1)
    fine = ndimage.zoom(thick.hu, (3, 1, 1), order=1)
    resampled = Volume(fine, replace(thin.geometry, positions_lps=thin.geometry.positions_lps * [1, 1, 105 / 107]))
    assert np.array_equal(prepare(resampled, COMPACT_PREPROCESSING).sampling.slabs, np.eye(108))
    assert np.count_nonzero(prepare(thin, COMPACT_PREPROCESSING).sampling.slabs[50]) == 3
