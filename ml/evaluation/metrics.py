"""Figures of merit, each with its level in its name. NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Scores = npt.NDArray[np.floating] | Sequence[float]
Flags = npt.NDArray[np.bool_] | Sequence[bool]


def dsc(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks; 1 where both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2 * int((found & truth).sum()) / total


def auc(scores: Scores, positive: Flags) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties half. NaN with one class."""
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    positives, negatives = int(flags.sum()), int((~flags).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = stats.rankdata(values)
    return float((ranks[flags].sum() - positives * (positives + 1) / 2) / (positives * negatives))
