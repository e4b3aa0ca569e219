"""How thick slices are, told from their noise: it is alike as far as they overlap, or were interpolated.

Neither the distance of slices nor their headers tell: a scanner reconstructs 5 mm every 2.5 mm, conversions resample
slices of 5 mm to 1 mm. Noise of slices that only touch is independent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ml.volume import HuArray

SOFT_HU = (0.0, 80.0)
GRAIN_MM = 1.4
"""Sigma of the mean that is taken off: what is left of soft tissue is noise and little anatomy."""
EDGE_PX = 5
MOST_SLICES = 40
"""From the middle of the stack, where the brain is."""
FEWEST_PIXELS = 1000
ALIKE = 0.5
"""Slices that touch have a correlation of 0.1 to 0.3, which is anatomy; overlapping by a half they have this one."""


def overlapping_mm(hu_zvu: HuArray, offsets_mm: npt.NDArray[np.floating], pixel_mm: float, most_mm: float) -> float:
    """By how much slices are thicker than their distance; 0 where they only touch, and where nothing tells.

    Noise of slices of one thickness is half alike at half of that. It is looked for as far as `most_mm`.
    """
    first = max(0, (len(hu_zvu) - MOST_SLICES) // 2)
    some, offsets = hu_zvu[first : first + MOST_SLICES], offsets_mm[first : first + MOST_SLICES]
    inside = ndimage.binary_erosion((some > SOFT_HU[0]) & (some < SOFT_HU[1]), np.ones((1, EDGE_PX, EDGE_PX)))
    grain = some - ndimage.gaussian_filter(some, (0, GRAIN_MM / pixel_mm, GRAIN_MM / pixel_mm))
    near_mm, near, step_mm = 0.0, 1.0, 0.0
    for lag in range(1, len(some)):
        both = inside[:-lag] & inside[lag:]
        if np.count_nonzero(both) < FEWEST_PIXELS:
            return 0.0
        far_mm = float(np.median(offsets[lag:] - offsets[:-lag]))
        step_mm = step_mm or far_mm
        far = float(np.corrcoef(grain[:-lag][both], grain[lag:][both])[0, 1])
        if far < ALIKE:
            half_mm = near_mm + (near - ALIKE) / (near - far) * (far_mm - near_mm)
            return 0.0 if lag == 1 else 2 * half_mm - step_mm
        if far_mm >= most_mm / 2:
            return 2 * far_mm - step_mm
        near_mm, near = far_mm, far
    return 0.0
