"""The brain: gyri, deep grey matter, fluid spaces, dura, vessels, and how bleeds push them.

Works on the voxels of the cavity only, as flat arrays; `BrainPoints` carries them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.phantom.grid import (
    Array,
    HeadGrid,
    PointNoise,
    capsule,
    ellipsoid,
    inside,
    noise_at,
    paint,
    sheet,
    smooth_min,
)
from ml.phantom.skull import Cavity, petrous_ridge_y
from ml.phantom.spec import BrainSpec, Point

VENTRICLE_PATH: tuple[tuple[Point, Point, float, float], ...] = (
    ((5.0, -8.0, 10.0), (14.0, -33.0, 8.0), 4.6, 3.2),
    ((7.0, -24.0, 13.0), (11.0, 10.0, 22.0), 4.0, 4.4),
    ((11.0, 10.0, 22.0), (24.0, 33.0, 14.0), 4.4, 6.3),
    ((24.0, 33.0, 13.0), (23.0, 58.0, 6.0), 6.0, 2.2),
    ((24.0, 33.0, 13.0), (31.0, 20.0, -8.0), 5.0, 2.4),
    ((31.0, 20.0, -8.0), (27.0, -8.0, -19.0), 2.4, 1.6),
)
"""One lateral ventricle (right half is the mirror): start, end, radius at start, radius at end, mm."""


@dataclass(eq=False)
class BrainPoints:
    """The voxels of the cavity. Mutable: tissues are painted into it one after another."""

    index: npt.NDArray[np.int64]
    """Flat index into the grid."""
    voxel_mm: float
    x: Array
    y: Array
    z: Array
    """Where the voxel is."""
    depth: Array
    """mm under the inner table."""
    base: Array
    ax: Array
    ay: Array
    az: Array
    """Where the tissue in it was before bleeds pushed it and the head's own shape bent it."""
    surface: Array
    """mm under the surface of the brain's envelope (depth less what lies between)."""
    hu: Array
    csf: Array
    """Fraction of subarachnoid fluid."""
    ventricle: Array
    """Fraction of ventricle."""
    infratentorial: npt.NDArray[np.bool_]
    falx_zone: npt.NDArray[np.bool_]
    tentorium_height: Array
    ventricle_side: npt.NDArray[np.int8]

    def normal(self) -> tuple[Array, Array, Array]:
        """Unit vectors pointing outwards (radially from the middle of the head)."""
        radius = np.sqrt(self.x**2 + (self.y - 4.0) ** 2 + self.z**2) + np.float32(1e-3)
        return self.x / radius, (self.y - np.float32(4.0)) / radius, self.z / radius


def gather(grid: HeadGrid, cavity: Cavity) -> BrainPoints:
    """The voxels that the cavity touches, with nothing in them yet."""
    index = np.flatnonzero(cavity.distance < grid.spacing_mm)
    iz, iy, ix = np.unravel_index(index, grid.shape)
    x, y, z = grid.x.ravel()[ix], grid.y.ravel()[iy], grid.z.ravel()[iz]
    depth = -cavity.distance.ravel()[index]
    zero = np.zeros_like(x)
    return BrainPoints(
        index=index, voxel_mm=grid.spacing_mm, x=x, y=y, z=z, depth=depth, base=cavity.base.ravel()[index],
        ax=x.copy(), ay=y.copy(), az=z.copy(), surface=depth.copy(), hu=zero.copy(), csf=zero.copy(),
        ventricle=zero.copy(), infratentorial=np.zeros(x.shape, dtype=bool), falx_zone=np.zeros(x.shape, dtype=bool),
        tentorium_height=zero.copy(), ventricle_side=np.zeros(x.shape, dtype=np.int8),
    )  # fmt: skip


def bend(points: BrainPoints, spec: BrainSpec, rng: np.random.Generator) -> None:
    """Give this brain its own shape: smooth shifts of the tissue coordinates, less at the midline."""
    for name, gain in (("ax", 0.6), ("ay", 1.0), ("az", 1.0)):
        noise = noise_at(rng, points.x, points.y, points.z, scale_mm=55.0)
        shift = np.float32(spec.warp_mm * gain) * noise
        setattr(points, name, getattr(points, name) + shift)


def tentorium_z(x: Array, y: Array) -> Array:
    """Height of the tentorium over (x, y)."""
    ax = np.abs(x)
    behind = np.clip((y - 28.0) / 45.0, 0.0, 1.0)
    ahead = np.clip(28.0 - y, 0.0, None)
    slope = (0.50 - 0.32 * behind) * (np.sqrt(ax**2 + 9.0) - 3.0)
    height = 3.0 - 0.48 * np.clip(y - 28.0, 0.0, None) - slope
    return np.asarray(height - 0.5 * ahead * np.clip(ax / 30.0, 0.0, 1.0), dtype=np.float32)


def mark_compartments(points: BrainPoints) -> None:
    """Which voxels lie under the tentorium, and where the falx is."""
    ax, y, z = np.abs(points.ax), points.ay, points.az
    points.tentorium_height = tentorium_z(points.ax, y)
    under = (z < points.tentorium_height) & (y > petrous_ridge_y(ax) - 4.0)
    stem = (ax < 19.0) & (y > -7.0) & (z < -20.0) & (y < 30.0)
    points.infratentorial = under & ((ax > 19.0) | (y > 26.0) | (z < -20.0)) | stem
    front = np.where(y < -12.0, 50.0, 38.0)
    edge = np.sqrt(((y + 12.0) / front) ** 2 + ((z + 2.0) / 42.0) ** 2)
    points.falx_zone = (edge > 1.0) & ((z > -14.0) | (y > 25.0)) & ~points.infratentorial


def _cortex(points: BrainPoints, spec: BrainSpec, rng: np.random.Generator) -> None:
    """White matter, the grey ribbon and sulci of varied width and depth, radial to the surface."""
    h = points.voxel_mm
    norm = np.sqrt((points.ax / 68.0) ** 2 + ((points.ay - 4.0) / 84.0) ** 2 + (points.az / 75.0) ** 2)
    stretch = np.clip(norm, 0.25, 1.3) ** np.float32(-0.65)
    qx, qy, qz = points.ax * stretch, points.ay * stretch, points.az * stretch
    folds = PointNoise(rng, qx, qy, qz, scale_mm=1.4 * spec.gyrus_mm)
    value, slope = folds.at(qx, qy, qz), folds.slope_at(qx, qy, qz)
    away = np.abs(value) / (slope * stretch + np.float32(0.02))
    local = noise_at(rng, points.x, points.y, points.z, scale_mm=38.0)
    medial = np.abs(points.ax)
    pial = np.minimum(points.surface, np.where(points.falx_zone | (norm > 0.62), medial, 99.0)) - spec.surface_csf_mm
    reach = 15.0 + 4.0 * local
    taper = np.clip(1.0 - pial / reach, 0.0, 1.0)
    width = np.float32(spec.sulcus_mm) * np.clip(0.75 + 0.55 * local, 0.05, 2.5) * taper**0.7
    width = width + np.float32(0.9 * spec.sulcus_mm) * np.clip(1.0 - pial / 4.0, 0.0, 1.0) * taper
    sulcus = sheet(away, width, h) * (taper > 0)
    to_fluid = np.minimum(np.where(taper > 0, away, 30.0), np.clip(pial, -5.0, None))
    to_fluid = np.where(pial < reach + 4.0, to_fluid, 30.0)
    ribbon = inside(to_fluid - 3.2 - 0.5 * local, 1.6)
    points.hu = np.float32(spec.white_hu) + ribbon * np.float32(spec.gray_hu - spec.white_hu)
    points.hu += np.float32(0.9) * noise_at(rng, points.ax, points.ay, points.az, scale_mm=9.0)
    cover = inside(points.surface - spec.surface_csf_mm * (1.0 + 0.45 * local), h * 1.2)
    points.csf = np.maximum(sulcus, cover)
    points.csf[points.infratentorial] = 0.0


def _deep_gray(points: BrainPoints, spec: BrainSpec) -> None:
    gray = spec.gray_hu
    side = np.abs(points.ax)
    for centre, semi, gain in (
        ((10.0, 5.0, 7.0), (8.0, 14.0, 9.0), 0.85),
        ((25.0, -5.0, 2.0), (5.0, 15.0, 10.0), 1.0),
        ((13.0, -24.0, 9.0), (5.0, 9.0, 8.0), 1.0),
        ((36.0, -2.0, 4.0), (1.6, 15.0, 12.0), 0.8),
    ):
        part = ellipsoid(side, points.ay, points.az, centre, semi)
        paint(points.hu, inside(part, 2.5) * np.float32(gain), gray)


def _cerebellum_and_stem(points: BrainPoints, spec: BrainSpec, rng: np.random.Generator) -> None:
    """Fill the posterior fossa: fluid, then stem, then cerebellum with folia."""
    low = np.flatnonzero((points.az < 8.0) & (np.abs(points.ax) < 70.0) & (points.ay > -12.0))
    x, y, z = points.ax[low], points.ay[low], points.az[low]
    pons = ellipsoid(x, y, z, (0.0, 13.0, -33.0), (17.0, 12.5, 14.0))
    midbrain = ellipsoid(x, y, z, (0.0, 11.0, -14.0), (16.0, 13.0, 13.0))
    medulla, along = capsule(x, y, z, (0.0, 20.0, -46.0), (0.0, 29.0, -85.0))
    stem = smooth_min(smooth_min(pons, midbrain, 5.0), medulla - 8.5 + 2.0 * along, 4.0)
    peduncle = ellipsoid(np.abs(x), y, z, (17.0, 24.0, -34.0), (9.0, 9.0, 8.0))
    below = points.infratentorial[low]
    wave = noise_at(rng, x * 0.6, y * 1.1, z * 1.6, scale_mm=6.0)
    gap = points.tentorium_height[low] - z
    depth = points.surface[low]
    front = 17.0 - 16.0 * np.clip((np.abs(x) - 13.0) / 12.0, 0.0, 1.0) - y
    lobes = np.maximum(np.maximum(1.3 * spec.cistern_scale - gap, 1.2 + 0.6 * spec.cistern_scale - depth), front)
    vallecula = 5.0 * spec.cistern_scale - np.sqrt(x**2 + ((z + 66.0) / 1.4) ** 2 + ((y - 60.0) / 2.0) ** 2)
    lobes = np.maximum(lobes, vallecula)
    lobes = smooth_min(lobes, peduncle, 4.0)
    tissue = np.maximum(inside(lobes, points.voxel_mm), inside(stem, points.voxel_mm))
    folia_csf = np.clip(np.abs(wave) < 0.18, 0, 1) * np.float32(0.18 + 0.25 * spec.sulcus_mm) * inside(lobes + 2, 2.0)
    deep = inside(lobes + 13.0, 6.0)
    value = np.float32(spec.cerebellum_hu) - deep * np.float32(0.55 * (spec.gray_hu - spec.white_hu)) + 0.6 * wave
    value = value + inside(stem, 2.0) * (np.float32(0.5 * (spec.gray_hu + spec.white_hu) - 1.0) - value)
    fluid = np.where(below, np.clip(1.0 - tissue + folia_csf * (stem > 2.0), 0.0, 1.0), points.csf[low])
    # the cistern around the midbrain reaches above the tentorium's edge
    ambient = sheet(np.abs(stem - 0.9 * spec.cistern_scale), 0.9 * spec.cistern_scale, points.voxel_mm)
    ambient = ambient * (np.abs(x) > 8) * (z > -22) * (z < 2)
    fluid = np.maximum(fluid, ambient * ~below)
    points.hu[low] = np.where(below | (stem < 0), value, points.hu[low])
    points.csf[low] = np.where(stem < 0, 0.0, fluid)


def _cisterns(points: BrainPoints, spec: BrainSpec, rng: np.random.Generator) -> None:
    size, h = spec.cistern_scale, points.voxel_mm
    x, y, z = np.abs(points.ax), points.ay, points.az
    parts = [
        ellipsoid(x, y, z, (0.0, -13.0, -21.0), (12.0 * size, 9.0 * size, 8.0)),
        ellipsoid(x, y, z, (0.0, -1.0, -20.0), (5.0 * size, 5.0, 8.0)),
        ellipsoid(x, y - 0.02 * x**2, z, (0.0, 26.0, -6.0), (11.0 * size, 2.6 * size, 5.0)),
        ellipsoid(x, y, z, (0.0, 60.0, -62.0), (9.0 * size, 9.0 * size, 8.0)),
        ellipsoid(x, y, z, (12.0, -15.0, -19.0), (13.0, 2.6 * size, 4.0)),
    ]
    for part in parts:
        points.csf = np.maximum(points.csf, inside(part, h))
    wave = 3.2 * noise_at(rng, points.ax, y, z, scale_mm=20.0)
    slit = np.abs(z + 5.0 - 0.45 * (y + 8.0) - 0.25 * (x - 40.0) + wave)
    lateral = sheet(slit, 1.5 * spec.sulcus_mm * (0.6 + size / 2), h) * (x > 36) * (y > -26) * (y < 34)
    insula = sheet(np.abs(x - 40.0 - wave + 0.012 * y**2), 1.3 * spec.sulcus_mm * (0.6 + size / 2), h)
    insula = insula * inside(ellipsoid(x, y, z, (41.0, 0.0, 1.0), (20.0, 21.0, 15.0)), 4.0)
    stem = sheet(slit, 1.6 * size, h) * (x > 14) * (x < 40) * (np.abs(y + 14.0) < 5.0)
    points.csf = np.maximum(points.csf, np.maximum(np.maximum(lateral, insula), stem))


def _ventricles(points: BrainPoints, spec: BrainSpec, rng: np.random.Generator) -> None:
    h, x, y, z = points.voxel_mm, points.ax, points.ay, points.az
    near = np.flatnonzero((np.abs(x) < 55) & (y > -60) & (y < 85) & (z > -60) & (z < 50))
    x, y, z = x[near], y[near], z[near]
    wave = noise_at(rng, x, y, z, scale_mm=16.0)
    best = np.full(x.shape, 99.0, dtype=np.float32)
    horn = rng.uniform(0.3, 1.3)
    for sign in (-1.0, 1.0):
        scale = spec.ventricle_scale * (1.0 + sign * spec.ventricle_asymmetry)
        for number, (start, tip, r0, r1) in enumerate(VENTRICLE_PATH):
            # the occipital horn varies most, and may be missing
            end = (tip[0], start[1] + (tip[1] - start[1]) * horn, tip[2]) if number == 3 else tip
            spread = 0.75 + 0.25 * scale
            distance, along = capsule(
                sign * x, y, z, (start[0] * spread, start[1], start[2]), (end[0] * spread, end[1], end[2])
            )
            radius = (r0 + (r1 - r0) * along) * (0.35 * scale if number == 5 else 0.3 + 0.7 * scale) - (
                number == 5
            ) * 0.2
            best = np.minimum(best, distance - radius)
    lateral = inside(best - 0.5 * wave, h) * inside(1.1 - np.abs(x), 0.8)
    third = np.maximum(
        np.abs(x) - (0.7 + 1.6 * spec.ventricle_scale), ellipsoid(x, y, z, (0.0, 2.0, 0.0), (9.0, 14.0, 10.0))
    )
    scale4 = 0.6 + 0.4 * spec.ventricle_scale
    fourth = ellipsoid(x, y + 0.05 * x**2, z, (0.0, 31.0, -36.0), (7.0 * scale4, 5.0 * scale4, 9.0))
    aqueduct, _ = capsule(x, y, z, (0.0, 16.0, -6.0), (0.0, 28.0, -28.0))
    filled: Array = np.maximum(
        np.maximum(lateral, inside(third, h)), np.maximum(inside(fourth, h), inside(aqueduct - 0.9, h))
    )
    fraction = filled * inside(2.0 - points.surface[near], 1.0)
    points.ventricle[near] = fraction
    central = np.minimum(third, np.minimum(fourth, aqueduct - 0.9)) < best
    points.ventricle_side[near] = np.where(central, np.where(z < -20, 4, 3), np.where(x > 0, 1, 2))
    halo = np.exp(-np.clip(best, 0.0, None) / 5.0) * np.clip(0.55 + 0.6 * wave, 0.0, 1.4)
    points.hu[near] -= np.float32(spec.leukoaraiosis_hu) * halo * ~points.infratentorial[near]


def _dura_and_vessels(points: BrainPoints, spec: BrainSpec, rng: np.random.Generator) -> None:
    """Falx, tentorium, venous sinuses, the larger arteries and veins."""
    h, x, y, z = points.voxel_mm, points.ax, points.ay, points.az
    side = np.abs(x)
    fissure = 0.35 * spec.falx_mm + 0.7 * spec.sulcus_mm + 0.25 * spec.surface_csf_mm
    callosum = np.sqrt(((y + 4.0) / 40.0) ** 2 + ((z + 2.0) / 29.0) ** 2)
    cleft = sheet(side, fissure, h) * ((callosum > 1.0) & ~points.infratentorial & (z > -22))
    points.csf = np.maximum(points.csf, cleft)
    paint(points.hu, points.csf, spec.csf_hu)
    paint(points.hu, points.ventricle, spec.csf_hu - 1.0)
    wave = noise_at(rng, points.x, points.y, points.z, scale_mm=30.0)
    falx = sheet(np.abs(x + 0.5 * wave), spec.falx_mm * (0.5 + 0.15 * wave), h) * points.falx_zone
    paint(points.hu, falx, spec.falx_hu)
    gap = np.abs(z - points.tentorium_height + 0.6 * wave)
    incisura = np.sqrt((x / 21.0) ** 2 + ((y - 8.0) / 22.0) ** 2)
    leaf = (incisura > 1.0) & (y > petrous_ridge_y(side) - 5.0) & (y > 8.0)
    tent = sheet(gap, spec.tentorium_mm * (0.5 + 0.15 * wave), 1.5 * h) * leaf
    paint(points.hu, tent, spec.tentorium_hu)
    depth = points.depth
    sagittal = inside(np.sqrt((x / 1.0) ** 2 + (1.3 * np.clip(depth - 1.5, 0, None)) ** 2) - 4.0, h)
    sagittal = sagittal * ((z > 0) | (y > 40)) * (points.base < 0.5) * ~points.infratentorial * ((y > -62) | (z > 30))
    lean = float(np.clip(1.0 + rng.normal(0, 0.4), 0.4, 1.7))
    caliber = np.where(x < 0, 3.6 * lean, 3.6 * (2.0 - lean))
    transverse = inside(np.sqrt(np.clip(depth - 2.0, 0, None) ** 2 + gap**2) - caliber, h) * ((y > 24) & leaf)
    sigmoid, _ = capsule(side, y, z, (56.0, 36.0, -30.0), (34.0, 28.0, -62.0))
    sigmoid = inside(sigmoid - caliber - 0.8, h) * (depth < 7.0)
    straight, _ = capsule(x, y, z, (0.0, 30.0, 0.0), (0.0, 84.0, -25.0))
    galen = ellipsoid(x, y, z, (0.0, 27.0, 1.0), (3.0, 4.0, 2.5))
    veins = np.maximum(np.maximum(sagittal, transverse), np.maximum(sigmoid, inside(straight - 2.2, h)))
    paint(points.hu, np.maximum(veins, inside(galen, h)), spec.sinus_hu)
    scale = spec.artery_scale
    tubes: tuple[tuple[Point, Point, float], ...] = (
        ((8.0, -15.0, -26.0), (9.0, -12.0, -18.0), 2.2), ((9.0, -12.0, -18.0), (22.0, -13.0, -18.0), 1.5),
        ((22.0, -13.0, -18.0), (38.0, -10.0, -10.0), 1.4), ((9.0, -13.0, -18.0), (1.5, -22.0, -12.0), 1.2),
        ((1.5, -22.0, -12.0), (1.5, -38.0, 8.0), 1.1), ((0.0, 0.5, -22.0), (0.0, 4.0, -44.0), 1.8),
        ((0.0, 4.0, -44.0), (9.0, 14.0, -66.0), 1.5), ((0.0, 0.0, -20.0), (15.0, 10.0, -14.0), 1.1),
    )  # fmt: skip
    near = np.flatnonzero((side < 42) & (y < 18) & (y > -42) & (z < 12))
    for start, end, radius in tubes:
        distance, _ = capsule(side[near], y[near], z[near], start, end)
        points.hu[near] += inside(distance - radius * scale, h) * (spec.artery_hu - points.hu[near])


def build_brain(points: BrainPoints, spec: BrainSpec, rng: np.random.Generator) -> None:
    """Paint brain, fluid, dura and vessels into `points` (after `bend` and the pushes of bleeds)."""
    mark_compartments(points)
    _cortex(points, spec, rng)
    _deep_gray(points, spec)
    _cerebellum_and_stem(points, spec, rng)
    _cisterns(points, spec, rng)
    _ventricles(points, spec, rng)
    _dura_and_vessels(points, spec, rng)
