"""The test-retest study of the paper's section 2.5: is the better model so in every reading of the labels?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]

REPLICATES = 50
"""Bootstrapped samples of each reading (paper, section 2.5)."""


@dataclass(frozen=True)
class PairedTest:
    """A paired t-test of one figure of two models."""

    mean_difference: float
    t: float
    p: float
    """Two-sided."""
    pairs: int


def paired_t(one: FloatArray, other: FloatArray) -> PairedTest:
    """Differences `one` minus `other`, pair by pair; pairs with a NaN are left out.

    Over bootstrap replicates, as the paper takes it, p falls with every replicate that is drawn and says little; over
    exams it is a test. NaN with fewer than two pairs; p is 1 where all differences are 0, and 0 where they are all
    the same and not 0.
    """
    differences = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    differences = differences[~np.isnan(differences)]
    if differences.size < 2:
        return PairedTest(float("nan"), float("nan"), float("nan"), int(differences.size))
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread <= 1e-15:
        same = mean == 0
        return PairedTest(mean, 0.0 if same else float(np.inf) * np.sign(mean), 1.0 if same else 0.0, differences.size)
    t = mean / (spread / float(np.sqrt(differences.size)))
    return PairedTest(mean, t, float(2 * stats.t.sf(abs(t), differences.size - 1)), int(differences.size))
