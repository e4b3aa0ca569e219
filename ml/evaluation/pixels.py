"""Every pixel of a set, counted into bins: average precision of any number of pixels in constant memory.

A set of 500 exams has 4e9 pixels, too many to sort. Here each pixel falls into one of 126,981 bins by its
probability p, as narrow where floats are dense as a network's answers crowd there: 2,048 bins to each halving of p
below 0.5, and of 1 - p above, down to 2**-32. Exactly 0, exactly 0.5 and exactly 1 have bins of their own. What is
lost by counting is bounded, and the bound is part of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from ml.volume import MaskArray

F32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MANTISSA_BITS = 11
OCTAVES = 31
"""Halvings of p from 0.5 to 2**-32."""
_LEAST = 127 - OCTAVES - 1
"""The biased float32 exponent of 2**-32."""
_HALF = 2 + (OCTAVES << MANTISSA_BITS)
BINS = 2 * _HALF + 1
COARSE = 64
"""Bins of one coarse bin: a histogram of every image has 1,985."""
COARSE_BINS = -(-BINS // COARSE)
_EDGES = np.arange(0, BINS, COARSE)


@dataclass(frozen=True)
class Bounded:
    """A figure from counts: what it is with every bin as one threshold, and between what the exact one lies."""

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """The exact figure is at most this far from `value`."""
        return max(self.high - self.value, self.value - self.low)


@dataclass(frozen=True, eq=False)
class PixelHistogram:
    """Pixels with and without the label, by bin of probability; `+` joins sets."""

    positives: IntArray
    """(bins,)"""
    negatives: IntArray
    """(bins,)"""

    @classmethod
    def of(cls, prob: F32Array, truth: MaskArray) -> PixelHistogram:
        """The histogram of an array of any shape; probabilities in [0, 1]."""
        bins = bin_of(prob.ravel())
        every = np.bincount(bins, minlength=BINS)
        positives = np.bincount(bins[truth.ravel()], minlength=BINS)
        return cls(positives, every - positives)

    @classmethod
    def empty(cls) -> PixelHistogram:
        """Of no pixel."""
        return cls(np.zeros(BINS, dtype=np.int64), np.zeros(BINS, dtype=np.int64))

    def __add__(self, other: PixelHistogram) -> PixelHistogram:
        return PixelHistogram(self.positives + other.positives, self.negatives + other.negatives)


def bin_of(prob: F32Array) -> npt.NDArray[np.intp]:
    """The bin of each probability; a higher probability is never in a lower bin.

    Raises:
        ValueError: a probability is not a number in [0, 1].
    """
    values = np.ascontiguousarray(prob, dtype=np.float32)
    if not (values.size == 0 or (values.min() >= 0 and values.max() <= 1)):  # a NaN fails both
        raise ValueError("probabilities must be numbers in [0, 1]")
    high = values >= np.float32(0.5)
    # 1 - p is exact in float32 for p in [0.5, 1] (Sterbenz), so no order is lost at the top.
    distance = np.where(high, np.float32(1) - values, values)
    key = (distance.view(np.int32) - (_LEAST << 23)) >> (23 - MANTISSA_BITS)
    key = np.where(distance == 0, 0, np.maximum(key + 2, 1))
    return np.where(high, 2 * _HALF - key, key).astype(np.intp)


def count_pixels(prob: F32Array, truth: MaskArray, known: MaskArray) -> tuple[PixelHistogram, IntArray, IntArray]:
    """The histogram of a (z, y, x) exam, and (z, COARSE_BINS) pixels with and without the label of every image.

    Pixels that are not `known` are not counted.
    """
    total = PixelHistogram.empty()
    images = []
    for z in range(len(prob)):  # image by image: bins take eight times the room of pixels
        histogram = PixelHistogram.of(prob[z][known[z]], truth[z][known[z]])
        total += histogram
        images.append([np.add.reduceat(part, _EDGES) for part in (histogram.positives, histogram.negatives)])
    stacked = np.array(images, dtype=np.int64).reshape(len(prob), 2, COARSE_BINS)
    return total, stacked[:, 0], stacked[:, 1]


def average_precision(histogram: PixelHistogram) -> Bounded:
    """Area under the precision-recall curve by steps, as scikit-learn's; NaN where no pixel has the label.

    The bounds hold for every order of the pixels within their bins, ties included.
    """
    positives, negatives = histogram.positives[::-1].astype(np.float64), histogram.negatives[::-1].astype(np.float64)
    total = positives.sum()
    if total == 0:
        return Bounded(float("nan"), float("nan"), float("nan"))
    true, false = np.cumsum(positives), np.cumsum(negatives)
    true_before, false_before = true - positives, false - negatives
    value = _shares(positives, true, true + false) / total
    high = _shares(positives, true, true + false_before) / total
    # Least: all negatives of a bin come first, then its positives one by one; sum of (t + i) / (t + i + f).
    lost = false * (special.digamma(true + false + 1) - special.digamma(true_before + false + 1))
    low = float((positives - np.where(positives > 0, lost, 0.0)).sum() / total)
    return Bounded(float(value), min(low, float(value)), float(high))


def average_precisions(positives: FloatArray, negatives: FloatArray) -> FloatArray:
    """(n,) average precision of (n, bins) histograms with bins in order of probability, one threshold per bin."""
    true, false = np.cumsum(positives[:, ::-1], axis=1), np.cumsum(negatives[:, ::-1], axis=1)
    called = true + false
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    total = positives.sum(axis=1)
    gained = (positives[:, ::-1] * precision).sum(axis=1)
    return np.asarray(np.divide(gained, total, out=np.full(len(total), np.nan), where=total > 0), dtype=np.float64)


def precision_recall(histogram: PixelHistogram) -> tuple[FloatArray, FloatArray]:
    """(precision, recall) at every occupied bin as threshold, from the highest probability down."""
    positives, negatives = histogram.positives[::-1], histogram.negatives[::-1]
    occupied = positives + negatives > 0
    true, false = np.cumsum(positives)[occupied], np.cumsum(negatives)[occupied]
    return true / (true + false), true / max(1, int(positives.sum()))


def _shares(weights: FloatArray, part: FloatArray, whole: FloatArray) -> float:
    """Sum of weights times part / whole, over occupied bins."""
    ratio = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return float(weights @ ratio)
