"""The midline of the head, for saying on which side of the patient a lesion lies.

The head is seldom straight in the scanner: it is turned, shifted and leaning. The midline is therefore the plane about
which the skull is most like its own mirror image, not the middle of the picture. Left and right are the patient's, from
LPS coordinates, however rows and columns are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ml.volume import FloatArray, Geometry, MaskArray, Volume

BONE_HU = 250.0
SKIN_HU = -300.0
"""Lowest HU of bone; of soft tissue, whose surface stands in where there is too little bone."""
FEWEST_POINTS = 500
MOST_COLUMNS = 128
"""Slices are thinned out to about so many rows and columns: 2 mm are fine enough for a midline."""
BIN_MM = (4.0, 4.0, 2.0)
"""Upwards, backwards, sideways."""
LARGEST_TURN_DEGREES, LARGEST_LEAN_DEGREES = 20.0, 15.0
"""About the patient's long axis, and towards a shoulder."""


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
    step = max(1, min(volume.hu.shape[1:]) // MOST_COLUMNS)
    thinned = volume.hu[:, ::step, ::step]
    skin = thinned > SKIN_HU
    for shape in (thinned > BONE_HU, skin & ~ndimage.binary_erosion(skin, structure=np.ones((1, 3, 3)))):
        points = points_lps(shape, volume.geometry, step=step)
        if len(points) >= FEWEST_POINTS:
            return _symmetry_plane(points)
    corners = np.ones_like(volume.hu[:, :2, :2], dtype=np.bool_)
    edges = points_lps(corners, volume.geometry, step=min(volume.hu.shape[1:]) - 1)
    return Midline((1.0, 0.0, 0.0), float(edges[:, 0].mean()))


def points_lps(mask: MaskArray, geometry: Geometry, *, step: int = 1) -> FloatArray:
    """(n, 3) mm: the patient points of a (z, y, x) mask whose pixels are `step` pixels of the volume apart."""
    z, y, x = np.nonzero(mask)
    down_mm, across_mm = geometry.pixel_spacing_mm
    return np.asarray(
        geometry.positions_lps[z]
        + np.outer(x * (step * across_mm), geometry.row_lps)
        + np.outer(y * (step * down_mm), geometry.column_lps),
        dtype=np.float64,
    )


def _symmetry_plane(points: FloatArray) -> Midline:
    """By search over turn and lean, from coarse to fine; each pair is judged by its best place."""
    turn, lean = 0.0, 0.0
    for step in (4.0, 2.0, 1.0, 0.5):
        first = step == 4.0
        turns = np.arange(-LARGEST_TURN_DEGREES, LARGEST_TURN_DEGREES + 1, step) if first else turn + step * _AROUND
        turn = max(turns, key=lambda degrees: _symmetry(points, degrees, lean)[0])
        leans = np.arange(-LARGEST_LEAN_DEGREES, LARGEST_LEAN_DEGREES + 1, step) if first else lean + step * _AROUND
        lean = max(leans, key=lambda degrees: _symmetry(points, turn, degrees)[0])
    left, _, _ = _axes(turn, lean)
    return Midline((float(left[0]), float(left[1]), float(left[2])), _symmetry(points, turn, lean)[1])


_AROUND = np.array([-1.0, 0.0, 1.0])


def _axes(turn_degrees: float, lean_degrees: float) -> FloatArray:
    """(3, 3): the head's directions to the left, backwards and upwards, as rows."""
    turn, lean = np.radians([turn_degrees, lean_degrees])
    about_y = np.array([[np.cos(lean), 0, np.sin(lean)], [0, 1, 0], [-np.sin(lean), 0, np.cos(lean)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return np.asarray((about_z @ about_y).T)


def _symmetry(points: FloatArray, turn_degrees: float, lean_degrees: float) -> tuple[float, float]:
    """How like its mirror image the cloud of points is in this pose, and the place (mm) of the best mirror."""
    own = (points @ _axes(turn_degrees, lean_degrees).T)[:, ::-1]
    first = own.min(axis=0)
    bins = ((own - first) / BIN_MM).astype(int)
    shape = tuple(int(most) + 1 for most in bins.max(axis=0))
    counts = np.bincount(np.ravel_multi_index(tuple(bins.T), shape), minlength=int(np.prod(shape))).reshape(shape)
    cloud = ndimage.gaussian_filter(counts.astype(np.float64), 1.0)
    # Column i lies on column s - i of the mirror image for the mirror at s / 2: all s at once is a convolution.
    spectrum = np.fft.rfft(cloud, n=2 * shape[2], axis=2)
    overlap = np.fft.irfft((spectrum**2).sum(axis=(0, 1)), n=2 * shape[2])
    best = int(overlap.argmax())
    return float(overlap[best] / (cloud**2).sum()), float(first[2] + (best / 2 + 0.5) * BIN_MM[2])
