"""A mask to lesions: 26-connected components with the measures that a report states."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ml.prediction import Lesion
from ml.volume import FloatArray, Geometry, MaskArray, Volume

TOUCHING = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a face, an edge or a corner are one lesion."""


def find_lesions(mask: MaskArray, volume: Volume, *, min_volume_ml: float = 0.0) -> tuple[Lesion, ...]:
    """Components of a (z, y, x) mask of at least `min_volume_ml`, largest first, ties by position (z, y, x)."""
    labels, volumes_ml = components(mask, volume.geometry)
    boxes = ndimage.find_objects(labels)
    order = sorted(
        (label for label in range(1, len(volumes_ml) + 1) if volumes_ml[label - 1] >= min_volume_ml),
        key=lambda label: (-volumes_ml[label - 1], *(part.start for part in boxes[label - 1])),
    )
    return tuple(
        _lesion(number, labels == label, boxes[label - 1], volume) for number, label in enumerate(order, start=1)
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
    """Largest distance between pixel centres within one slice of a (z, y, x) mask, mm."""
    return max((_diameter_mm(one, pixel_spacing_mm) for one in mask if one.any()), default=0.0)


def _lesion(number: int, mask: MaskArray, box: tuple[slice, slice, slice], volume: Volume) -> Lesion:
    crop = mask[box]
    areas = crop.sum(axis=(1, 2))
    return Lesion(
        number=number,
        mask=mask,
        volume_ml=volume.volume_ml(mask),
        mean_hu=float(volume.hu[box][crop].mean(dtype=np.float64)),
        key_slice=int(box[0].start + np.argmax(areas)),
        longest_axial_diameter_mm=longest_axial_diameter_mm(crop, volume.geometry.pixel_spacing_mm),
    )


def _diameter_mm(slice_mask: MaskArray, pixel_spacing_mm: tuple[float, float]) -> float:
    """The farthest pair lies among the first and last pixels of the rows."""
    rows = np.flatnonzero(slice_mask.any(axis=1))
    first = slice_mask[rows].argmax(axis=1)
    last = slice_mask.shape[1] - 1 - slice_mask[rows, ::-1].argmax(axis=1)
    points = np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)]) * pixel_spacing_mm
    squares = np.sum((points[:, None] - points[None]) ** 2, axis=-1)
    return float(np.sqrt(squares.max()))
