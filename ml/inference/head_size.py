"""The size of a head, so that a child's can be shown to the network as large as those it knows.

A network that has learned adults' heads looks for bleeds of their size in gyri of theirs. A newborn's head is three
fifths as wide; enlarged, its bleeds are found about as well as an adult's (docs/training.md).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ml.volume import Volume

COARSE_MM = 2.0
BONE_HU = 300.0
FEWEST_POINTS = 30
ADULT_MM = 56.0
"""How far bone spreads in the widest slice. Of 456 simulated adults one has 48.8 and the others 50.8 to 66; three real
ones have 51 (cut off) to 59."""
SMALL_MM = 48.0
"""A head with less is a child's: of 86 % of an adult's size, which is that of a child of nearly two years."""
SMALLEST = 0.55
"""Of an adult's size: no head of a human that is scanned is smaller."""
LEAST_COVERAGE_MM = 55.0
"""Less of a head may not have its widest slice: it is taken as it is."""


def head_size(volume: Volume) -> float:
    """Of an adult's, from SMALLEST to below 1; 1 for every head that is not clearly smaller.

    By the spread of bone, which is the same however a head is turned: the fourth root of the determinant of the
    covariance of its pixels' places.
    """
    geometry = volume.geometry
    if geometry.offsets_mm[-1] - geometry.offsets_mm[0] < LEAST_COVERAGE_MM:
        return 1.0
    steps = [max(1, round(COARSE_MM / mm)) for mm in geometry.pixel_spacing_mm]
    spread_mm = 0.0
    for hu in volume.hu[:: max(1, len(volume.hu) // 48)]:
        bone = hu > BONE_HU
        for axis, step in enumerate(steps):  # of all pixels: a thin skull lies between every n-th one
            bone = np.logical_or.reduceat(bone, range(0, bone.shape[axis], step), axis=axis)
        places = np.argwhere(bone)
        if len(places) >= FEWEST_POINTS:
            mm = places * (np.array(steps) * geometry.pixel_spacing_mm)
            spread_mm = max(spread_mm, float(max(0.0, np.linalg.det(np.cov(mm.T)))) ** 0.25)
    if not 0.0 < spread_mm < SMALL_MM:
        return 1.0
    return max(SMALLEST, spread_mm / ADULT_MM)


def as_adult(volume: Volume) -> Volume:
    """The same voxels as those of a head of an adult's size: mm are larger by as much as the head is smaller."""
    size = head_size(volume)
    if size == 1.0:
        return volume
    geometry = volume.geometry
    down_mm, across_mm = geometry.pixel_spacing_mm
    larger = replace(
        geometry, positions_lps=geometry.positions_lps / size, pixel_spacing_mm=(down_mm / size, across_mm / size)
    )
    return Volume(volume.hu, larger)
