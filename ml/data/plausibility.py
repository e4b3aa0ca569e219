"""Is this volume a head in Hounsfield units? Coarse checks on the content, so that nothing else is analysed.

A head is air around bone that closes around something as dense as brain. Half-open skulls (after craniectomy)
pass, as a few closed slices are enough.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ml.data.refusals import refusal
from ml.volume import HuArray, MaskArray, Volume

COARSE_MM = 2.0
BONE_HU = 250.0
BRAIN_HU = (0.0, 90.0)
AIR_BELOW_HU = -300.0
LEAST_SHARE = 0.002
"""Of voxels that must be air, and bone: far less than in any head scan."""
SUTURE_MM = 6.0
"""Openings of the skull that still count as closed: sutures, foramina, thin orbital walls."""
LEAST_BRAIN_AREA_MM2 = 2500.0
"""About a quarter of an adult brain slice, half of a newborn's; the spinal canal has 300."""
LEAST_BRAIN_SLICES = 2
LONGEST_HEAD_MM = 450.0


def check_head(volume: Volume) -> None:
    """Raise UnreadableStudy IMPLAUSIBLE_HU or NOT_HEAD unless the volume looks like a head CT."""
    hu, pixel_mm = _coarse(volume)
    if np.mean(hu < AIR_BELOW_HU) < LEAST_SHARE:
        raise refusal("IMPLAUSIBLE_HU", why=f"no air; the lowest value is {volume.hu.min():.0f}")
    if np.mean(hu > BONE_HU) < LEAST_SHARE:
        raise refusal("IMPLAUSIBLE_HU", why=f"no bone; the highest value is {volume.hu.max():.0f}")
    coverage_mm = float(volume.geometry.offsets_mm[-1] - volume.geometry.offsets_mm[0])
    if coverage_mm > LONGEST_HEAD_MM:
        raise refusal("NOT_HEAD", why=f"they cover {coverage_mm:.0f} mm")
    if sum(_brain_area_mm2(one, pixel_mm) >= LEAST_BRAIN_AREA_MM2 for one in hu) < LEAST_BRAIN_SLICES:
        raise refusal("NOT_HEAD", why="no skull around a brain")


def _coarse(volume: Volume) -> tuple[HuArray, tuple[float, float]]:
    """Every n-th pixel and about 48 slices, enough for shapes of centimetres; with the pixel size (y, x)."""
    mm_y, mm_x = volume.geometry.pixel_spacing_mm
    rows, columns = max(1, round(COARSE_MM / mm_y)), max(1, round(COARSE_MM / mm_x))
    slices = max(1, len(volume.hu) // 48)
    return volume.hu[::slices, ::rows, ::columns], (rows * mm_y, columns * mm_x)


def _brain_area_mm2(hu: HuArray, pixel_mm: tuple[float, float]) -> float:
    """Area of the largest region inside closed bone whose median is as dense as brain."""
    bone: MaskArray = hu > BONE_HU
    if not bone.any():
        return 0.0
    radius = max(1, round(SUTURE_MM / 2 / min(pixel_mm)))
    disc = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), radius)
    closed = ndimage.binary_closing(np.pad(bone, 2 * radius), disc)[2 * radius : -2 * radius, 2 * radius : -2 * radius]
    inside = ndimage.binary_fill_holes(closed) & ~closed
    labels, count = ndimage.label(inside)
    pixels = [
        int(np.sum(labels == label))
        for label in range(1, count + 1)
        if BRAIN_HU[0] <= float(np.median(hu[labels == label])) <= BRAIN_HU[1]
    ]
    return max(pixels, default=0) * pixel_mm[0] * pixel_mm[1]
