"""The lattice on which a head is built, smooth random fields on it, and soft shapes painted into it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ml.phantom.spec import Point

Array = npt.NDArray[np.float32]
AnyFloat = npt.NDArray[np.floating]
"""Intermediate results may be float64; what is kept is float32."""


@dataclass(frozen=True, eq=False)
class HeadGrid:
    """Isotropic lattice in head coordinates; arrays on it are (z, y, x)."""

    spacing_mm: float
    low_mm: Point
    """(x, y, z) of the first voxel's centre."""
    shape: tuple[int, int, int]
    """(z, y, x)."""

    @staticmethod
    def spanning(low_mm: Point, high_mm: Point, *, spacing_mm: float) -> HeadGrid:
        """The lattice that covers the box from `low_mm` to `high_mm` (x, y, z)."""
        counts = [int(np.ceil((high - low) / spacing_mm)) + 1 for low, high in zip(low_mm, high_mm, strict=True)]
        return HeadGrid(spacing_mm, low_mm, (counts[2], counts[1], counts[0]))

    def scaled(self, size: float) -> HeadGrid:
        """The same lattice over a head that is `size` times as large."""
        x, y, z = self.low_mm
        return HeadGrid(self.spacing_mm * size, (x * size, y * size, z * size), self.shape)

    @cached_property
    def x(self) -> Array:
        """(1, 1, x) mm."""
        return self._axis(0, self.shape[2]).reshape(1, 1, -1)

    @cached_property
    def y(self) -> Array:
        """(1, y, 1) mm."""
        return self._axis(1, self.shape[1]).reshape(1, -1, 1)

    @cached_property
    def z(self) -> Array:
        """(z, 1, 1) mm."""
        return self._axis(2, self.shape[0]).reshape(-1, 1, 1)

    def _axis(self, axis: int, count: int) -> Array:
        return (self.low_mm[axis] + self.spacing_mm * np.arange(count)).astype(np.float32)

    def box(self, centre: Point, reach_mm: Point) -> tuple[slice, slice, slice]:
        """Slices (z, y, x) of the part within `reach_mm` (x, y, z) of a point; may be empty."""
        parts = []
        for axis, count in ((2, self.shape[0]), (1, self.shape[1]), (0, self.shape[2])):
            first = (centre[axis] - reach_mm[axis] - self.low_mm[axis]) / self.spacing_mm
            last = (centre[axis] + reach_mm[axis] - self.low_mm[axis]) / self.spacing_mm
            parts.append(slice(min(count, max(0, int(first))), min(count, max(0, int(last) + 2))))
        return parts[0], parts[1], parts[2]

    def part(self, box: tuple[slice, slice, slice]) -> tuple[Array, Array, Array]:
        """(x, y, z) of a box, each broadcastable to it."""
        return self.x[:, :, box[2]], self.y[:, box[1], :], self.z[box[0]]


def _spline_weights(positions: Array, knots: int) -> Array:
    """(n, knots) cubic B-spline weights of positions given in units of the knot distance, knot 0 at -1."""
    distance = np.abs(positions[:, None] + 1.0 - np.arange(knots, dtype=np.float32)[None, :])
    near = 2.0 / 3.0 - distance**2 + distance**3 / 2.0
    far = np.clip(2.0 - distance, 0.0, None) ** 3 / 6.0
    return np.asarray(np.where(distance < 1.0, near, far), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, axes: tuple[Array, ...], *, scale_mm: float) -> Array:
    """Gaussian random field of unit SD with features about `scale_mm` wide, on an open grid of 1-D axes.

    Cubic B-splines on a random lattice `scale_mm` / 2 apart, one matrix product per axis.
    """
    knots = []
    weights = []
    for axis in axes:
        flat = axis.ravel()
        positions = (flat - flat[0]) / np.float32(scale_mm / 2.0)
        count = int(np.ceil(positions[-1])) + 4
        shifted = positions + np.float32(rng.random())
        knots.append(count)
        weights.append(_spline_weights(shifted, count))
    field = rng.standard_normal(tuple(knots), dtype=np.float32)
    norm = 1.0
    for number, weight in enumerate(weights):
        field = np.moveaxis(np.tensordot(weight, field, axes=(1, number)), 0, number)
        norm *= float(np.mean(np.sum(weight.astype(np.float64) ** 2, axis=1)))
    return np.ascontiguousarray(field / np.float32(np.sqrt(norm)), dtype=np.float32)


class PointNoise:
    """A smooth random field of unit SD that is read at scattered points (x, y, z) in mm.

    It covers the box of the points it is made for and keeps its border value outside.
    """

    def __init__(self, rng: np.random.Generator, x: Array, y: Array, z: Array, *, scale_mm: float) -> None:
        self.step = scale_mm / 4.0
        axes = []
        for points in (z, y, x):
            low, high = (float(points.min()), float(points.max())) if points.size else (0.0, 1.0)
            axes.append(np.arange(low, high + 2 * self.step, self.step, dtype=np.float32))
        self.low = [float(axis[0]) for axis in axes]
        self.values = smooth_noise(rng, (axes[0], axes[1], axes[2]), scale_mm=scale_mm)

    @cached_property
    def slope(self) -> Array:
        """Magnitude of the gradient, per mm."""
        parts = np.gradient(self.values, self.step)
        return np.asarray(np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2), dtype=np.float32)

    def at(self, x: Array, y: Array, z: Array) -> Array:
        """Values at points."""
        return self._read(self.values, x, y, z)

    def slope_at(self, x: Array, y: Array, z: Array) -> Array:
        """Gradient magnitude at points, per mm."""
        return self._read(self.slope, x, y, z)

    def _read(self, values: Array, x: Array, y: Array, z: Array) -> Array:
        index = np.stack([(axis.ravel() - low) / self.step for axis, low in zip((z, y, x), self.low, strict=True)])
        out = ndimage.map_coordinates(values, index, order=1, mode="nearest", output=np.float32, prefilter=False)
        return np.asarray(out.reshape(x.shape), dtype=np.float32)


def inside(distance: AnyFloat, softness_mm: float) -> Array:
    """Fraction of a voxel inside a surface at signed distance `distance` (negative inside)."""
    return np.asarray(np.clip(np.float32(0.5) - distance / np.float32(softness_mm), 0.0, 1.0), dtype=np.float32)


def sheet(distance: AnyFloat, half_width: AnyFloat | float, voxel_mm: float) -> Array:
    """Fraction of a voxel taken by a sheet of half width `half_width` whose middle is `distance` away (>= 0)."""
    half = np.float32(voxel_mm / 2.0)
    half_width = np.asarray(half_width, dtype=np.float32)
    overlap = np.minimum(half_width, distance + half, dtype=np.float32)
    overlap -= np.maximum(-half_width, distance - half, dtype=np.float32)
    overlap /= np.float32(voxel_mm)
    return np.asarray(np.clip(overlap, 0.0, 1.0, out=overlap))


def ellipsoid(x: AnyFloat, y: AnyFloat, z: AnyFloat, centre: Point, semi_axes: Point) -> Array:
    """Approximate signed distance (mm) to an ellipsoid, negative inside."""
    dx, dy, dz = x - np.float32(centre[0]), y - np.float32(centre[1]), z - np.float32(centre[2])
    scaled = np.sqrt((dx / semi_axes[0]) ** 2 + (dy / semi_axes[1]) ** 2 + (dz / semi_axes[2]) ** 2)
    sharp = np.sqrt((dx / semi_axes[0] ** 2) ** 2 + (dy / semi_axes[1] ** 2) ** 2 + (dz / semi_axes[2] ** 2) ** 2)
    return np.asarray(scaled * (scaled - 1.0) / (sharp + np.float32(1e-6)), dtype=np.float32)


def capsule(x: Array, y: Array, z: Array, start: Point, end: Point) -> tuple[Array, Array]:
    """Distance (mm) to the segment start-end and the position along it (0 to 1)."""
    axis = [e - s for s, e in zip(start, end, strict=True)]
    length2 = sum(part * part for part in axis) + 1e-9
    dx, dy, dz = x - np.float32(start[0]), y - np.float32(start[1]), z - np.float32(start[2])
    along = np.clip((dx * axis[0] + dy * axis[1] + dz * axis[2]) / length2, 0.0, 1.0)
    distance = np.sqrt((dx - along * axis[0]) ** 2 + (dy - along * axis[1]) ** 2 + (dz - along * axis[2]) ** 2)
    return np.asarray(distance, dtype=np.float32), np.asarray(along, dtype=np.float32)


def smooth_min(first: Array, second: Array, width: float) -> Array:
    """Minimum of two distances with a rounded joint of about `width` mm."""
    blend = np.clip(np.float32(width) - np.abs(first - second), 0.0, None)
    return np.asarray(np.minimum(first, second) - blend * blend / np.float32(4.0 * width), dtype=np.float32)


def paint(hu: Array, fraction: AnyFloat, value: AnyFloat | float) -> None:
    """Mix `value` into `hu` in place by volume fraction."""
    hu += fraction * (value - hu)


def noise_at(rng: np.random.Generator, x: Array, y: Array, z: Array, *, scale_mm: float) -> Array:
    """A smooth random field of unit SD read once, at the points (x, y, z)."""
    return PointNoise(rng, x, y, z, scale_mm=scale_mm).at(x, y, z)
