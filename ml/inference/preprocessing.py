"""A volume to the network's images and its answer back to the grid of the source.

Array axes: z, y, x of the source grid; v, u rows and columns of the network's square images. Resampling is
separable and linear, so a slice is `rows @ slice @ columns.T` with two small matrices, the same in both directions.
Slices stay in the pixel frame of the gantry: a tilted scan is not sheared straight, its head stays centred. A head that
lies on a side is turned upright within the network's images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ml.config import Preprocessing
from ml.inference.brain import extract_brain
from ml.inference.head_size import as_adult
from ml.inference.pose import STRAIGHT_DEGREES, axes, faces_back, head_turn
from ml.inference.thickness import overlapping_mm
from ml.volume import FloatArray, Geometry, HuArray, MaskArray, Volume

AIR_HU = -1000.0
BONE_HU = 300.0
HEAD_CENTRE_PERCENTILES = (2.0, 98.0)
"""Of bone pixels along each axis: their middle is the middle of the skull, deaf to a headrest's few bright pixels."""
LEAST_SAMPLING_MM = 2.0
"""Slices nearer than this to the last analysed one are interpolated: slabs of 5 mm hardly differ over it."""
ROUNDING_MM = 0.01
"""Distances that differ by less are one: positions are decimals, and their differences are seldom whole."""
THIN = 2.0 / 3.0

F32Array = npt.NDArray[np.float32]
Positions = npt.NDArray[np.floating]
IndexArray = npt.NDArray[np.intp]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Orientation:
    """Flips (and an exchange of y and x) that put right of the patient left in the image, front up, feet first."""

    transpose: bool
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, geometry: Geometry) -> Orientation:
        """For slices within 45 degrees of axial, supine or prone, head or feet first."""
        transpose = bool(abs(geometry.row_lps[0]) < abs(geometry.column_lps[0]))
        down, right = _down_and_right(geometry, transpose=transpose)
        return cls(transpose, (bool(geometry.normal_lps[2] < 0), bool(down[1] < 0), bool(right[0] < 0)))

    def directions_lps(self, geometry: Geometry) -> FloatArray:
        """(2, 3) unit vectors of increasing y and x in standard orientation."""
        signs = np.where(self.flips[1:], -1.0, 1.0)
        return np.asarray(signs[:, None] * _down_and_right(geometry, transpose=self.transpose))

    @property
    def _reversal(self) -> tuple[slice, slice, slice]:
        z, y, x = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return z, y, x

    def apply(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Source (z, y, x) to standard orientation (a view)."""
        turned = array.transpose(0, 2, 1) if self.transpose else array
        return turned[self._reversal]

    def undo(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Standard orientation back to source (a view)."""
        turned = array[self._reversal]
        return turned.transpose(0, 2, 1) if self.transpose else turned


@dataclass(frozen=True, eq=False)
class Sampling:
    """Which slices of a stack are analysed and how their answers spread over all of it."""

    analysed: IndexArray
    """(n,) indices into the stack."""
    slabs: F32Array
    """(z, z) rows of averaging weights."""
    neighbours: IndexArray
    """(n, 3) indices into the stack: below, itself, above."""
    spread: F32Array
    """(z, n) linear interpolation between analysed slices."""


@dataclass(frozen=True, eq=False)
class View:
    """The network's square view of slices in standard orientation, and the way back."""

    rows: F32Array
    """(v, y) resampling matrix, source to network; `columns` likewise (u, x)."""
    columns: F32Array
    back_rows: F32Array
    """(y, v) network to source; `back_columns` likewise (x, u)."""
    back_columns: F32Array
    upright: F32Array | None
    """(2, 2) rotation from (v, u) of the network's images to the head as it lies; None: it lies straight."""

    def show(self, slices_nyx: npt.NDArray[np.floating], *, outside: float = 0.0) -> F32Array:
        """(n, v, u) of (n, y, x); `outside`: what lies beyond the source."""
        seen = np.stack([self.rows @ (one - outside) @ self.columns.T for one in slices_nyx])
        return np.asarray((seen if self.upright is None else _turned(seen, self.upright)) + outside)

    def undo(self, images_nvu: F32Array) -> F32Array:
        """(n, y, x) of (n, v, u); outside the network's view it is 0."""
        seen = images_nvu if self.upright is None else _turned(images_nvu, self.upright.T)
        undone = np.empty((len(seen), len(self.back_rows), len(self.back_columns)), dtype=np.float32)
        for place, one in zip(undone, seen, strict=True):
            np.matmul(self.back_rows @ one, self.back_columns.T, out=place)
        return undone


@dataclass(frozen=True, eq=False)
class Prepared:
    """An exam on the network's grid."""

    hu_zvu: HuArray
    orientation: Orientation
    sampling: Sampling
    view: View
    config: Preprocessing
    geometry: Geometry
    """Of the source, in the mm that the network sees: those of an adult's head, if the configuration says so."""

    def __len__(self) -> int:
        """Number of images to analyse."""
        return len(self.sampling.analysed)

    def images(self, first: int, last: int) -> F32Array:
        """(N, C, v, u) network input for analysed slices `first` to `last` (exclusive)."""
        return to_channels(self.hu_zvu[self.sampling.neighbours[first:last]], self.config)

    def brain(self) -> MaskArray:
        """(n, v, u) the inside of the skull in the analysed slices; all False where the brain alone was kept."""
        pixel_mm = self.config.pixel_mm
        return extract_brain(self.hu_zvu[self.sampling.analysed], (pixel_mm, pixel_mm))

    def to_source(self, prob_nvu: F32Array) -> F32Array:
        """(n, v, u) of the analysed slices -> (z, y, x) of the source; outside the network's view it is 0."""
        oriented = self.view.undo(self.spread_slices(prob_nvu))
        return np.ascontiguousarray(self.orientation.undo(np.clip(oriented, 0.0, 1.0, out=oriented)))

    def spread_slices(self, values: F32Array) -> F32Array:
        """(n, ...) of the analysed slices -> (z, ...) of all, still in standard orientation."""
        if len(self.sampling.analysed) == len(self.sampling.spread):
            return values
        flat = self.sampling.spread @ values.reshape(len(values), -1)
        return np.asarray(flat.reshape(-1, *values.shape[1:]), dtype=np.float32)


def prepare(volume: Volume, config: Preprocessing) -> Prepared:
    """Orient, find the head, keep the brain alone if asked to, resample with anti-aliasing, average thin slices."""
    if config.adult_size:
        volume = as_adult(volume)
    orientation = Orientation.of(volume.geometry)
    hu = orientation.apply(volume.hu)
    spacing_y, spacing_x = volume.geometry.pixel_spacing_mm
    if orientation.transpose:
        spacing_y, spacing_x = spacing_x, spacing_y
    offsets = volume.geometry.offsets_mm
    if orientation.flips[0]:
        offsets = -offsets[::-1]
    centre_y, centre_x = head_centre(hu)
    view = View(
        rows=resampling(hu.shape[1], spacing_y, centre_y, config),
        columns=resampling(hu.shape[2], spacing_x, centre_x, config),
        back_rows=resampling_back(hu.shape[1], spacing_y, centre_y, config),
        back_columns=resampling_back(hu.shape[2], spacing_x, centre_x, config),
        upright=_upright(volume, orientation),
    )
    if config.brain_only:
        hu = np.where(extract_brain(hu, (spacing_y, spacing_x)), hu, np.float32(AIR_HU))
    small = view.show(hu, outside=AIR_HU)
    thin = _heights(offsets).min(initial=np.inf) < THIN * config.slab_mm
    sampling = sample(offsets, config, overlapping_mm(small, offsets, config.pixel_mm, config.slab_mm) if thin else 0.0)
    return Prepared(
        hu_zvu=small if np.array_equal(sampling.slabs, np.eye(len(small))) else _mix(sampling.slabs, small),
        orientation=orientation,
        sampling=sampling,
        view=view,
        config=config,
        geometry=volume.geometry,
    )


def to_channels(hu_n3vu: HuArray, config: Preprocessing) -> F32Array:
    """(N, 3, v, u) HU of below, itself, above -> (N, C, v, u): windows outermost, values in -1 to 1."""
    channels = [
        (np.clip(hu_n3vu, window.low_hu, window.high_hu) - window.low_hu) * (2 / (window.high_hu - window.low_hu)) - 1
        for window in config.windows
    ]
    return np.concatenate(channels, axis=1, dtype=np.float32)


def head_centre(hu: HuArray) -> tuple[float, float]:
    """(y, x) index of the middle of the skull over all slices; the middle of the image where there is no bone."""
    step = 4
    coarse = hu[:, ::step, ::step] > BONE_HU
    centre = []
    for axis in (1, 2):
        counts = coarse.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.int64)
        if counts.sum() == 0:
            centre.append((hu.shape[axis] - 1) / 2)
            continue
        share = np.cumsum(counts) / counts.sum()
        low, high = (np.searchsorted(share, percentile / 100) for percentile in HEAD_CENTRE_PERCENTILES)
        centre.append(float(low + high) / 2 * step)
    return centre[0], centre[1]


def resampling(count: int, spacing_mm: float, centre: float, config: Preprocessing) -> F32Array:
    """(size, count) weights from source pixels to network pixels along one axis.

    A triangle as wide as the coarser grid: shrinking averages (no aliasing), enlarging interpolates. Outside the
    source the weights sum to less than 1.
    """
    source_mm = (np.arange(count) - centre) * spacing_mm
    return _triangle(_network_mm(config), source_mm, config.pixel_mm, spacing_mm)


def resampling_back(count: int, spacing_mm: float, centre: float, config: Preprocessing) -> F32Array:
    """(count, size) weights from network pixels to source pixels along one axis."""
    source_mm = (np.arange(count) - centre) * spacing_mm
    return _triangle(source_mm, _network_mm(config), spacing_mm, config.pixel_mm)


def sample(offsets_mm: Positions, config: Preprocessing, overlap_mm: float = 0.0) -> Sampling:
    """Slabs, neighbours and the analysed slices of a sorted stack, from positions along the normal.

    Slices that are thicker than their distance by `overlap_mm` reach so much further than what lies between them.
    """
    width_mm = config.slab_mm - overlap_mm
    count = len(offsets_mm)
    heights = _heights(offsets_mm)
    slabs = np.eye(count, dtype=np.float32)
    for z in np.flatnonzero(heights < min(THIN * config.slab_mm, width_mm)).tolist():
        low = np.maximum(offsets_mm - heights / 2, offsets_mm[z] - width_mm / 2)
        high = np.minimum(offsets_mm + heights / 2, offsets_mm[z] + width_mm / 2)
        overlap = np.clip(high - low, 0, None)
        slabs[z] = overlap / overlap.sum()
    analysed = [0]
    for z in range(1, count):
        if offsets_mm[z] - offsets_mm[analysed[-1]] > LEAST_SAMPLING_MM - ROUNDING_MM or z == count - 1:
            analysed.append(z)
    chosen = np.array(analysed)
    spread = np.stack([np.interp(offsets_mm, offsets_mm[chosen], row) for row in np.eye(len(chosen))], axis=1)
    neighbours = np.array(
        [[_neighbour(offsets_mm, z, side * config.neighbour_mm) for side in (-1, 0, 1)] for z in chosen]
    )
    return Sampling(chosen, slabs, neighbours, spread.astype(np.float32))


def _heights(offsets_mm: Positions) -> Positions:
    """(z,) mm of the stack that each slice stands for."""
    steps = np.diff(offsets_mm)
    return np.asarray((np.concatenate([steps[:1], steps]) + np.concatenate([steps, steps[-1:]])) / 2)


def _neighbour(offsets_mm: Positions, z: int, distance_mm: float) -> int:
    """The other slice on that side nearest to the distance; the slice itself at the end of the stack."""
    if distance_mm == 0:
        return z
    side = np.arange(z) if distance_mm < 0 else np.arange(z + 1, len(offsets_mm))
    if not side.size:
        return z
    off_mm = np.abs(offsets_mm[side] - offsets_mm[z] - distance_mm)
    return int(side[np.argmin(np.rint(off_mm / ROUNDING_MM))])


def _down_and_right(geometry: Geometry, *, transpose: bool) -> FloatArray:
    """(2, 3): how the two axes of a slice run, the one from front to back (or back to front) first."""
    axes_lps = (geometry.row_lps, geometry.column_lps) if transpose else (geometry.column_lps, geometry.row_lps)
    return np.array(axes_lps)


def _upright(volume: Volume, orientation: Orientation) -> F32Array | None:
    """See View: turns a head by more than the network has seen in training (`ml.training.augmentation`)."""
    turn = head_turn(volume)
    _, backwards, _ = axes(180.0 if turn == 0.0 and faces_back(volume) else turn)
    down, right = orientation.directions_lps(volume.geometry) @ backwards
    angle = np.arctan2(right, down)
    if abs(np.degrees(angle)) <= STRAIGHT_DEGREES:
        return None
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]], dtype=np.float32)


def _turned(images_nvu: F32Array, rotation: F32Array) -> F32Array:
    """Images about their middle: (v, u) shows what lay at `rotation` (v, u)."""
    middle = (np.array(images_nvu.shape[1:]) - 1) / 2
    offset = middle - rotation @ middle
    return np.stack([ndimage.affine_transform(one, rotation, offset, order=1) for one in images_nvu])


def _network_mm(config: Preprocessing) -> Positions:
    return (np.arange(config.size) - (config.size - 1) / 2) * config.pixel_mm


def _triangle(to_mm: Positions, from_mm: Positions, to_spacing_mm: float, from_spacing_mm: float) -> F32Array:
    """(to, from) weights; a row sums to 1 but where part of its triangle lies outside the source."""
    width = max(to_spacing_mm, from_spacing_mm)
    beyond = np.arange(1, int(np.ceil(width / from_spacing_mm)) + 1) * from_spacing_mm
    endless = np.concatenate([from_mm[0] - beyond[::-1], from_mm, from_mm[-1] + beyond])
    weights = np.clip(1 - np.abs(to_mm[:, None] - endless[None, :]) / width, 0, None)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    return np.asarray(weights[:, len(beyond) : -len(beyond)], dtype=np.float32)


def _mix(weights: F32Array, stack: HuArray) -> HuArray:
    """(z, z) weights over a (z, v, u) stack."""
    return np.asarray((weights @ stack.reshape(len(stack), -1)).reshape(stack.shape), dtype=np.float32)
