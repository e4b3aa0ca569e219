"""Resampling with replacement: the statistics of the paper's section 2.4, and intervals by patient.

A replicate is a row of weights: how often each patient (or image) was drawn. A figure of all replicates is then a
matrix product or a cumulative sum, so a thousand replicates of 500 exams take a fraction of a second. The same seed
gives the same replicates, and both models of a comparison see the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from ml.evaluation.metrics import Flags, Scores

FloatArray = npt.NDArray[np.float64]

REPLICATES = 1000
"""Paper, section 2.4."""
SEED = 20_240
_CHUNK_ELEMENTS = 8_000_000
"""Weights that are spread over slices at once: 64 MB."""


@dataclass(frozen=True)
class Interval:
    """95 %: the 2.5th and 97.5th percentile of replicates (paper, section 2.4)."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A difference between two models on the same exams, as section 2.4 tests it."""

    difference: float
    """On the set itself."""
    sigma: float
    """Standard deviation of the difference over the replicates."""
    z: float
    p: float
    """Two-sided: 2 P(N > |Z|). The paper's words, "< |Z|", would give a probability above 1."""
    interval: Interval
    normality_p: float
    """Kolmogorov-Smirnov of the standardised differences against a normal distribution. Mean and deviation come from
    the same replicates, so it is too large; it can only reject."""
    replicates: int


def draw_weights(groups: Sequence[str], *, replicates: int = REPLICATES, seed: int = SEED) -> FloatArray:
    """(replicates, n) how often each of n exams is in a replicate: as many groups as there are, with replacement.

    Exams of one group (a patient) are drawn together; with every exam its own group this is the
    paper's sampling of exams.
    """
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    return np.asarray(drawn[:, place], dtype=np.float64)


def auc_replicates(weights: FloatArray, scores: Scores, positive: Flags) -> FloatArray:
    """(replicates,) AUC of weighted exams; NaN where a replicate lacks a class. Ties count half."""
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(values[order]) > 0]))
    sign = flags[order]
    found = np.empty(len(weights))
    step = max(1, _CHUNK_ELEMENTS // max(1, values.size))
    for first in range(0, len(weights), step):
        chunk = weights[first : first + step, order]
        positives = np.add.reduceat(chunk * sign, starts, axis=1)
        negatives = np.add.reduceat(chunk * ~sign, starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        won = (positives * below).sum(axis=1)
        found[first : first + step] = np.divide(won, pairs, out=np.full(len(chunk), np.nan), where=pairs > 0)
    return found


def slice_auc_replicates(
    weights: FloatArray, scores: Sequence[Sequence[float]], positive: Sequence[Sequence[bool]]
) -> FloatArray:
    """(replicates,) AUC over slices when exams are drawn: the slices of an exam come and go together."""
    lengths = [len(one) for one in scores]
    every_score, every_flag = np.concatenate([*map(np.asarray, scores)]), np.concatenate([*map(np.asarray, positive)])
    step = max(1, _CHUNK_ELEMENTS // max(1, sum(lengths)))
    parts = [
        auc_replicates(np.repeat(weights[first : first + step], lengths, axis=1), every_score, every_flag)
        for first in range(0, len(weights), step)
    ]
    return np.concatenate(parts)


def ratio_replicates(weights: FloatArray, parts: Scores | Flags, wholes: Scores | Flags) -> FloatArray:
    """(replicates,) weighted sum of parts over that of wholes: pooled DSC, means, rates. NaN where the whole is 0."""
    part, whole = weights @ np.asarray(parts, dtype=np.float64), weights @ np.asarray(wholes, dtype=np.float64)
    return np.asarray(np.divide(part, whole, out=np.full(len(weights), np.nan), where=whole > 0))


def percentile_interval(replicates: FloatArray) -> Interval:
    """Replicates without the figure (a class was not drawn) are left out; NaN where none has it."""
    kept = replicates[~np.isnan(replicates)]
    if kept.size == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(kept, [2.5, 97.5])
    return Interval(float(low), float(high))


def mean_interval(replicates: FloatArray) -> Interval:
    """Mean of the replicates +- 1.96 standard errors of that mean.

    It says how well the replicates' mean is known, not the figure: it shrinks with every replicate. Printed beside the
    others because the paper's intervals have this width (docs/evaluation.md).
    """
    kept = replicates[~np.isnan(replicates)]
    if kept.size < 2:
        return Interval(float("nan"), float("nan"))
    half = 1.96 * float(kept.std(ddof=1)) / np.sqrt(kept.size)
    return Interval(float(kept.mean() - half), float(kept.mean() + half))


def compare(difference: float, replicates: FloatArray) -> Comparison:
    """Section 2.4: Z = difference / sigma over paired replicates, its p, the percentiles, the normality test."""
    kept = replicates[~np.isnan(replicates)]
    sigma = float(kept.std(ddof=1)) if kept.size > 1 else float("nan")
    # Two models that agree on every exam have no spread: nothing speaks for a difference.
    z = difference / sigma if sigma > 0 else (0.0 if difference == 0 else float("nan"))
    normality = stats.kstest((kept - kept.mean()) / sigma, "norm").pvalue if sigma > 0 else float("nan")
    return Comparison(
        difference=difference,
        sigma=sigma,
        z=z,
        p=float(2 * stats.norm.sf(abs(z))),
        interval=percentile_interval(kept),
        normality_p=float(normality),
        replicates=int(kept.size),
    )


def specificity_replicates(weights: FloatArray, scores: Scores, positive: Flags, *, sensitivity: float) -> FloatArray:
    """(replicates,) highest specificity with at least that sensitivity, each replicate at a threshold of its own."""
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    order = np.argsort(-values, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(values[order]) < 0]))
    sign, drawn = flags[order], weights[:, order]
    true = np.cumsum(np.add.reduceat(drawn * sign, starts, axis=1), axis=1)
    false = np.cumsum(np.add.reduceat(drawn * ~sign, starts, axis=1), axis=1)
    positives, negatives = true[:, -1], false[:, -1]
    # The first threshold that is low enough: the ones before find too little, the ones after call more.
    place = np.argmax(true >= sensitivity * positives[:, None] - 1e-9, axis=1)
    called = false[np.arange(len(weights)), place]
    both = (positives > 0) & (negatives > 0)
    return np.asarray(1 - np.divide(called, negatives, out=np.full(len(weights), np.nan), where=both))
