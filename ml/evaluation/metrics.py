"""Figures of merit, each with its level in its name. NumPy alone.

A score is any number that grows with the suspicion of blood; `positive` says where there is some. An undefined figure
is NaN, never 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating] | Sequence[float]
Flags = npt.NDArray[np.bool_] | Sequence[bool]
Counts = npt.NDArray[np.integer] | npt.NDArray[np.floating] | Sequence[int]


def dsc(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks; 1 where both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2 * int((found & truth).sum()) / total


@dataclass(frozen=True)
class DscFigures:
    """Three figures that all go by the name of DSC; they differ by tenths on one set."""

    pooled: float
    """Over the pixels of the whole set, as if it were one image: large bleeds weigh most, empty images only by what
    was wrongly found on them. This is what resampling images gives a figure for (paper 2.4)."""
    per_exam: float
    """Mean over the exams with blood; a missed exam counts 0. Bleed-free exams have no DSC here: an empty mask on an
    empty truth is counted as 1 by some programs, and a set of mostly normal exams then looks excellent."""
    per_image: float
    """Mean over the images with blood, for the same reason."""
    exams: int
    """With blood."""
    images: int
    """With blood."""


def dsc_figures(exams: Sequence[tuple[Counts, Counts, Counts]]) -> DscFigures:
    """From (truth, found, both) pixel counts by image, one triple for each exam."""
    images = np.concatenate([np.stack([np.asarray(part) for part in exam], axis=1) for exam in exams])
    sums = np.array([[np.sum(part) for part in exam] for exam in exams])
    with_blood, exams_with_blood = images[:, 0] > 0, sums[:, 0] > 0
    return DscFigures(
        pooled=float(dsc_of_counts(*(images.sum(axis=0, keepdims=True).T))[0]),
        per_exam=_mean(dsc_of_counts(*sums[exams_with_blood].T)),
        per_image=_mean(dsc_of_counts(*images[with_blood].T)),
        exams=int(exams_with_blood.sum()),
        images=int(with_blood.sum()),
    )


def dsc_of_counts(truth: Counts, found: Counts, both: Counts) -> FloatArray:
    """(n,) 2 both / (truth + found); NaN where both masks are empty."""
    total = np.asarray(truth, dtype=np.float64) + np.asarray(found, dtype=np.float64)
    return np.asarray(
        np.divide(2 * np.asarray(both, dtype=np.float64), total, out=np.full(total.shape, np.nan), where=total > 0)
    )


def auc(scores: Scores, positive: Flags) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties half. NaN with one class."""
    values, flags = _arrays(scores, positive)
    positives, negatives = int(flags.sum()), int((~flags).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = stats.rankdata(values)
    return float((ranks[flags].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@dataclass(frozen=True, eq=False)
class Roc:
    """The operating points that a set of scores allows, from the highest threshold down."""

    thresholds: FloatArray
    """A score at or above it is called positive; the first is above every score."""
    sensitivity: FloatArray
    specificity: FloatArray


def roc(scores: Scores, positive: Flags) -> Roc:
    """One point for each distinct score, and the point where nothing is called. Needs both classes."""
    values, flags = _arrays(scores, positive)
    _require_both(flags)
    distinct, group = np.unique(-values, return_inverse=True)
    true = np.cumsum(np.bincount(group, weights=flags, minlength=len(distinct)))
    false = np.cumsum(np.bincount(group, weights=~flags, minlength=len(distinct)))
    return Roc(
        thresholds=np.concatenate([[np.inf], -distinct]),
        sensitivity=np.concatenate([[0.0], true / flags.sum()]),
        specificity=np.concatenate([[1.0], 1 - false / (~flags).sum()]),
    )


def specificity_at(sensitivity: float, scores: Scores, positive: Flags) -> float:
    """The highest specificity of the operating points with at least that sensitivity; nothing is interpolated."""
    curve = roc(scores, positive)
    return float(curve.specificity[curve.sensitivity >= sensitivity - 1e-12].max())


def sensitivity_at(specificity: float, scores: Scores, positive: Flags) -> float:
    """The highest sensitivity of the operating points with at least that specificity."""
    curve = roc(scores, positive)
    return float(curve.sensitivity[curve.specificity >= specificity - 1e-12].max())


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """(PPV, NPV) where a share `prevalence` of exams bleeds (Bayes). The set's own share seldom is that of a ward.

    Raises ValueError for a prevalence that is no share.
    """
    if not 0 <= prevalence <= 1:
        raise ValueError(f"prevalence {prevalence} is not between 0 and 1")
    true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    missed, free = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
    return _ratio(true, true + false), _ratio(free, free + missed)


def brier(scores: Scores, positive: Flags) -> float:
    """Mean squared distance of probabilities from what was: 0 perfect, 0.25 a coin's."""
    values, flags = _arrays(scores, positive)
    return float(np.mean((values - flags) ** 2))


@dataclass(frozen=True)
class ReliabilityRow:
    """Exams whose score lies in [low, high): what was said and what was."""

    low: float
    high: float
    count: int
    mean_score: float
    share_positive: float


def reliability(scores: Scores, positive: Flags, *, bins: int = 10) -> tuple[ReliabilityRow, ...]:
    """Bins of equal width over [0, 1], the last with its upper end; NaN in empty ones."""
    values, flags = _arrays(scores, positive)
    place = np.minimum((values * bins).astype(np.intp), bins - 1)
    rows = []
    for one in range(bins):
        inside = place == one
        rows.append(
            ReliabilityRow(one / bins, (one + 1) / bins, int(inside.sum()), _mean(values[inside]), _mean(flags[inside]))
        )
    return tuple(rows)


def calibration_error(rows: Sequence[ReliabilityRow]) -> float:
    """Mean distance between what was said and what was, over the exams of a reliability table."""
    filled = [row for row in rows if row.count]
    gaps = [row.count * abs(row.mean_score - row.share_positive) for row in filled]
    return _ratio(sum(gaps), sum(row.count for row in filled))


def _arrays(scores: Scores, positive: Flags) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    if values.shape != flags.shape:
        raise ValueError(f"{values.size} scores for {flags.size} exams")
    if np.isnan(values).any():
        raise ValueError("a score is not a number")
    return values, flags


def _require_both(flags: npt.NDArray[np.bool_]) -> None:
    if flags.all() or not flags.any():
        raise ValueError("an operating point needs exams with and without blood")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def _mean(values: npt.NDArray[np.floating] | npt.NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if values.size else float("nan")
