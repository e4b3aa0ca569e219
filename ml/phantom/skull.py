"""The skull and everything outside it: cavity, base, calvaria, sinuses, orbits, face, scalp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml.phantom.grid import (
    AnyFloat,
    Array,
    HeadGrid,
    capsule,
    ellipsoid,
    inside,
    paint,
    sheet,
    smooth_min,
    smooth_noise,
)
from ml.phantom.spec import Point, SkullSpec

AIR_HU = -1000.0
FAT_HU = -95.0
SKIN_HU = 60.0
MUSCLE_HU = 55.0
MEMBRANE_HU = 42.0
LEAST_FRONTAL_SINUS = 0.4
"""Size of the sinuses below which a child has none in the forehead yet."""


@dataclass(frozen=True, eq=False)
class Cavity:
    """Signed distance to the inner table (negative inside the skull) and where that surface is the base."""

    distance: Array
    base: Array
    """0 at the calvaria, 1 at the skull base."""
    crest: Array
    """mm that the inner table stands inwards at its crests (the outer table does not follow)."""


def _logistic(value: AnyFloat, width: float) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(value / np.float32(width), -30.0, 30.0))), dtype=np.float32)


def sphenoid_ridge_y(ax: Array) -> Array:
    """y of the lesser wing for a distance `ax` from the midline."""
    return np.asarray(-20.0 - 0.5 * np.maximum(ax - 8.0, 0.0), dtype=np.float32)


def petrous_ridge_y(ax: Array) -> Array:
    """y of the crest of the petrous bone (of the dorsum sellae at the midline)."""
    return np.asarray(-6.0 + 0.66 * ax, dtype=np.float32)


def floor_height(x: Array, y: Array, spec: SkullSpec, rng: np.random.Generator) -> Array:
    """(y, x) height z of the inner surface of the skull base: three fossae with the ridges between them."""
    wobble = smooth_noise(rng, (y, x), scale_mm=26.0)
    fine = smooth_noise(rng, (y, x), scale_mm=9.0)
    xx, yy = np.broadcast_arrays(x.reshape(1, -1) + 1.5 * smooth_noise(rng, (y, x), scale_mm=60.0), y.reshape(-1, 1))
    ax = np.sqrt(xx**2 + 1.0).astype(np.float32)
    yy = yy.astype(np.float32) + 2.0 * wobble
    wing, crest = sphenoid_ridge_y(ax), petrous_ridge_y(ax)
    anterior = -23.0 + 8.0 * np.exp(-(((ax - 26) / 13) ** 2) - ((yy + 46) / 20) ** 2) - 5.0 * np.exp(-((ax / 6) ** 2))
    sella = np.exp(-((ax / 13.0) ** 4))
    middle = -45.0 + 7.0 * ((ax - 34.0) / 20.0) ** 2
    pituitary = 8.0 * np.exp(-((ax / 7.0) ** 4) - ((yy + 15.0) / 5.0) ** 2)
    middle = middle * (1 - sella) + sella * (-25.0 - pituitary)
    posterior = np.maximum(-66.0, -33.0 - 1.5 * (yy - crest)) + 3.0 * ((ax / 30.0) ** 2)
    front, back = _logistic(wing - yy, 2.0), _logistic(yy - crest, 2.5)
    floor = front * anterior + back * posterior + np.clip(1 - front - back, 0, 1) * middle
    floor += 5.0 * np.exp(-(((yy - wing) / 4.0) ** 2)) * np.clip((ax - 5) / 6, 0, 1)
    floor += spec.ridge_mm * np.exp(-(((yy - crest) / 6.0) ** 2)) * np.clip((ax - 10) / 22, 0.15, 1)
    floor += spec.base_height_mm + 1.3 * wobble + 1.0 * fine
    hole = np.sqrt((xx / 14.5) ** 2 + ((yy - 30.0) / 18.0) ** 2)
    floor += -160.0 * _logistic(1.0 - hole, 0.06)
    return np.asarray(floor, dtype=np.float32)


def make_cavity(grid: HeadGrid, spec: SkullSpec, rng: np.random.Generator) -> tuple[Cavity, Array]:
    """The cavity, and the (y, x) height of its floor."""
    axes = (grid.z, grid.y, grid.x)
    a, b, c = spec.semi_axes_mm
    warp = smooth_noise(rng, axes, scale_mm=75.0)
    y_centre = np.float32(4.0)
    p = np.float32(spec.roundness)
    # the head is widest behind the middle, and narrower at the forehead
    narrow = 1.0 + 0.10 * np.clip(-(grid.y - 0.0) / 70.0, -0.4, 1.0)
    scaled = (np.abs(grid.x) * narrow / a) ** p + (np.abs(grid.y - y_centre) / b) ** p
    below = np.where(grid.z > 0, c, 82.0).astype(np.float32)
    scaled = (scaled + (np.abs(grid.z) / below) ** p) ** (1.0 / p)
    radius = np.sqrt(grid.x**2 + (grid.y - y_centre) ** 2 + grid.z**2)
    dome = radius * (1.0 - 1.0 / np.maximum(scaled, 0.05)) + np.float32(spec.cavity_irregular_mm) * warp
    # crests inside: frontal, and the cross of the internal occipital protuberance
    crest = 4.0 * np.exp(-((grid.x / 4.0) ** 2)) * (grid.y < -55) * np.exp(-(((grid.z + 5.0) / 22.0) ** 2))
    cross = np.exp(-((grid.x / 5.0) ** 2)) * np.exp(-(((grid.z + 35.0) / 22.0) ** 2))
    bar = np.exp(-(((grid.z + 24.0) / 5.0) ** 2)) * np.exp(-((grid.x / 30.0) ** 2))
    crests = (0.8 * crest + 4.0 * np.maximum(cross, 0.7 * bar) * (grid.y > 55)).astype(np.float32)
    dome += crests
    floor = floor_height(grid.x.ravel(), grid.y.ravel(), spec, rng)
    slope_y, slope_x = np.gradient(floor, grid.spacing_mm)
    steep = np.sqrt(1.0 + np.minimum(slope_y**2 + slope_x**2, 9.0)).astype(np.float32)
    above = (floor[None] - grid.z) / steep[None]
    distance = -smooth_min(-dome, -above, 6.0)
    return Cavity(distance.astype(np.float32), _logistic(above - dome, 3.0), crests), floor


def _base_thickness(x: Array, y: Array) -> Array:
    """(y, x) mm of bone under the floor."""
    ax, yy = np.broadcast_arrays(np.abs(x).reshape(1, -1), y.reshape(-1, 1))
    crest = petrous_ridge_y(ax)
    petrous = 18.0 * np.exp(-(((yy - crest - 2.0) / 12.0) ** 2)) * np.clip((ax - 6.0) / 10.0, 0, 1)
    petrous = petrous * np.clip((74.0 - ax) / 12.0, 0, 1)
    clivus = 15.0 * np.exp(-((ax / 15.0) ** 4) - ((yy - 2.0) / 17.0) ** 2)
    wing = 5.0 * np.exp(-(((yy - sphenoid_ridge_y(ax)) / 8.0) ** 2))
    orbit_roof = -2.0 * np.exp(-(((ax - 28.0) / 12.0) ** 2) - ((yy + 52.0) / 15.0) ** 2)
    return np.asarray(4.5 + petrous + clivus + wing + orbit_roof, dtype=np.float32)


def _face_and_scalp(hu: Array, grid: HeadGrid, outer: Array, spec: SkullSpec, rng: np.random.Generator) -> Array:
    """Paint soft tissue into `hu`, return the signed distance to the skin."""
    axes = (grid.z, grid.y, grid.x)
    lump = smooth_noise(rng, axes, scale_mm=40.0)
    # the temporal muscle fills the hollow between forehead and ear
    temple = np.exp(-(((grid.y + 18.0) / 24.0) ** 2) - ((grid.z + 8.0) / 24.0) ** 2) * np.clip(
        (np.abs(grid.x) - 30) / 20, 0, 1
    )
    skin = outer - np.float32(spec.scalp_mm) * (1.0 + 0.2 * lump) - np.float32(8.0) * temple
    low = slice(0, int(np.searchsorted(grid.z.ravel(), 10.0)))
    x, y, z = grid.x, grid.y, grid.z[low]
    face = ellipsoid(x, y, z, (0.0, -24.0, -58.0), (68.0, 68.0, 85.0))
    neck = np.sqrt((x / 64.0) ** 2 + ((y - 26.0) / 62.0) ** 2) - 1.0
    neck = np.maximum(neck * 62.0, z + 20.0)
    nose, along = capsule(x, y, z, (0.0, -88.0, -34.0), (0.0, -104.0, -68.0))
    face = smooth_min(face, nose - 7.0 - 6.0 * along, 8.0)
    skin[low] = smooth_min(smooth_min(skin[low], face + 2.0 * lump[low], 12.0), neck + 3.0 * lump[low], 12.0)
    for side in (-1.0, 1.0):
        box = grid.box((side * 76.0, 18.0, -32.0), (14.0, 22.0, 34.0))
        ear = ellipsoid(*grid.part(box), (side * 77.0, 18.0, -32.0), (5.0, 15.0, 28.0))
        fold = smooth_noise(rng, tuple(axis for axis in reversed(grid.part(box))), scale_mm=9.0)
        skin[box] = np.minimum(skin[box], ear + 2.5 * np.abs(fold))
    flesh = smooth_noise(rng, axes, scale_mm=19.0)
    depth = -skin
    # skin, then fat, then galea and muscle with fat between
    planes = sheet(np.abs(flesh) * 8.0, np.clip(0.5 + 0.6 * lump, 0.0, None), 2.0)
    tissue = np.float32(MUSCLE_HU) + np.float32(4.0) * lump + planes * np.float32(FAT_HU - MUSCLE_HU)
    fat = inside(depth - (1.5 + 0.5 * spec.scalp_mm + lump), 1.2) * inside(1.0 - outer, 1.0)
    tissue += fat * (FAT_HU - tissue)
    tissue += inside(depth - 2.2, 1.0) * (SKIN_HU - tissue)
    paint(hu, inside(skin, grid.spacing_mm), tissue)
    return skin


def _calvaria(grid: HeadGrid, cavity: Cavity, spec: SkullSpec, rng: np.random.Generator) -> Array:
    """Thickness (mm) of the calvaria everywhere: thin at the temples, thick at the inion."""
    axes = (grid.z, grid.y, grid.x)
    variation = smooth_noise(rng, axes, scale_mm=38.0)
    thick = np.float32(spec.thickness_mm) * np.clip(1.0 + 0.14 * variation, 0.55, 1.6)
    temporal = np.exp(-(((grid.y + 5.0) / 30.0) ** 2) - ((grid.z + 18.0) / 24.0) ** 2)
    inion = np.exp(-((grid.x / 14.0) ** 2) - ((grid.z + 24.0) / 12.0) ** 2) * (grid.y > 40)
    forehead = np.exp(-((grid.x / 25.0) ** 2)) * (grid.y < -40)
    thick = np.clip(thick * (1.0 - 0.40 * temporal) + 3.0 * inion + 1.0 * forehead + cavity.crest, 1.8, 22.0)
    return np.asarray(thick, dtype=np.float32)


def _bone(
    hu: Array,
    grid: HeadGrid,
    cavity: Cavity,
    thick: Array,
    base_thick: Array,
    spec: SkullSpec,
    rng: np.random.Generator,
) -> None:
    depth = cavity.distance
    span = thick * (1.0 - cavity.base) + base_thick[None] * cavity.base
    ring = np.minimum(depth, span - depth)
    grain = smooth_noise(rng, (grid.z, grid.y, grid.x), scale_mm=7.0)
    table = np.float32(1.7) + np.float32(0.25) * thick * 0.5
    spongy = np.float32(spec.diploe_hu) + np.float32(190.0) * grain
    # the base is a patchwork of dense and cancellous bone, clefts and foramina
    spongy = spongy + cavity.base * np.float32(180.0) * np.abs(grain)
    value = spongy + inside(ring - table, 1.5) * (np.float32(spec.table_hu) - spongy)
    fraction = inside(-ring, grid.spacing_mm)
    suture = _sutures(grid, spec, rng)
    value = value - (value - np.float32(spec.suture_hu)) * 0.85 * suture * (1.0 - cavity.base)
    paint(hu, fraction, value)


def _sutures(grid: HeadGrid, spec: SkullSpec, rng: np.random.Generator) -> Array:
    """Fraction of coronal, sagittal and lambdoid suture."""
    wiggle = smooth_noise(rng, (grid.z, grid.y, grid.x), scale_mm=8.0) * np.float32(2.0)
    h, half = grid.spacing_mm, spec.suture_mm
    coronal = sheet(np.abs(grid.y + 22.0 - 0.25 * grid.z + wiggle), half, h) * (grid.z > -5)
    lambdoid = sheet(np.abs(grid.y - 82.0 + 0.55 * np.abs(grid.x) + 0.35 * (grid.z - 20) + wiggle), half, h)
    lambdoid = lambdoid * (grid.z > -30)
    sagittal = sheet(np.abs(grid.x + wiggle), half, h) * (grid.z > 30) * (grid.y > -25)
    return np.asarray(np.maximum(np.maximum(coronal, lambdoid), sagittal), dtype=np.float32)


def _ellipsoid_into(hu: Array, grid: HeadGrid, centre: Point, semi: Point, value: float) -> None:
    box = grid.box(centre, (semi[0] + 2, semi[1] + 2, semi[2] + 2))
    if any(part.stop <= part.start for part in box):
        return
    paint(hu[box], inside(ellipsoid(*grid.part(box), centre, semi), grid.spacing_mm), value)


def _shell_into(
    hu: Array, grid: HeadGrid, centre: Point, semi: Point, wall_mm: float, fill: float, wall: float
) -> None:
    _ellipsoid_into(hu, grid, centre, (semi[0] + wall_mm, semi[1] + wall_mm, semi[2] + wall_mm), wall)
    _ellipsoid_into(hu, grid, centre, semi, fill)


def _tube_into(hu: Array, grid: HeadGrid, start: Point, end: Point, radius: float, value: float) -> None:
    centre = (0.5 * (start[0] + end[0]), 0.5 * (start[1] + end[1]), 0.5 * (start[2] + end[2]))
    reach = tuple(abs(start[i] - end[i]) / 2 + radius + 2 for i in range(3))
    box = grid.box(centre, (reach[0], reach[1], reach[2]))
    if any(part.stop <= part.start for part in box):
        return
    distance, _ = capsule(*grid.part(box), start, end)
    paint(hu[box], inside(distance - radius, grid.spacing_mm), value)


def _sinuses(hu: Array, grid: HeadGrid, floor_shift: float, spec: SkullSpec, rng: np.random.Generator) -> None:
    size, dz = spec.sinus_size, floor_shift
    fluid = 20.0 if spec.sinus_fluid > 0.5 else AIR_HU
    _shell_into(hu, grid, (0.0, -66.0, -48.0 + dz), (12.0, 25.0, 25.0), 1.2, 40.0, 250.0)
    box = grid.box((0.0, -66.0, -48.0 + dz), (12.0, 25.0, 25.0))
    x, y, z = grid.part(box)
    cells = smooth_noise(rng, (z, y, x), scale_mm=8.0)
    inner = ellipsoid(x, y, z, (0.0, -66.0, -48.0 + dz), (12.0, 25.0, 25.0))
    paint(hu[box], inside(inner, 1.2) * (cells > -0.75), AIR_HU)
    paint(hu[box], inside(inner, 1.2) * sheet(np.abs(np.abs(x) - 6.0 + cells), 0.5, 1.2) * 0.8, 250.0)
    paint(hu[box], inside(inner, 1.2) * sheet(np.abs(x + cells), 0.6, 1.2), 200.0)
    for side in (-1.0, 1.0):
        wobble = float(rng.normal(0, 1.5))
        _shell_into(
            hu,
            grid,
            (side * (28.0 + wobble), -62.0, -68.0 + dz),
            (14.0 * size, 17.0 * size, 15.0 * size),
            1.3,
            fluid,
            600,
        )
        reach = 9.0 * size + float(rng.normal(0, 1.5))
        _shell_into(
            hu, grid, (side * (6.0 + wobble), -28.0, -40.0 + dz), (max(reach, 3.0), 11.0 * size, 9.0), 1.2, fluid, 450
        )
        if rng.random() < 0.8 and size > LEAST_FRONTAL_SINUS:
            height = max(4.0, 11.0 * size + float(rng.normal(0, 3.0)))
            centre = (side * (9.0 + wobble), -82.0 + float(rng.normal(0, 1.0)), -16.0 + dz)
            _shell_into(hu, grid, centre, (9.0 * size, 4.0, height), 1.2, AIR_HU, 800)
        _tube_into(hu, grid, (side * 78.0, 10.0, -46.0 + dz), (side * 52.0, 9.0, -44.0 + dz), 3.0, AIR_HU)
        box = grid.box((side * 58.0, 31.0, -43.0 + dz), (13.0, 17.0, 20.0))
        x, y, z = grid.part(box)
        cells = smooth_noise(rng, (z, y, x), scale_mm=5.5)
        lobe = ellipsoid(x, y, z, (side * 58.0, 31.0, -43.0 + dz), (11.0, 15.0, 18.0))
        paint(
            hu[box], inside(lobe, 2.0) * (cells > 1.2 - 1.6 * spec.mastoid_air), AIR_HU if rng.random() < 0.9 else 20.0
        )
        # middle and inner ear
        _ellipsoid_into(hu, grid, (side * 49.0, 13.0, -43.0 + dz), (3.0, 5.0, 5.0), AIR_HU)
        _tube_into(hu, grid, (side * 22.0, 14.0, -40.0 + dz), (side * 33.0, 13.0, -40.0 + dz), 2.5, 30.0)


def _orbits(hu: Array, grid: HeadGrid, dz: float, rng: np.random.Generator) -> None:
    gaze = float(rng.normal(0, 3.0))
    for side in (-1.0, 1.0):
        cone = (
            ((side * 30.0, -55.0, -38.0 + dz), (16.0, 25.0, 15.5)),
            ((side * 21.0, -40.0, -37.0 + dz), (8.0, 18.0, 7.5)),
        )
        for wall, value in ((1.5, 500.0), (0.0, FAT_HU)):
            for centre, semi in cone:
                _ellipsoid_into(hu, grid, centre, (semi[0] + wall, semi[1] + wall, semi[2] + wall), value)
        _ellipsoid_into(hu, grid, (side * 30.0, -86.0, -38.0 + dz), (18.0, 10.0, 15.0), 25.0)
        globe = (side * 31.0, -72.0, -38.0 + dz)
        _tube_into(hu, grid, (side * 30.5 + 0.3 * gaze, -60.0, -38.0 + dz), (side * 10.0, -26.0, -31.0 + dz), 2.0, 35.0)
        for dx, dzm in ((9.5, 0.0), (-9.5, 0.0), (0.0, 9.0), (0.0, -9.5)):
            start = (side * 31.0 + dx, -64.0, -38.0 + dz + dzm)
            _tube_into(hu, grid, start, (side * 14.0 + 0.2 * dx, -32.0, -33.0 + dz + 0.2 * dzm), 1.7, 50.0)
        _shell_into(hu, grid, globe, (11.0, 11.0, 11.0), 1.2, 10.0, 45.0)
        _ellipsoid_into(hu, grid, (globe[0] + 0.4 * gaze, -80.5, globe[2]), (4.2, 2.2, 4.2), 95.0)


def _below(hu: Array, grid: HeadGrid, dz: float, rng: np.random.Generator) -> None:
    """Jaw, cheek bones, first vertebra, airway."""
    for side in (-1.0, 1.0):
        arch = ((side * 44.0, -66.0, -58.0 + dz), (side * 62.0, -40.0, -56.0 + dz), (side * 66.0, 0.0, -52.0 + dz))
        _tube_into(hu, grid, arch[0], arch[1], 3.5, 700.0)
        _tube_into(hu, grid, arch[1], arch[2], 3.0, 750.0)
        _ellipsoid_into(hu, grid, (side * 51.0, -1.0, -58.0 + dz), (9.0, 5.0, 5.5), 700.0)
        _tube_into(hu, grid, (side * 50.0, -2.0, -60.0 + dz), (side * 46.0, -14.0, -115.0 + dz), 4.5, 750.0)
        _tube_into(hu, grid, (side * 19.0, 16.0, -80.0 + dz), (side * 22.0, 26.0, -90.0 + dz), 9.0, 650.0)
        _tube_into(hu, grid, (side * 33.0, 30.0, -92.0 + dz), (side * 18.0, 46.0, -94.0 + dz), 4.0, 700.0)
        _tube_into(hu, grid, (side * 20.0, -34.0, -50.0 + dz), (side * 21.0, -36.0, -90.0 + dz), 2.0, 700.0)
        _tube_into(hu, grid, (side * 52.0, 18.0, -60.0 + dz), (side * 45.0, 5.0, -85.0 + dz), 2.0, 750.0)
    _tube_into(hu, grid, (0.0, 12.0, -84.0 + dz), (0.0, 13.0, -115.0 + dz), 6.0, 700.0)
    _tube_into(hu, grid, (-14.0, 48.0, -94.0 + dz), (14.0, 48.0, -94.0 + dz), 4.0, 700.0)
    _ellipsoid_into(hu, grid, (0.0, -16.0, -84.0 + dz), (12.0, 10.0, 30.0), AIR_HU if rng.random() < 0.9 else 40.0)


def build_skull(grid: HeadGrid, spec: SkullSpec, rng: np.random.Generator) -> tuple[Array, Cavity]:
    """(HU of a head without brain, its cavity)."""
    cavity, _floor = make_cavity(grid, spec, rng)
    hu = np.full(grid.shape, AIR_HU, dtype=np.float32)
    thick = _calvaria(grid, cavity, spec, rng)
    base_thick = _base_thickness(grid.x.ravel(), grid.y.ravel())
    span = thick * (1.0 - cavity.base) + base_thick[None] * cavity.base
    outer = cavity.distance - span
    skin = _face_and_scalp(hu, grid, outer, spec, rng)
    _below(hu, grid, spec.base_height_mm, rng)
    _bone(hu, grid, cavity, thick, base_thick, spec, rng)
    _sinuses(hu, grid, spec.base_height_mm, spec, rng)
    _orbits(hu, grid, spec.base_height_mm, rng)
    np.copyto(hu, np.float32(AIR_HU), where=skin > grid.spacing_mm)
    # whatever was painted too far in (a sinus, an orbit) ends at a thin inner table
    plate = inside(cavity.distance - 1.8, 1.3) * inside(-cavity.distance, 1.3) * inside(skin + 3.0, 1.3)
    paint(hu, plate * np.clip((350.0 - hu) / 350.0, 0.0, 1.0), 600.0)
    if spec.fontanelle_mm > 0:
        _open_fontanelle(hu, grid, cavity, spec.fontanelle_mm)
    return hu, cavity


def _open_fontanelle(hu: Array, grid: HeadGrid, cavity: Cavity, half_mm: float) -> None:
    """A membrane for the bone of a diamond where coronal and sagittal suture meet, longer than wide."""
    rim = np.abs(grid.x) / 0.75 + np.abs(grid.y + 22.0 - 0.25 * grid.z) - half_mm
    gap = inside(rim, 2.0) * (grid.z > 0) * inside(-cavity.distance, grid.spacing_mm)
    paint(hu, gap * (hu > MEMBRANE_HU), MEMBRANE_HU)
