"""Scores follow the evidence."""

import math
import tracemalloc

import numpy as np
import pytest

from ml.config import Logistic
from ml.inference.scores import apply, exam_features, slice_features
from ml.volume import Geometry
from tests.ml.conftest import geometry

STACK = geometry(np.arange(6) * 5.0, spacing_mm=(1.0, 1.0))


def blob(size: int, *, prob: float = 0.9, z: int = 2) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """A square of `size` pixels in one slice on a quiet background."""
    array = np.full((6, 40, 40), 0.001, dtype=np.float32)
    array[z, 5 : 5 + size, 5 : 5 + size] = prob
    return array


def around(logits: list[float], stack: Geometry) -> list[float]:
    """Means under a Gaussian of 7 mm along the stack, summed one by one."""
    means = []
    for middle in stack.offsets_mm:
        total = weight = 0.0
        for logit, offset, thickness in zip(logits, stack.offsets_mm, stack.voxel_volumes_ml, strict=True):
            one = math.exp(-((offset - middle) ** 2) / (2 * 7.0**2)) * thickness
            total, weight = total + one * logit, weight + one
        means.append(total / weight)
    return means


def test_a_logistic_is_a_weighted_sum_through_a_sigmoid() -> None:
    """By hand."""
    found = apply(Logistic((2.0, -1.0), 0.5), np.array([[1.0, 2.0], [0.0, 0.0]]))
    assert found == pytest.approx([1 / (1 + np.exp(-0.5))] * 2)


@pytest.mark.parametrize("feature", [1, 2])
def test_a_larger_bleed_raises_the_exam_features(feature: int) -> None:
    """Largest volume and peak."""
    logits = np.full(6, -3.0, dtype=np.float32)
    values = [exam_features(blob(size), logits, STACK, pixel_prob=0.5)[feature] for size in (1, 4, 12)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_the_features_of_a_quiet_exam_need_one_more_map_at_a_time() -> None:
    """Labels of lesions, then the highest voxels: with both a thin-sliced exam would need 0.6 GB more."""
    prob = np.zeros((40, 256, 256), dtype=np.float32)
    stack = geometry(np.arange(40) * 5.0, spacing_mm=(1.0, 1.0))
    tracemalloc.start()
    exam_features(prob, np.zeros(40, dtype=np.float32), stack, pixel_prob=0.5)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1.6 * prob.nbytes


def test_evidence_in_neighbouring_slices_counts_more_than_in_one() -> None:
    """A spike in a single slice is diluted by its neighbours."""
    spike = np.array([-4, -4, 4, -4, -4, -4], dtype=np.float32)
    run = np.array([-4, 2, 3, 2, -4, -4], dtype=np.float32)
    features = [exam_features(blob(3), logits, STACK, pixel_prob=0.5)[0] for logits in (spike, run)]
    assert features[0] < features[1]


def test_slice_features_are_of_the_slice_and_its_neighbours() -> None:
    """Logits are limited, so that one network's outburst does not drown the rest."""
    logits = np.array([0, 0, 99, 0, 0, 0], dtype=np.float32)
    features = slice_features(blob(4), logits, STACK, pixel_prob=0.5)
    assert features[:, 0].tolist() == [0, 0, 10, 0, 0, 0]
    assert features[:, 1].argmax() == 2
    assert features[:, 1] == pytest.approx(around([0, 0, 10, 0, 0, 0], STACK))
    assert features[2, 2] == pytest.approx(np.log1p(16 / 20))
    assert not features[[0, 1, 3, 4, 5], 2].any()


@pytest.mark.parametrize("thickness_mm", [0.5, 1.0, 5 / 3])
def test_thin_slices_say_of_a_head_what_thick_ones_do(thickness_mm: float) -> None:
    """The same evidence along the head, of bleeds of 5 mm and of 15 mm, in slices of 5 mm and in thinner ones."""
    found = []
    for step in (5.0, thickness_mm):
        offsets = np.arange(0, 120, step)
        stack = geometry(offsets, spacing_mm=(1.0, 1.0))
        logits = np.select([abs(offsets - 30) < 2.5, abs(offsets - 80) < 7.5], [6.0, 5.0], -4.0).astype(np.float32)
        prob = np.full((len(offsets), 8, 8), 0.001, dtype=np.float32)
        smoothed = slice_features(prob, logits, stack, pixel_prob=0.5)[:, 1]
        strongest = exam_features(prob, logits, stack, pixel_prob=0.5)[0]
        assert strongest == smoothed.max()
        found.append((strongest, *np.interp((10, 30, 35, 60, 80, 90), offsets, smoothed)))
    assert found[1] == pytest.approx(found[0], abs=0.8)


def test_a_slice_counts_as_much_as_it_is_thick() -> None:
    """Where slices of 5 mm follow on ones of 1 mm, these do not outvote them."""
    offsets = np.concatenate([np.arange(0, 20, 1.0), np.arange(22, 60, 5.0)])
    logits = np.where(offsets < 20, -3, 3).astype(np.float32)
    stack = geometry(offsets, spacing_mm=(1.0, 1.0))
    prob = np.full((len(offsets), 8, 8), 0.001, dtype=np.float32)
    smoothed = slice_features(prob, logits, stack, pixel_prob=0.5)[:, 1]
    assert np.interp(20, offsets, smoothed) == pytest.approx(0, abs=0.6)


def test_features_are_those_worked_out_by_hand() -> None:
    """Uneven slices, oblong pixels of 2 mm2, two bleeds, one of them just at the threshold, and haze: a bundle is
    calibrated on just these numbers.
    """
    exam = geometry(np.array([0.0, 4.0, 11.0, 18.0, 25.0]), spacing_mm=(1.0, 2.0))
    prob = np.full((5, 20, 20), 0.0005, dtype=np.float32)
    prob[1, 2:5, 2:4] = 0.9  # 6 voxels of 5.5 mm
    prob[3, 10, 5:15] = 0.6  # 10 voxels of 7 mm
    prob[4, 0, :] = 0.2
    logits = np.array([9, 99, 7, -3, 8], dtype=np.float32)
    strongest, volume, peak = exam_features(prob, logits, exam, pixel_prob=0.6)
    assert strongest == pytest.approx(max(around([9, 10, 7, -3, 8], exam)))
    assert volume == pytest.approx(np.log1p(10 * 7 * 2 / 1000 / 0.1))
    mean = (6 * 0.9 + 8 * 0.6) / 14  # 0.2 mL are 14 voxels of 7 mm
    assert peak == pytest.approx(np.log(mean / (1 - mean)), abs=1e-5)
    features = slice_features(prob, logits, exam, pixel_prob=0.6)
    assert features[:, 0].tolist() == [9, 10, 7, -3, 8]
    assert features[:, 1] == pytest.approx(around([9, 10, 7, -3, 8], exam))
    assert features[:, 2] == pytest.approx(np.log1p(np.array([0, 12, 0, 20, 0]) / 20))


@pytest.mark.parametrize(("prob", "peak"), [(0.0, -10), (1.0, 10)])
def test_a_map_without_any_doubt_has_a_finite_peak(prob: float, peak: float) -> None:
    """Networks say 0 and 1, as float32 rounds them."""
    features = exam_features(
        np.full((6, 40, 40), prob, dtype=np.float32), np.zeros(6, np.float32), STACK, pixel_prob=0.5
    )
    assert features[2] == peak
