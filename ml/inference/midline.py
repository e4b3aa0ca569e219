"""The midline of the head, for saying on which side of the patient a lesion lies.

The head is seldom straight in the scanner: it is turned, shifted and leaning. The midline is therefore the plane about
which the skull is most like its own mirror image, not the middle of the picture. Left and right are the patient's, from
LPS coordinates, however rows and columns are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ml.inference.pose import (
    BONE_HU,
    FEWEST_POINTS,
    SKIN_HU,
    STRAIGHT_DEGREES,
    axes,
    head_turn,
    points_lps,
    symmetry,
    thin,
)
from ml.volume import FloatArray, Volume

BINS_MM = (4.0, 4.0, 2.0)
"""Upwards, backwards, sideways."""
LARGEST_LEAN_DEGREES = 15.0
"""Towards a shoulder."""


@dataclass(frozen=True)
class Midline:
    """A plane: `left_lps` is its unit normal towards the patient's left, `offset_mm` its place along that."""

    left_lps: tuple[float, float, float]
    offset_mm: float

    def leftwards_mm(self, points_lps: FloatArray) -> FloatArray:
        """(n,) mm to the left of the plane of (n, 3) patient points; negative on the right."""
        return np.asarray(points_lps @ np.array(self.left_lps) - self.offset_mm, dtype=np.float64)


def find_midline(volume: Volume) -> Midline:
    """The plane of symmetry of the skull; straight through the middle of the picture where there is no head at all."""
    thinned, step = thin(volume)
    skin = thinned > SKIN_HU
    for shape in (thinned > BONE_HU, skin & ~ndimage.binary_erosion(skin, structure=np.ones((1, 3, 3)))):
        points = points_lps(shape, volume.geometry, step=step)
        if len(points) >= FEWEST_POINTS:
            return _symmetry_plane(points, head_turn(volume))
    slices, height, width = volume.hu.shape
    middles = [volume.geometry.to_lps(z, (height - 1) / 2, (width - 1) / 2) for z in range(slices)]
    return Midline((1.0, 0.0, 0.0), float(np.mean(middles, axis=0)[0]))


def _symmetry_plane(points: FloatArray, turn: float) -> Midline:
    """By search over turn, around this one, and lean, from coarse to fine; each pair is judged by its best place.

    The coarse search is made twice: the turn of a leaning head is not seen before its lean is known.
    """
    lean, around = 0.0, turn + np.arange(-STRAIGHT_DEGREES, STRAIGHT_DEGREES + 1, 4.0)
    for step in (4.0, 4.0, 2.0, 1.0, 0.5):
        coarse = step == 4.0
        turns = around if coarse else turn + step * _AROUND
        turn = max(turns, key=lambda degrees: _likeness(points, degrees, lean))
        leans = np.arange(-LARGEST_LEAN_DEGREES, LARGEST_LEAN_DEGREES + 1, step) if coarse else lean + step * _AROUND
        lean = max(leans, key=lambda degrees: _likeness(points, turn, degrees))
    left, _, _ = axes(turn, lean)
    _, offset_mm = symmetry(points, turn, lean, bins_mm=BINS_MM)
    return Midline((float(left[0]), float(left[1]), float(left[2])), offset_mm)


_AROUND = np.array([-1.0, 0.0, 1.0])


def _likeness(points: FloatArray, turn: float, lean: float) -> float:
    return symmetry(points, turn, lean, bins_mm=BINS_MM)[0]
