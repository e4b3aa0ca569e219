"""DeLong's variance of an AUC and his test for two AUCs on the same exams, without resampling.

Source: DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837), by midranks as Sun and Xu 2014 (IEEE SPL 21:1389).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from ml.evaluation.metrics import Flags, Scores

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DelongAuc:
    """An AUC with its standard error and 95 % interval, cut to [0, 1]."""

    auc: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True)
class DelongTest:
    """Two AUCs on the same exams."""

    difference: float
    standard_error: float
    z: float
    p: float
    """Two-sided."""
    low: float
    """95 % interval of the difference."""
    high: float


def delong_auc(scores: Scores, positive: Flags) -> DelongAuc:
    """Of one model; NaN where a class has fewer than two exams.

    The interval is none where every positive outranks every negative.
    """
    areas, covariance = _covariance([scores], positive)
    error = float(np.sqrt(covariance[0, 0]))
    half = float(stats.norm.ppf(0.975)) * error
    area = float(areas[0])
    low, high = np.clip([area - half, area + half], 0, 1)  # a NaN stays one
    return DelongAuc(area, error, float(low), float(high))


def delong_test(one: Scores, other: Scores, positive: Flags) -> DelongTest:
    """Is the AUC of `one` another than that of `other`? The difference is `one` minus `other`."""
    areas, covariance = _covariance([one, other], positive)
    difference = float(areas[0] - areas[1])
    error = float(np.sqrt(np.maximum(0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    z = difference / error if error > 0 else (0.0 if difference == 0 else float("nan"))
    half = float(stats.norm.ppf(0.975)) * error
    return DelongTest(difference, error, z, float(2 * stats.norm.sf(abs(z))), difference - half, difference + half)


def _covariance(models: list[Scores], positive: Flags) -> tuple[FloatArray, FloatArray]:
    """(k,) AUCs and their (k, k) covariance; NaN where a class has fewer than two exams."""
    flags = np.asarray(positive, dtype=np.bool_)
    count, others = int(flags.sum()), int((~flags).sum())
    if count < 2 or others < 2:
        nothing = np.full(len(models), np.nan)
        return nothing, np.full((len(models), len(models)), np.nan)
    won = np.empty((len(models), count))
    """Of each positive: the share of negatives that it outranks."""
    lost = np.empty((len(models), others))
    """Of each negative: the share of positives that outrank it."""
    for k, scores in enumerate(models):
        values = np.asarray(scores, dtype=np.float64)
        every = stats.rankdata(values)
        won[k] = (every[flags] - stats.rankdata(values[flags])) / others
        lost[k] = 1 - (every[~flags] - stats.rankdata(values[~flags])) / count
    covariance = np.atleast_2d(np.cov(won)) / count + np.atleast_2d(np.cov(lost)) / others
    return won.mean(axis=1), np.asarray(covariance, dtype=np.float64)
