"""Slicing a head as a scanner does: pose, gantry tilt, thick slices, field of view, headrest."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ml.phantom.grid import Array, inside
from ml.phantom.head import Head
from ml.phantom.spec import ScannerSpec
from ml.volume import FloatArray, Geometry

SUBSLICE_MM = 1.3
VISIBLE_FRACTION = 0.35
VISIBLE_GAIN_HU = 5.0


@dataclass(frozen=True, eq=False)
class Sliced:
    """An exam before physics: mean HU of every voxel and its label, (z, y, x)."""

    hu: Array
    label: npt.NDArray[np.uint8]
    thickness_mm: FloatArray


class _Slab(NamedTuple):
    """Where the points of a slice lie in the head's grid, in its (z, y, x) index."""

    steps: FloatArray
    """(3, 3) from (mm along the normal, row, column) to the grid."""
    origin: FloatArray
    """(3,) of the first pixel."""
    offsets: FloatArray
    """mm along the normal at which the slice is sampled, evenly spaced."""
    matrix: int


def pose(scanner: ScannerSpec) -> FloatArray:
    """(3, 3) rotation from head coordinates to patient coordinates."""
    tip, roll, turn = np.radians(scanner.rotation_degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(tip), -np.sin(tip)], [0, np.sin(tip), np.cos(tip)]])
    about_y = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, dtype=np.float64)


def table_positions(scanner: ScannerSpec) -> tuple[FloatArray, FloatArray]:
    """(z,) table positions in mm from the head's origin, caudal first, and (z,) slice thickness."""
    positions: list[float] = []
    thickness: list[float] = []
    at = scanner.start_mm
    for zone in scanner.zones:
        for _ in range(zone.slices):
            positions.append(at)
            thickness.append(zone.thickness_mm)
            at += zone.step_mm
    return np.array(positions), np.array(thickness)


def plan(scanner: ScannerSpec, *, matrix: int, uids: tuple[str, ...], frame_uid: str) -> Geometry:
    """Where the slices of this scan lie; the table moves along z whatever the tilt (as on real gantries)."""
    tilt = np.radians(scanner.tilt_degrees)
    row = np.array([1.0, 0.0, 0.0])
    column = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    pixel = scanner.fov_mm / matrix
    half = 0.5 * (matrix - 1) * pixel
    tables, _ = table_positions(scanner)
    centre = np.array([*scanner.centre_offset_mm, 0.0])
    positions = np.array([centre + np.array([0.0, 0.0, at]) - half * (row + column) for at in tables])
    return Geometry(positions, row, column, (pixel, pixel), uids, frame_uid)


def _index_map(head: Head, geometry: Geometry, rotation: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(3, 3) and (3, 3): from (normal mm, row index, column index) and from patient mm to grid index (z, y, x)."""
    to_grid = rotation.T[::-1] / head.grid.spacing_mm
    pixel_y, pixel_x = geometry.pixel_spacing_mm
    steps = np.stack([geometry.normal_lps, geometry.column_lps * pixel_y, geometry.row_lps * pixel_x], axis=1)
    return np.asarray(to_grid @ steps), np.asarray(to_grid)


def slice_head(head: Head, scanner: ScannerSpec, geometry: Geometry, *, matrix: int) -> Sliced:
    """Average each slice over its thickness and mark where blood is truly seen."""
    rotation = pose(scanner)
    _, thickness = table_positions(scanner)
    steps, to_grid = _index_map(head, geometry, rotation)
    low = np.array(head.grid.low_mm[::-1]) / head.grid.spacing_mm
    count = len(thickness)
    passes = 2 if thickness.min() >= 2.5 else 1
    body = _soften(head.hu, passes)
    box = _blood_box(head)
    blood = gain = head.blood
    if box is not None:
        blood, gain = _soften(head.blood, passes), _soften(head.gain_hu, passes)
    hu = np.empty((count, matrix, matrix), dtype=np.float32)
    label = np.zeros((count, matrix, matrix), dtype=np.uint8)
    for number in range(count):
        parts = max(1, round(float(thickness[number]) / SUBSLICE_MM))
        offsets = (np.arange(parts) + 0.5) / parts * thickness[number] - thickness[number] / 2.0
        origin = to_grid @ geometry.positions_lps[number] - low
        slab = _Slab(steps, origin, offsets, matrix)
        hu[number] = _sample(body, slab, fill=-1000.0)
        if box is not None and _near(box, slab):
            label[number] = _label(head, blood, gain, box, slab)
            label[number][hu[number] < head.visible_hu] = 0
    return Sliced(hu, label, np.asarray(thickness))


def _soften(values: Array, passes: int) -> Array:
    """Average neighbours along z (1, 2, 1), so that bone that lies flat in a slice shows no steps of the lattice."""
    for _ in range(passes):
        out = values.copy()
        out[1:-1] += 0.5 * (values[:-2] + values[2:])
        out[1:-1] *= 0.5
        values = out
    return values


def _sample(values: npt.NDArray[np.float32], slab: _Slab, *, fill: float, box: FloatArray | None = None) -> Array:
    """(matrix, matrix) mean over the slab. `box`, (2, 3) lowest and highest grid index: outside it all is `fill`."""
    ends = np.array([[-1.0] * 3, values.shape]) if box is None else box
    rows, columns = _shadow(ends, slab)
    offsets = slab.offsets
    gap = float(offsets[1] - offsets[0]) if len(offsets) > 1 else 1.0
    shape = (len(offsets), rows.stop - rows.start, columns.stop - columns.start)
    image = np.full((slab.matrix, slab.matrix), np.float32(fill))
    if shape[1] and shape[2]:
        out = ndimage.affine_transform(
            values, slab.steps * np.array([gap, 1.0, 1.0]),
            offset=slab.origin + slab.steps @ np.array([offsets[0], rows.start, columns.start]),
            output_shape=shape, order=1, mode="constant", cval=fill, prefilter=False, output=np.float32,
        )  # fmt: skip
        image[rows, columns] = out.mean(axis=0)
    return image


def _shadow(ends: FloatArray, slab: _Slab) -> tuple[slice, slice]:
    """The rows and columns of a slab that can meet a box of the grid."""
    corners = np.array(list(product(*ends.T)))
    _, rows, columns = np.linalg.inv(slab.steps) @ (corners - slab.origin).T
    return _reach(rows, slab.matrix), _reach(columns, slab.matrix)


def _reach(at: FloatArray, matrix: int) -> slice:
    first = int(np.clip(np.floor(at.min()), 0, matrix))
    return slice(first, int(np.clip(np.ceil(at.max()) + 1, first, matrix)))


def _blood_box(head: Head) -> FloatArray | None:
    """(2, 3) lowest and highest grid index with blood, or None."""
    if not head.label.any():
        return None
    ends = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(head.label.any(axis=others))
        ends.append((found[0] - 2.0, found[-1] + 2.0))
    return np.array(ends).T


def _near(box: FloatArray, slab: _Slab) -> bool:
    corners = [
        slab.origin + slab.steps @ np.array([off, row, column])
        for off in (slab.offsets[0], slab.offsets[-1])
        for row in (0, slab.matrix)
        for column in (0, slab.matrix)
    ]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    return bool(np.all(low <= box[1]) and np.all(high >= box[0]))


def _label(head: Head, blood: Array, gain: Array, box: FloatArray, slab: _Slab) -> npt.NDArray[np.uint8]:
    """Label where a good part of the voxel is blood and it stands out from what would be there without."""
    fraction = _sample(blood, slab, fill=0.0, box=box)
    seen = fraction >= VISIBLE_FRACTION
    if not seen.any():
        return np.zeros(seen.shape, dtype=np.uint8)
    seen &= _sample(gain, slab, fill=0.0, box=box) >= VISIBLE_GAIN_HU
    out = np.zeros(seen.shape, dtype=np.uint8)
    rows, columns = np.nonzero(seen)
    best = np.zeros(len(rows), dtype=np.float32)
    for off in slab.offsets:
        places = np.stack([np.full(len(rows), off), rows, columns])
        index = np.rint(slab.origin[:, None] + slab.steps @ places).astype(int)
        index = np.clip(index, 0, np.array(head.hu.shape)[:, None] - 1)
        amount, kind = head.blood[tuple(index)], head.label[tuple(index)]
        better = (amount > best) & (kind > 0)
        best[better] = amount[better]
        out[rows[better], columns[better]] = kind[better]
    return out


def add_headrest(hu: Array, scanner: ScannerSpec, geometry: Geometry) -> None:
    """A cradle of plastic behind the head, or a flat table top; in place."""
    if scanner.headrest == "none":
        return
    matrix = hu.shape[1]
    pixel = geometry.pixel_spacing_mm[0]
    axis = (np.arange(matrix) - 0.5 * (matrix - 1)) * pixel
    x = (axis + scanner.centre_offset_mm[0]).reshape(1, -1)
    y = (axis + scanner.centre_offset_mm[1]).reshape(-1, 1)
    rng = np.random.default_rng([scanner.seed, 9])
    if scanner.headrest == "cradle":
        radius = np.sqrt((x / 1.06) ** 2 + (y - rng.uniform(-4, 6)) ** 2) - rng.uniform(108.0, 118.0)
        wall, where = inside(np.abs(radius).astype(np.float32) - 1.5, pixel), y > rng.uniform(0.0, 30.0)
    else:
        wall = inside(np.abs(y - rng.uniform(112.0, 122.0) + 0.0 * x).astype(np.float32) - 2.0, pixel)
        where = np.abs(x) < 110.0
    value = rng.uniform(40.0, 250.0)
    hu += (wall * where)[None] * (value + 1000.0) * (hu < -800)
