"""A whole head in HU on its own lattice, with the blood in it: skull, brain, bleeds and what else is not normal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.labels import Subtype
from ml.phantom.bleeds import bleed_into, lay, push, shape_clot
from ml.phantom.blows import strike
from ml.phantom.brain import BrainPoints, bend, build_brain, gather
from ml.phantom.grid import Array, HeadGrid, capsule, ellipsoid, inside, noise_at, paint, smooth_noise
from ml.phantom.skull import AIR_HU, Cavity, build_skull
from ml.phantom.spec import Bleed, Calcification, Collection, HeadSpec, Hypodensity, Mass, Point, Surgery

GRID_MM = 1.15
LOW_MM: Point = (-98.0, -112.0, -110.0)
HIGH_MM: Point = (98.0, 114.0, 95.0)


@dataclass(frozen=True, eq=False)
class Head:
    """The head on its lattice, all (z, y, x)."""

    grid: HeadGrid
    hu: Array
    blood: Array
    """Fraction of each voxel that is fresh blood."""
    gain_hu: Array
    """What the blood added to the HU: little where it lies in bone or is as bright as brain."""
    label: npt.NDArray[np.uint8]
    """Subtype where `blood` is above 0."""
    visible_hu: float
    """Blood that is no brighter than this looks like brain."""


def _layers_of(bleeds: tuple[Bleed, ...]) -> list[Bleed]:
    return [one for one in bleeds if one.site == "convexity" and one.subtype in (Subtype.EDH, Subtype.SDH)]


def _bump(centre: Point, extent_degrees: float, points: BrainPoints) -> Array:
    length = float(np.sqrt(sum(part * part for part in centre))) + 1e-6
    nx, ny, nz = points.normal()
    cosine = np.clip((nx * centre[0] + ny * centre[1] + nz * centre[2]) / length, -1.0, 1.0)
    bump = np.sqrt(np.clip(1.0 - (np.degrees(np.arccos(cosine)) / extent_degrees) ** 2, 0.0, 1.0))
    return np.asarray(bump, dtype=np.float32)


def _collect(points: BrainPoints, collections: tuple[Collection, ...]) -> list[tuple[Collection, Array]]:
    """Thickness (mm) of every chronic collection; the brain's surface moves in under it."""
    made = []
    for one in collections:
        side = np.clip((points.x * np.sign(one.centre[0]) - 1.5) / 6.0, 0.0, 1.0)
        thickness = one.depth_mm * _bump(one.centre, one.extent_degrees, points) * side * (1.0 - points.base)
        nx, ny, nz = points.normal()
        shift = thickness * np.exp(-np.clip(points.depth, 0.0, None) / 45.0) * np.float32(0.8)
        points.ax += nx * shift
        points.ay += ny * shift
        points.az += nz * shift
        points.surface -= thickness
        made.append((one, np.asarray(thickness, dtype=np.float32)))
    return made


def _darken(points: BrainPoints, spots: tuple[Hypodensity, ...], rng: np.random.Generator) -> None:
    for spot in spots:
        distance = ellipsoid(points.x, points.y, points.z, spot.centre, spot.semi_axes_mm)
        near = np.flatnonzero(distance < 3 * spot.softness_mm + 6)
        rough = noise_at(rng, points.x[near], points.y[near], points.z[near], scale_mm=14.0)
        fraction = inside(distance[near] + 2.5 * rough, spot.softness_mm)
        fraction = fraction * (points.hu[near] > spot.hu) * (points.hu[near] < 60)
        points.hu[near] += fraction * (spot.hu - points.hu[near])


def _grow(points: BrainPoints, masses: tuple[Mass, ...], rng: np.random.Generator) -> None:
    for mass in masses:
        distance = ellipsoid(points.x, points.y, points.z, mass.centre, mass.semi_axes_mm)
        near = np.flatnonzero((distance < 40) & (points.depth > -0.5))
        rough = noise_at(rng, points.x[near], points.y[near], points.z[near], scale_mm=12.0)
        rim = np.exp(-np.clip(distance[near], 0.0, None) / max(mass.edema_mm, 0.5)) * (mass.edema_mm > 0.5)
        points.hu[near] -= 10.0 * rim * (points.csf[near] < 0.5)
        points.hu[near] += inside(distance[near] + 0.6 * rough, 1.5) * (mass.hu + 1.5 * rough - points.hu[near])


def _spots(hu: Array, grid: HeadGrid, spots: tuple[Calcification, ...], rng: np.random.Generator) -> None:
    """Calcified spots and metal, brighter than what they replace."""
    for spot in spots:
        semi = spot.semi_axes_mm
        box = grid.box(spot.centre, (semi[0] + 2, semi[1] + 2, semi[2] + 2))
        if any(part.stop <= part.start for part in box):
            continue
        x, y, z = grid.part(box)
        lumps = 0.8 + 0.35 * smooth_noise(rng, (z, y, x), scale_mm=max(3.0, 0.7 * max(semi)))
        fraction = inside(ellipsoid(x, y, z, spot.centre, semi), grid.spacing_mm * 1.2)
        value = spot.hu if spot.hu > 2000 else 40.0 + (spot.hu - 40.0) * np.clip(lumps, 0.0, None)
        paint(hu[box], fraction * (np.asarray(value) > hu[box]), value)


def _angle(grid: HeadGrid, box: tuple[slice, slice, slice], centre: Point) -> Array:
    x, y, z = grid.part(box)
    length = float(np.sqrt(sum(part * part for part in centre))) + 1e-6
    radius = np.sqrt(x**2 + (y - 4.0) ** 2 + z**2) + 1e-3
    cosine = (x * centre[0] + (y - 4.0) * centre[1] + z * centre[2]) / (radius * length)
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))), dtype=np.float32)


def _operate(hu: Array, grid: HeadGrid, cavity: Cavity, surgery: Surgery, rng: np.random.Generator) -> None:
    whole = (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    if surgery.craniotomy is not None:
        angle = _angle(grid, whole, surgery.craniotomy)
        bone = inside(-cavity.distance - 1.0, 1.0) * (hu > 90) * (1.0 - cavity.base)
        if surgery.flap_missing:
            gap = inside((angle - surgery.flap_degrees) * 1.3, 2.0)
        else:
            gap = inside(np.abs(angle - surgery.flap_degrees) * 1.3 - 1.2, 1.2)
        paint(hu, gap * bone, 35.0)
        swelling = inside((angle - surgery.flap_degrees * 1.1) * 1.3, 10.0) * (hu < -20) * (hu > -200)
        paint(hu, 0.8 * swelling, 20.0)
    for hole in surgery.burr_holes:
        length = float(np.sqrt(sum(part * part for part in hole)))
        end = (hole[0] / length * 105.0, hole[1] / length * 105.0 + 4.0, hole[2] / length * 105.0)
        start = (hole[0] / length * 50.0, hole[1] / length * 50.0 + 4.0, hole[2] / length * 50.0)
        box = grid.box(
            (0.5 * (start[0] + end[0]), 0.5 * (start[1] + end[1]), 0.5 * (start[2] + end[2])),
            (abs(start[0] - end[0]) / 2 + 9, abs(start[1] - end[1]) / 2 + 9, abs(start[2] - end[2]) / 2 + 9),
        )
        distance, _ = capsule(*grid.part(box), start, end)
        paint(hu[box], inside(distance - 6.0, 1.5) * (hu[box] > 150) * (cavity.distance[box] > -0.5), 25.0)
    if surgery.air_ml > 0:
        _gas(hu, grid, cavity, surgery.air_ml, rng)
    if surgery.drain is not None:
        start, end = surgery.drain
        distance, _ = capsule(grid.x, grid.y, grid.z, start, end)
        paint(hu, inside(distance - 1.6, grid.spacing_mm), surgery.drain_hu)
        paint(hu, inside(distance - 0.6, grid.spacing_mm), 10.0)
    _spots(hu, grid, surgery.metal, rng)


def _gas(hu: Array, grid: HeadGrid, cavity: Cavity, volume_ml: float, rng: np.random.Generator) -> None:
    """Gas rises to the front of a supine patient."""
    where = np.flatnonzero((cavity.distance < -0.5) & (cavity.distance > -14.0) & (grid.z > -15) & (grid.y < 0))
    if where.size == 0:
        return
    iz, iy, ix = np.unravel_index(where, grid.shape)
    height = grid.y.ravel()[iy] + 1.2 * np.maximum(-cavity.distance.ravel()[where] - 5.0, 0.0)
    height += 6.0 * noise_at(rng, grid.x.ravel()[ix], grid.y.ravel()[iy], grid.z.ravel()[iz], scale_mm=20.0)
    count = min(where.size - 1, int(volume_ml * 1000.0 / grid.spacing_mm**3))
    hu.ravel()[where[np.argpartition(height, count)[:count]]] = AIR_HU


def build_head(spec: HeadSpec) -> Head:
    """The head that `spec` describes; the same spec gives the same head."""
    rng = np.random.default_rng([spec.seed, 1])
    grid = HeadGrid.spanning(LOW_MM, HIGH_MM, spacing_mm=GRID_MM)
    hu, cavity = build_skull(grid, spec.skull, rng)
    points = gather(grid, cavity)
    bend(points, spec.brain, rng)
    layers = [lay(points, one) for one in _layers_of(spec.bleeds)]
    clots = [shape_clot(points, one) for one in spec.bleeds if one.subtype is Subtype.IPH]
    push(points, layers, clots)
    collections = _collect(points, spec.collections)
    build_brain(points, spec.brain, rng)
    _darken(points, spec.hypodensities, rng)
    _grow(points, spec.masses, rng)
    for collection, thickness in collections:
        paint(points.hu, inside(points.depth - thickness, points.voxel_mm) * (thickness > 0.5), collection.hu)
    before = points.hu.copy()
    blood, label = bleed_into(points, spec.bleeds, layers, clots)
    fraction = inside(-points.depth, grid.spacing_mm)
    flat = hu.reshape(-1)
    flat[points.index] += fraction * (points.hu - flat[points.index])
    painted = hu.copy()
    _operate(hu, grid, cavity, spec.surgery, rng)
    _spots(hu, grid, spec.calcifications, rng)
    for blow in spec.blows:
        strike(hu, grid, cavity, blow)
    blood_grid = np.zeros(grid.shape, dtype=np.float32)
    gain = np.zeros(grid.shape, dtype=np.float32)
    label_grid = np.zeros(grid.shape, dtype=np.uint8)
    if spec.bleeds:
        untouched = (hu == painted).reshape(-1)[points.index]
        blood_grid.reshape(-1)[points.index] = blood * fraction * untouched
        gain.reshape(-1)[points.index] = (points.hu - before) * fraction * untouched
        label_grid.reshape(-1)[points.index] = label
    visible = 0.5 * (spec.brain.gray_hu + spec.brain.white_hu) + 2.0
    return Head(grid.scaled(spec.size), hu, blood_grid, gain, label_grid, visible)
