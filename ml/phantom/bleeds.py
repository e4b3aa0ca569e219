"""The five bleeds: where the blood is, what it pushes, how bright it is.

Shapes after InSilicoICH (FDA, CC0): lenses and crescents with length to depth ratios of 4 and 11, parenchymal clots of
one to three merged deformed ellipsoids, ventricles filled from behind (the patient lies supine), subarachnoid blood
spreading in fluid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.labels import Subtype
from ml.phantom.brain import BrainPoints
from ml.phantom.grid import Array, ellipsoid, inside, noise_at
from ml.phantom.spec import Bleed


@dataclass(frozen=True, eq=False)
class Layer:
    """Blood between skull and brain: `thickness` (mm) over every voxel's patch of inner table."""

    bleed: Bleed
    thickness: Array


@dataclass(frozen=True, eq=False)
class Clot:
    """Blood in the tissue: signed distance (mm) to its surface, negative inside."""

    bleed: Bleed
    distance: Array
    radius_mm: float


def _generator(bleed: Bleed) -> np.random.Generator:
    return np.random.default_rng([bleed.seed, int(bleed.subtype)])


def _surface_point(points: BrainPoints, bleed: Bleed) -> tuple[float, float, float]:
    """The point of the inner table that lies in the direction of the bleed's centre."""
    length = float(np.sqrt(sum(part * part for part in bleed.centre))) + 1e-6
    ux, uy, uz = (part / length for part in bleed.centre)
    along = points.x * ux + (points.y - 4.0) * uy + points.z * uz
    radius = np.sqrt(points.x**2 + (points.y - 4.0) ** 2 + points.z**2) + 1e-3
    rim = np.flatnonzero((points.depth < 2.0) & (along > 0))
    best = rim[int(np.argmax(along[rim] / radius[rim]))]
    return float(points.x[best]), float(points.y[best]), float(points.z[best])


def _layer_fraction(points: BrainPoints, thickness: Array) -> Array:
    """Fraction of every voxel between the inner table and `thickness` mm below it."""
    voxel = points.voxel_mm
    return inside(points.depth - thickness, voxel) * inside(-points.depth, voxel) * (thickness > 0.2)


def lay(points: BrainPoints, bleed: Bleed) -> Layer:
    """Lens (EDH) or crescent (SDH) over the convexity that holds the bleed's volume."""
    rng = _generator(bleed)
    cx, cy, cz = _surface_point(points, bleed)
    noise = noise_at(rng, points.x, points.y, points.z, scale_mm=35.0)
    squared = (points.x - cx) ** 2 + (points.y - cy) ** 2 + (points.z - cz) ** 2
    arc = np.sqrt(np.clip(squared - points.depth**2, 0.0, None)) * (1.0 + 0.12 * noise)
    lens = bleed.subtype is Subtype.EDH
    side = np.sign(cx) if abs(cx) > 8 else 0.0
    same_side = np.clip((points.x * side - 1.5) / 5.0, 0.0, 1.0) if side and not lens else np.float32(1.0)
    above = np.clip(1.0 - points.base * (0.0 if cz < -25 else 1.0), 0.0, 1.0)
    cell_ml = points.voxel_mm**3 / 1000.0

    def thickness(half_length: float) -> Array:
        depth = 2.0 * half_length / bleed.spread
        shape = np.clip(1.0 - (arc / half_length) ** 2, 0.0, 1.0)
        if not lens:
            shape = np.sqrt(shape) * (1.0 + 0.2 * noise)
        return np.asarray(depth * shape * same_side * above, dtype=np.float32)

    low, high = 3.0, 130.0
    for _ in range(14):
        middle = 0.5 * (low + high)
        volume = float(np.sum(_layer_fraction(points, thickness(middle)))) * cell_ml
        low, high = (middle, high) if volume < bleed.volume_ml else (low, middle)
    return Layer(bleed, thickness(0.5 * (low + high)))


def shape_clot(points: BrainPoints, bleed: Bleed) -> Clot:
    """One to three merged ellipsoids with a rough surface (IPH)."""
    rng = _generator(bleed)
    radius = float((bleed.volume_ml * 1000.0 * 3.0 / (4.0 * np.pi)) ** (1.0 / 3.0))
    reach = 4.0 * radius + 12.0
    near = np.flatnonzero(
        (np.abs(points.x - bleed.centre[0]) < reach)
        & (np.abs(points.y - bleed.centre[1]) < reach)
        & (np.abs(points.z - bleed.centre[2]) < reach)
    )
    distance = np.full(points.x.shape, 99.0, dtype=np.float32)
    if near.size == 0:
        return Clot(bleed, distance, radius)
    x, y, z = points.x[near], points.y[near], points.z[near]
    parts = np.full(near.shape, 99.0, dtype=np.float32)
    for number in range(1 + int(rng.integers(0, 3))):
        stretch = np.exp(rng.normal(0.0, 0.22, 3)) * np.array([1.0, bleed.spread, 1.0])
        stretch /= np.prod(stretch) ** (1.0 / 3.0)
        shift = rng.normal(0.0, 0.55, 3) * radius * (number > 0)
        centre = (bleed.centre[0] + shift[0], bleed.centre[1] + shift[1], bleed.centre[2] + shift[2])
        semi = radius * stretch * (1.0 if number == 0 else rng.uniform(0.4, 0.9))
        parts = np.minimum(parts, ellipsoid(x, y, z, centre, (float(semi[0]), float(semi[1]), float(semi[2]))))
    rough = noise_at(rng, x, y, z, scale_mm=max(5.0, 0.8 * radius)) * np.float32(0.16 * radius)
    parts = parts + rough
    cell_ml = points.voxel_mm**3 / 1000.0
    low, high = -2.0 * radius, radius
    for _ in range(12):
        middle = 0.5 * (low + high)
        volume = float(np.sum(inside(parts + np.float32(middle), points.voxel_mm))) * cell_ml
        low, high = (middle, high) if volume > bleed.volume_ml else (low, middle)
    distance[near] = parts + np.float32(0.5 * (low + high))
    return Clot(bleed, distance, radius)


def push(points: BrainPoints, layers: list[Layer], clots: list[Clot]) -> None:
    """Move the tissue coordinates away from the bleeds; the brain's surface moves in under a layer."""
    nx, ny, nz = points.normal()
    for layer in layers:
        shift = layer.thickness * np.exp(-np.clip(points.depth, 0.0, None) / 45.0) * np.float32(0.85)
        points.ax += nx * shift
        points.ay += ny * shift
        points.az += nz * shift
        points.surface -= layer.thickness
    for clot in clots:
        dx, dy, dz = (
            points.x - np.float32(clot.bleed.centre[0]),
            points.y - np.float32(clot.bleed.centre[1]),
            points.z - np.float32(clot.bleed.centre[2]),
        )
        r = np.sqrt(dx**2 + dy**2 + dz**2) + np.float32(0.5)
        whole = np.float32(clot.radius_mm)
        before = np.clip(r**3 - whole**3, 0.0, None) ** (1.0 / 3.0)
        factor = (r - before) / r * np.exp(-np.clip(r - whole, 0.0, None) / 28.0) * np.float32(0.7)
        points.ax -= dx * factor
        points.ay -= dy * factor
        points.az -= dz * factor


def _uneven(points: BrainPoints, bleed: Bleed, where: npt.NDArray[np.intp], rng: np.random.Generator) -> Array:
    """HU of the blood at the voxels `where`: darker parts, settled cells behind."""
    noise = noise_at(rng, points.x[where], points.y[where], points.z[where], scale_mm=14.0)
    fine = noise_at(rng, points.x[where], points.y[where], points.z[where], scale_mm=5.0)
    value = np.float32(bleed.hu) + 2.0 * fine + np.float32(7.0 * bleed.heterogeneity) * noise
    if bleed.heterogeneity > 0.55 and where.size:
        y = points.y[where]
        level = np.clip((y - np.quantile(y, 0.5)) / 6.0, -1.0, 1.0)
        value = value + np.float32(9.0 * bleed.heterogeneity) * level
    return np.asarray(value, dtype=np.float32)


def _ventricular_fraction(points: BrainPoints, bleed: Bleed) -> Array:
    """Blood in the ventricles: settled behind (largest y first), or a cast of the ventricle nearest to the centre."""
    cell_ml = points.voxel_mm**3 / 1000.0
    rng = _generator(bleed)
    where = np.flatnonzero(points.ventricle > 0.05)
    out = np.zeros(points.x.shape, dtype=np.float32)
    if where.size == 0:
        return out
    x, y, z = points.x[where], points.y[where], points.z[where]
    if bleed.site == "cast":
        reach = np.sqrt((x - bleed.centre[0]) ** 2 + (y - bleed.centre[1]) ** 2 + (z - bleed.centre[2]) ** 2)
        order = reach
    else:
        # each lateral ventricle has its own level; one side holds more
        side = points.ventricle_side[where]
        bias = np.array([0.0, rng.normal(0, 6.0), rng.normal(0, 6.0), -40.0, -18.0], dtype=np.float32)
        order = -(y + bias[side]) + 0.6 * rng.standard_normal(1)[0]
    order = order + noise_at(rng, x, y, z, scale_mm=12.0) * np.float32(0.8)
    rank = np.argsort(order)
    filled = np.cumsum(points.ventricle[where][rank]) * cell_ml
    level = float(order[rank[min(int(np.searchsorted(filled, bleed.volume_ml)), rank.size - 1)]])
    out[where] = points.ventricle[where] * inside(np.asarray(order - level, dtype=np.float32), 2.0)
    return out


def _subarachnoid_fraction(points: BrainPoints, bleed: Bleed) -> Array:
    """Blood in sulci, fissures and cisterns around the centre, thinning out with distance."""
    cell_ml = points.voxel_mm**3 / 1000.0
    where = np.flatnonzero(points.csf > 0.15)
    out = np.zeros(points.x.shape, dtype=np.float32)
    if where.size == 0:
        return out
    rng = _generator(bleed)
    x, y, z = points.x[where], points.y[where], points.z[where]
    reach = np.sqrt(
        (x - bleed.centre[0]) ** 2 + ((y - bleed.centre[1]) / bleed.spread) ** 2 + (z - bleed.centre[2]) ** 2
    )
    reach = reach * (1.0 + 0.25 * noise_at(rng, x, y, z, scale_mm=16.0))
    rank = np.argsort(reach)
    filled = np.cumsum(points.csf[where][rank]) * cell_ml
    level = float(reach[rank[min(int(np.searchsorted(filled, bleed.volume_ml)), rank.size - 1)]])
    # a clot pushes the banks of a narrow sulcus apart
    full = np.clip(points.csf[where] * 1.5, 0.0, 1.0)
    out[where] = full * inside(np.asarray(reach - level, dtype=np.float32), 4.0)
    return out


def _dural_fraction(points: BrainPoints, bleed: Bleed) -> Array:
    """Thin subdural blood along the falx or on the tentorium, on one side."""
    rng = _generator(bleed)
    side = 1.0 if bleed.centre[0] >= 0 else -1.0
    if bleed.site == "falx":
        zone, away = points.falx_zone, points.ax * side
    else:
        zone = ~points.infratentorial & (points.ax * side > 3.0) & (points.ay > 12.0) & (points.az < 6.0)
        away = points.az - points.tentorium_height
    where = np.flatnonzero(zone & (away > -1.0) & (away < 14.0) & (points.depth > 0))
    out = np.zeros(points.x.shape, dtype=np.float32)
    if where.size == 0:
        return out
    x, y, z = points.x[where], points.y[where], points.z[where]
    far = np.sqrt(((y - bleed.centre[1]) / 1.4) ** 2 + (z - bleed.centre[2]) ** 2)
    if bleed.site == "tentorium":
        far = np.sqrt((x - bleed.centre[0]) ** 2 + (y - bleed.centre[1]) ** 2)
    noise = noise_at(rng, x, y, z, scale_mm=18.0)
    cell_ml = points.voxel_mm**3 / 1000.0
    low, high = 2.0, 60.0
    for _ in range(12):
        half = 0.5 * (low + high)
        thick = 2.0 * half / 14.0 * np.sqrt(np.clip(1.0 - (far / half) ** 2, 0.0, 1.0)) * (1.0 + 0.25 * noise)
        fraction = inside(np.asarray(away[where] - thick, dtype=np.float32), points.voxel_mm) * (thick > 0.2)
        low, high = (half, high) if float(fraction.sum()) * cell_ml < bleed.volume_ml else (low, half)
    out[where] = fraction
    return out


def _same_compartment(points: BrainPoints, bleed: Bleed) -> npt.NDArray[np.bool_]:
    """Where the tentorium does not lie between a voxel and the clot's centre."""
    x, y, z = bleed.centre
    centre = int(np.argmin((points.x - x) ** 2 + (points.y - y) ** 2 + (points.z - z) ** 2))
    return np.asarray(points.infratentorial == points.infratentorial[centre])


def bleed_into(
    points: BrainPoints, bleeds: tuple[Bleed, ...], layers: list[Layer], clots: list[Clot]
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Paint all blood into `points.hu`; return (fraction of blood, label) of every voxel."""
    shapes: dict[int, Array] = {id(layer.bleed): _layer_fraction(points, layer.thickness) for layer in layers}
    shapes |= {id(clot.bleed): inside(clot.distance, points.voxel_mm * 1.3) for clot in clots}
    total = np.zeros(points.x.shape, dtype=np.float32)
    label = np.zeros(points.x.shape, dtype=np.uint8)
    for clot in clots:
        rim = np.exp(-np.clip(clot.distance, 0.0, None) / np.float32(max(clot.bleed.edema_mm, 0.5)))
        tissue = (1.0 - points.csf) * (1.0 - points.ventricle)
        points.hu -= rim * tissue * np.float32(9.0 if clot.bleed.edema_mm > 0.5 else 0.0) * (clot.distance < 40)
    for bleed in sorted(bleeds, key=lambda one: one.subtype is not Subtype.IPH):
        fraction = shapes.get(id(bleed))
        if fraction is None:
            fraction = _fluid_shape(points, bleed)
        if bleed.subtype in (Subtype.EDH, Subtype.SDH):
            fraction = fraction * (fraction > 0.02)
        if bleed.subtype is Subtype.IPH:
            fraction = fraction * _same_compartment(points, bleed)
        fraction = fraction * inside(-points.depth, points.voxel_mm)
        where = np.flatnonzero(fraction > 0.02)
        if where.size == 0:
            continue
        value = _uneven(points, bleed, where, _generator(bleed))
        points.hu[where] += fraction[where] * (value - points.hu[where])
        take = where[fraction[where] > total[where]]
        label[take] = int(bleed.subtype)
        total[where] = np.maximum(total[where], fraction[where])
    return total, label


def _fluid_shape(points: BrainPoints, bleed: Bleed) -> Array:
    if bleed.subtype is Subtype.IVH:
        return _ventricular_fraction(points, bleed)
    if bleed.subtype is Subtype.SAH:
        return _subarachnoid_fraction(points, bleed)
    return _dural_fraction(points, bleed)
