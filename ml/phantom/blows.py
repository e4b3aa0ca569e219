"""Blood under the scalp and cracks in the skull: bright, next to the brain, and not what is looked for."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ml.phantom.grid import Array, HeadGrid, inside, paint, smooth_noise
from ml.phantom.skull import FAT_HU, Cavity
from ml.phantom.spec import Blow, Point

SKULL_RADIUS_MM = 82.0
BONE_HU = 150.0
COVER_MM = 4.0
"""Of fat and skin over a swelling."""
INNER_MM = 2.0
"""What is nearer to the inner table counts as skull, so that a swelling never reaches the brain."""


def strike(hu: Array, grid: HeadGrid, cavity: Cavity, blow: Blow) -> None:
    """Paint what `blow` left into `hu`; the brain and the fluid around it stay as they are."""
    rng = np.random.default_rng([blow.seed, 3])
    length = float(np.sqrt(sum(part * part for part in blow.centre))) + 1e-6
    ux, uy, uz = (part / length for part in blow.centre)
    middle = (ux * SKULL_RADIUS_MM, uy * SKULL_RADIUS_MM + 4.0, uz * SKULL_RADIUS_MM)
    reach = blow.extent_mm + blow.depth_mm + COVER_MM + 6.0
    box = grid.box(middle, (reach, reach, reach))
    part = hu[box]
    if not part.size:
        return
    x, y, z = grid.part(box)
    _crack(part, cavity.distance[box], (x, y, z), middle, blow, rng)
    skull = (part > BONE_HU) | (cavity.distance[box] < INNER_MM)
    if skull.all() or not skull.any():
        return
    away = ndimage.distance_transform_edt(~skull).astype(np.float32) * np.float32(grid.spacing_mm)
    side = np.sqrt((x - middle[0]) ** 2 + (y - middle[1]) ** 2 + (z - middle[2]) ** 2)
    lumps = smooth_noise(rng, (z, y, x), scale_mm=22.0)
    bulge = np.sqrt(np.clip(1.0 - (side / blow.extent_mm) ** 2, 0.0, 1.0)) * (1.0 + 0.25 * lumps)
    height = np.asarray(np.float32(blow.depth_mm) * bulge, dtype=np.float32)
    # under the ears and in front of the face there is no scalp on bone
    outside = (away > 0) & (height > 0.5) & (cavity.distance[box] > INNER_MM)
    paint(part, inside(away - height - COVER_MM, grid.spacing_mm) * outside * (part < -300), FAT_HU * 0.5)
    paint(part, inside(away - height, grid.spacing_mm) * outside, np.float32(blow.hu) + np.float32(4.0) * lumps)


def _crack(
    part: Array,
    distance: Array,
    where: tuple[Array, Array, Array],
    middle: Point,
    blow: Blow,
    rng: np.random.Generator,
) -> None:
    if blow.crack_mm <= 0:
        return
    x, y, z = where
    outwards = np.array(middle) / np.linalg.norm(middle)
    axis = np.cross(outwards, rng.normal(size=3))  # across the skull: a crack in its plane would be none
    axis /= np.linalg.norm(axis)
    plane = axis[0] * (x - middle[0]) + axis[1] * (y - middle[1]) + axis[2] * (z - middle[2])
    wiggle = 1.5 * smooth_noise(rng, (z, y, x), scale_mm=16.0)
    gap = inside(np.abs(plane + wiggle) - np.float32(blow.crack_mm), 1.0)
    paint(part, gap * (part > BONE_HU) * (distance > 0), 45.0)
