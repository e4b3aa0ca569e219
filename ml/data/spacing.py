"""Are slices missing? Told from positions and slice thicknesses, with room for protocols of two spacings.

A scan of 4 mm slices through the skull base and 7 mm above it is whole; a lost slice in it is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ml.data.refusals import refusal
from ml.volume import FloatArray

ISOLATED = 1.6
"""A step this many times its neighbours stands out; one lost slice makes a step of 2."""
UNCOVERED = 1.5
"""A step over this many thicknesses leaves tissue unseen for sure; overlap and rounding stay below."""
SPARSE = 1.9
"""A whole series with steps this many thicknesses apart has lost every other slice."""


def check_no_gap(offsets_mm: FloatArray, thicknesses_mm: Sequence[float | None]) -> None:
    """Raise UnreadableStudy GAP_IN_SLICES if slices are missing between sorted offsets along the normal."""
    steps = np.diff(offsets_mm)
    thickness = np.array([np.nan if one is None else one for one in thicknesses_mm])
    local = np.fmax(thickness[:-1], thickness[1:])
    usual = float(np.median(steps))
    if float(np.median(steps / local)) >= SPARSE:  # False where a thickness is unknown (NaN)
        raise refusal("GAP_IN_SLICES", gap=usual, where="everywhere", usual=float(np.median(local)))
    for index, step in enumerate(steps):
        covered = step <= UNCOVERED * local[index]  # False where the thickness is unknown (NaN)
        if not covered and _stands_out(steps, index, thickness_known=bool(np.isfinite(local[index]))):
            expected = float(local[index]) if np.isfinite(local[index]) else usual
            raise refusal("GAP_IN_SLICES", gap=float(step), where=f"{index + 1} and {index + 2}", usual=expected)


def _stands_out(steps: FloatArray, index: int, *, thickness_known: bool) -> bool:
    """A step (or, where thickness can confirm it, one of a pair of equal steps) larger than those around it.

    Also at an end, where a pair may be a protocol's: it leaves tissue unseen, and to refuse is safer than to read on.
    """
    first = last = index
    if thickness_known:
        # Two lost slices with one left between them make two large steps in a row.
        if index + 1 < len(steps) and steps[index + 1] > steps[index] / ISOLATED:
            last = index + 1
        elif index > 0 and steps[index - 1] > steps[index] / ISOLATED:
            first = index - 1
    around = [*steps[max(0, first - 1) : first], *steps[last + 1 : last + 2]]
    return bool(around) and all(steps[index] > ISOLATED * other for other in around)
