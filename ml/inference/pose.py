"""How a head lies in the scanner: its turn about the patient's long axis, from the symmetry of the skull.

Most heads lie straight within 20 degrees, which the network has seen and the search for the midline allows for. That
of somebody who lies on a side does not, nor do images whose directions were lost when they were converted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ml.inference.brain import SURROUNDED, largest_piece, surrounded
from ml.volume import FloatArray, Geometry, MaskArray, Volume

BONE_HU = 250.0
SKIN_HU = -300.0
"""Lowest HU of bone; of soft tissue, whose surface stands in where there is too little bone."""
FEWEST_POINTS = 500
MOST_COLUMNS = 128
"""Slices are thinned out to about so many rows and columns: 2 mm are fine enough for a midline."""
STRAIGHT_DEGREES = 20.0
"""Heads that are turned by no more are taken as they lie."""

_TURNS = np.arange(-90.0, 90.0, 6.0)
_MOST_POINTS = 8000
_COARSE_MM = (12.0, 6.0, 3.0)
_LEAST_SYMMETRY = 0.89
"""Of a midline. In real and simulated heads it has 0.91 to 0.97 of a perfect mirror's symmetry, any axis across it 0.65
to 0.82. A head that is cut off at one side, by the field of view or a surgeon, has 0.87 at most, and then across."""
_CLEARER = 0.05
"""By so much must a turn be more symmetric than every straight pose."""
_SIDEWAYS_DEGREES = 60.0
"""From here on it is looked which end of the midline has the face."""
_FEWEST_AIR = 50
"""Points; less of it tells nothing."""
_MEDIAL_MM = 30.0
_FAR_MM = 20.0
"""Nose, frontal and ethmoid sinuses are so near to the midline and so far from the middle of the head; cells beside the
ears are not."""
_SINUSES_ML = 1.0
_CLEARLY = 8.0
"""So many times the air at the other end: a straight head has its face in front unless all speaks against it."""


def head_turn(volume: Volume) -> float:
    """Degrees about the patient's long axis, -180 to 180, as `axes` counts them; 0 for a head that lies straight, and
    where no symmetry tells.
    """
    thinned, step = thin(volume)
    bone = thinned > BONE_HU
    points = points_lps(bone, volume.geometry, step=step)
    if len(points) < FEWEST_POINTS:
        return 0.0
    for cloud in (points, _stacked(points, bone)):  # the first is right for a tilted gantry, the second for a lean
        some = cloud[:: max(1, len(cloud) // _MOST_POINTS)]
        straight, _ = _most_symmetric(some, _TURNS[np.abs(_TURNS) <= STRAIGHT_DEGREES])
        if straight >= _LEAST_SYMMETRY:
            return 0.0
        found, best = _most_symmetric(some, _TURNS[np.abs(_TURNS) > STRAIGHT_DEGREES])
        if found >= _LEAST_SYMMETRY:
            break
    else:
        return 0.0
    if found < straight + _CLEARER:
        return 0.0
    if abs(best) >= _SIDEWAYS_DEGREES and _looks_back(thinned, volume.geometry, step, best):
        best -= np.copysign(180.0, best)
    return best


def _most_symmetric(points: FloatArray, turns: FloatArray) -> tuple[float, float]:
    """(symmetry, turn) of the best of these turns."""
    return max((symmetry(points, turn, 0.0, bins_mm=_COARSE_MM)[0], turn) for turn in turns.tolist())


def thin(volume: Volume) -> tuple[npt.NDArray[np.float32], int]:
    """Every so many rows and columns of the slices, and how many."""
    step = max(1, min(volume.hu.shape[1:]) // MOST_COLUMNS)
    return volume.hu[:, ::step, ::step], step


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


def axes(turn_degrees: float, lean_degrees: float = 0.0) -> FloatArray:
    """(3, 3): the head's directions to the left, backwards and upwards, as rows."""
    turn, lean = np.radians([turn_degrees, lean_degrees])
    about_y = np.array([[np.cos(lean), 0, np.sin(lean)], [0, 1, 0], [-np.sin(lean), 0, np.cos(lean)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return np.asarray((about_z @ about_y).T)


def symmetry(
    points: FloatArray, turn_degrees: float, lean_degrees: float, *, bins_mm: tuple[float, float, float]
) -> tuple[float, float]:
    """How like its mirror image the cloud of points is in this pose, and the place (mm) of the best mirror.

    `bins_mm`: upwards, backwards, sideways.
    """
    own = (points @ axes(turn_degrees, lean_degrees).T)[:, ::-1]
    first = own.min(axis=0)
    bins = ((own - first) / bins_mm).astype(int)
    shape = tuple(int(most) + 1 for most in bins.max(axis=0))
    counts = np.bincount(np.ravel_multi_index(tuple(bins.T), shape), minlength=int(np.prod(shape))).reshape(shape)
    cloud = ndimage.gaussian_filter(counts.astype(np.float64), 1.0)
    # Column i lies on column s - i of the mirror image for the mirror at s / 2: all s at once is a convolution.
    spectrum = np.fft.rfft(cloud, n=2 * shape[2], axis=2)
    overlap = np.fft.irfft((spectrum**2).sum(axis=(0, 1)), n=2 * shape[2])
    best = int(overlap.argmax())
    return float(overlap[best] / (cloud**2).sum()), float(first[2] + (best / 2 + 0.5) * bins_mm[2])


def _stacked(points: FloatArray, bone: MaskArray) -> FloatArray:
    """The points of every slice about their own middle."""
    counts = bone.sum(axis=(1, 2))
    slices = np.repeat(np.arange(len(bone)), counts)
    middles = [np.bincount(slices, weights=column, minlength=len(bone)) / np.maximum(counts, 1) for column in points.T]
    middles[2][:] = 0.0
    return np.asarray(points - np.stack(middles, axis=1)[slices])


def faces_back(volume: Volume) -> bool:
    """Whether a straight head has its sinuses where its directions say the back is; False where none are seen.

    Rows of NIfTI files begin at the back, and conversions keep them and write the directions of rows from the front.
    Only air in bone counts: a headrest that touches the head encloses some too.
    """
    thinned, step = thin(volume)
    head, air = _head_and_air(thinned)
    front_ml, back_ml = _ends_ml(volume.geometry, step, air, head)
    if back_ml < max(_SINUSES_ML, _CLEARLY * front_ml):
        return False
    air &= surrounded(thinned > BONE_HU) >= SURROUNDED
    front_ml, back_ml = _ends_ml(volume.geometry, step, air, head)
    return back_ml >= max(_SINUSES_ML, _CLEARLY * front_ml)


def _ends_ml(geometry: Geometry, step: int, air: MaskArray, head: MaskArray) -> tuple[float, float]:
    """mL of the air near the midline, far in front of the middle of the head and far behind it."""
    points = points_lps(air, geometry, step=step)
    if not len(points):
        return 0.0, 0.0
    place = points - points_lps(head, geometry, step=step).mean(axis=0)
    point_ml = (step**2 * geometry.voxel_volumes_ml)[np.nonzero(air)[0]]
    medial = np.abs(place[:, 0]) < _MEDIAL_MM
    front, back = medial & (place[:, 1] < -_FAR_MM), medial & (place[:, 1] > _FAR_MM)
    return float(point_ml[front].sum()), float(point_ml[back].sum())


def _head_and_air(thinned: npt.NDArray[np.float32]) -> tuple[MaskArray, MaskArray]:
    """The head in every slice, and the air within it."""
    tissue = thinned > SKIN_HU
    head = np.stack([ndimage.binary_fill_holes(largest_piece(one)) for one in tissue])
    return head, head & ~tissue


def _looks_back(thinned: npt.NDArray[np.float32], geometry: Geometry, step: int, turn_degrees: float) -> bool:
    """Whether the face is at the back of a head in this pose: most of the air within a head is in nose and sinuses."""
    head, inner = _head_and_air(thinned)
    air = points_lps(inner, geometry, step=step)
    if len(air) < _FEWEST_AIR:
        return False
    backwards = axes(turn_degrees)[1]
    return bool((air @ backwards).mean() > (points_lps(head, geometry, step=step) @ backwards).mean())
