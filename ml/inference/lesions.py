"""A mask to lesions: 26-connected components with the measures that a report states."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull

from ml.inference.midline import Midline, find_midline
from ml.inference.pose import points_lps
from ml.prediction import Lesion, Region, Side
from ml.volume import FloatArray, Geometry, MaskArray, Volume

TOUCHING = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a face, an edge or a corner are one lesion."""
KEY_SLICES = 3
"""How many slices a lesion is shown on."""
NEARLY_ALL = 0.8
"""The part of a lesion that must lie on one side of the midline to call it a lesion of that side."""


def find_lesions(mask: MaskArray, volume: Volume, *, min_volume_ml: float = 0.0) -> tuple[Lesion, ...]:
    """Components of a (z, y, x) mask of at least `min_volume_ml`, largest first, ties by position (z, y, x)."""
    labels, volumes_ml = components(mask, volume.geometry)
    boxes = ndimage.find_objects(labels)
    order = sorted(
        (label for label in range(1, len(volumes_ml) + 1) if volumes_ml[label - 1] >= min_volume_ml),
        key=lambda label: (-volumes_ml[label - 1], *(part.start for part in boxes[label - 1])),
    )
    if not order:
        return ()
    midline = find_midline(volume)
    return tuple(
        _lesion(number, Region(mask.shape, boxes[label - 1], labels[boxes[label - 1]] == label), volume, midline)
        for number, label in enumerate(order, start=1)
    )


def without_islands(mask: MaskArray, geometry: Geometry, *, min_volume_ml: float) -> MaskArray:
    """The mask without components under `min_volume_ml`."""
    labels, volumes_ml = components(mask, geometry)
    keep = np.concatenate([[False], volumes_ml >= min_volume_ml])
    return np.asarray(keep[labels], dtype=np.bool_)


def components(mask: MaskArray, geometry: Geometry) -> tuple[npt.NDArray[np.int32], FloatArray]:
    """Labels (z, y, x) from 1, and the volume in mL of each label, slices with their true heights."""
    labels, count = ndimage.label(mask, structure=TOUCHING)
    if count == 0:
        return labels, np.zeros(0)
    per_slice = np.stack([np.bincount(one.ravel(), minlength=count + 1)[1:] for one in labels])
    return labels, np.asarray(geometry.voxel_volumes_ml @ per_slice, dtype=np.float64)


def longest_axial_diameter_mm(mask: MaskArray, pixel_spacing_mm: tuple[float, float]) -> float:
    """Largest distance within one slice of a (z, y, x) mask, from edge to edge, mm."""
    return max((_longest(_outline_mm(one, pixel_spacing_mm))[0] for one in mask if one.any()), default=0.0)


def abc2_ml(mask: MaskArray, geometry: Geometry) -> float:
    """A x B x C / 2 of a (z, y, x) mask, mL (Kothari et al., Stroke 1996; 27: 1304).

    A is the longest diameter on the slice with the largest area, B the largest width at right angles to it on that
    slice. C adds up slice heights: whole where the area is more than 75 % of the largest, half from 25 to 75 %, not at
    all below.
    """
    areas = mask.sum(axis=(1, 2))
    outline = _outline_mm(mask[int(areas.argmax())], geometry.pixel_spacing_mm)
    longest_mm, direction = _longest(outline)
    widths_mm = outline @ np.array([-direction[1], direction[0]])
    shares = areas / areas.max()
    counted = np.where(shares > 0.75, 1.0, np.where(shares >= 0.25, 0.5, 0.0))
    return float(longest_mm * np.ptp(widths_mm) * (counted @ geometry.slice_heights_mm) / 2 / 1000)


def side_of(mask: MaskArray, geometry: Geometry, midline: Midline) -> Side:
    """LEFT or RIGHT where nearly all of a (z, y, x) mask lies there, else MIDLINE."""
    weights = np.repeat(geometry.voxel_volumes_ml, mask.sum(axis=(1, 2)))
    left = midline.leftwards_mm(points_lps(mask, geometry)) > 0
    for side, there in ((Side.LEFT, left), (Side.RIGHT, ~left)):
        if round(float(weights[there].sum() / weights.sum()), 6) >= NEARLY_ALL:  # four of five voxels are four fifths
            return side
    return Side.MIDLINE


def _lesion(number: int, region: Region, volume: Volume, midline: Midline) -> Lesion:
    mask, geometry = region.mask, volume.geometry
    areas = region.inside.sum(axis=(1, 2))
    by_area = np.argsort(-areas, kind="stable")[:KEY_SLICES]
    return Lesion(
        number=number,
        region=region,
        volume_ml=volume.volume_ml(mask),
        mean_hu=float(volume.hu[region.box][region.inside].mean(dtype=np.float64)),
        key_slices=tuple(int(region.box[0].start + z) for z in by_area),
        longest_axial_diameter_mm=longest_axial_diameter_mm(region.inside, geometry.pixel_spacing_mm),
        abc2_ml=abc2_ml(mask, geometry),
        side=side_of(mask, geometry, midline),
    )


def _outline_mm(slice_mask: MaskArray, pixel_spacing_mm: tuple[float, float]) -> FloatArray:
    """(n, 2) mm as (y, x): the middles of the outer edges of the first and last pixel of each row.

    The farthest pair of all edges is among them, and a row of n pixels is n pixels long.
    """
    rows = np.flatnonzero(slice_mask.any(axis=1))
    first = slice_mask[rows].argmax(axis=1)
    last = slice_mask.shape[1] - 1 - slice_mask[rows, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)])
    edges = np.array([[0, -0.5], [0, 0.5], [-0.5, 0], [0.5, 0]])
    return np.asarray((ends[:, None] + edges[None]).reshape(-1, 2) * pixel_spacing_mm, dtype=np.float64)


def _longest(outline_mm: FloatArray) -> tuple[float, FloatArray]:
    """The largest distance between two points, mm, and its direction (y, x)."""
    corners = outline_mm[np.sort(ConvexHull(outline_mm).vertices)]  # thousands of points would take gigabytes
    between = corners[:, None] - corners[None]
    squares = np.sum(between**2, axis=-1)
    one, other = np.unravel_index(squares.argmax(), squares.shape)
    length = float(np.sqrt(squares[one, other]))
    return length, np.asarray(between[one, other] / length, dtype=np.float64)
