"""Counted average precision against scikit-learn on sorted pixels."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from ml.evaluation.pixels import (
    BINS,
    COARSE_BINS,
    PixelHistogram,
    average_precision,
    average_precisions,
    bin_of,
    count_pixels,
    precision_recall,
)

ANY_PROB = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 2.0**-33, 2.0**-32, 1 - 2.0**-24, 1e-45, 0.25, 0.75]),
    st.floats(0, 1, width=32),
)


def drawn(rng: np.random.Generator, count: int, share: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Logits of two overlapping normals, as a trained network gives them: most near 0, some near 1."""
    truth = rng.random(count) < share
    logits = rng.normal(np.where(truth, 4.0, -6.0), 4.0)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), truth


@pytest.mark.parametrize("share", [0.5, 0.01, 0.0005])
def test_average_precision_is_exact_to_1e_4(share: float) -> None:
    """A million pixels, rare and common blood."""
    prob, truth = drawn(np.random.default_rng(0), 1_000_000, share)
    counted = average_precision(PixelHistogram.of(prob, truth))
    exact = average_precision_score(truth, prob)
    assert counted.value == pytest.approx(exact, abs=1e-4)
    assert counted.low - 1e-12 <= exact <= counted.high + 1e-12
    assert counted.error < 2e-3


def test_coarse_answers_are_exact() -> None:
    """A network in half precision gives few values, and many ties: every value has its own bin."""
    prob, truth = drawn(np.random.default_rng(1), 100_000, 0.05)
    rounded = prob.astype(np.float16).astype(np.float32)
    counted = average_precision(PixelHistogram.of(rounded, truth))
    assert counted.value == pytest.approx(average_precision_score(truth, rounded), abs=1e-12)


@given(st.lists(st.tuples(ANY_PROB, st.booleans()), min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
def test_the_exact_figure_lies_within_the_bounds(pixels: list[tuple[float, bool]]) -> None:
    """Whatever the probabilities, ties and extremes included."""
    prob = np.array([one for one, _ in pixels], dtype=np.float32)
    truth = np.array([flag for _, flag in pixels])
    counted = average_precision(PixelHistogram.of(prob, truth))
    if not truth.any():
        assert math.isnan(counted.value)
        return
    exact = average_precision_score(truth, prob)
    assert counted.low - 1e-9 <= exact <= counted.high + 1e-9
    assert counted.low - 1e-12 <= counted.value <= counted.high + 1e-12


@given(st.lists(ANY_PROB, min_size=2, max_size=50))
def test_bins_keep_the_order(values: list[float]) -> None:
    """A higher probability is never in a lower bin; 0, 0.5 and 1 are alone."""
    prob = np.sort(np.array(values, dtype=np.float32))
    bins = bin_of(prob)
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() < BINS
    for alone in (0.0, 0.5, 1.0):
        own = bin_of(np.array([alone], dtype=np.float32))[0]
        assert (prob[bins == own] == alone).all()


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    """A NaN counted as anything would be a figure from nothing."""
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        bin_of(np.array([0.5, wrong], dtype=np.float32))


def test_histograms_add_up() -> None:
    """Exam by exam is all at once, and the images of an exam are its pixels."""
    prob, truth = drawn(np.random.default_rng(2), 6 * 32 * 32, 0.1)
    whole = PixelHistogram.of(prob, truth)
    parts = sum(
        (PixelHistogram.of(p, t) for p, t in zip(np.split(prob, 3), np.split(truth, 3), strict=True)),
        start=PixelHistogram.empty(),
    )
    assert np.array_equal(parts.positives, whole.positives)
    assert np.array_equal(parts.negatives, whole.negatives)
    counted, positives, negatives = count_pixels(
        prob.reshape(6, 32, 32), truth.reshape(6, 32, 32), np.ones((6, 32, 32), dtype=bool)
    )
    assert np.array_equal(counted.positives, whole.positives)
    assert positives.shape == (6, COARSE_BINS)
    assert positives.sum() == truth.sum()
    assert np.array_equal((positives + negatives).sum(axis=1), [32 * 32] * 6)
    coarse = average_precisions(positives.sum(axis=0, keepdims=True) * 1.0, negatives.sum(axis=0, keepdims=True) * 1.0)
    assert coarse[0] == pytest.approx(average_precision(whole).value, abs=5e-3)


def test_the_curve_passes_the_known_points() -> None:
    """Three thresholds by hand."""
    histogram = PixelHistogram.of(np.array([0.9, 0.6, 0.2], dtype=np.float32), np.array([True, False, True]))
    precision, recall = precision_recall(histogram)
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert recall.tolist() == pytest.approx([0.5, 0.5, 1])
    assert average_precision(histogram).value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
