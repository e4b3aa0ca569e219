"""Is this volume a head in Hounsfield units? Coarse checks on the content, so that nothing else is analysed.

A head is air around bone that closes around something as dense as brain. Half-open skulls (after craniectomy)
pass, as a few closed slices are enough.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ml.data.refusals import refusal
from ml.volume import FloatArray, HuArray, MaskArray, Volume

COARSE_MM = 2.0
BONE_HU = 200.0
"""Less than adults have: a newborn's skull, 2 mm of soft bone, is blurred in thick slices."""
BRAIN_HU = (0.0, 90.0)
AIR_BELOW_HU = -300.0
LEAST_SHARE = 0.002
"""Of voxels that must be air, and bone: far less than in any head scan."""
SUTURE_MM = 6.0
"""Openings of the skull that still count as closed: sutures, foramina, thin orbital walls."""
LEAST_BRAIN_AREA_MM2 = 2500.0
"""About a quarter of an adult brain slice, half of a newborn's; the spinal canal has 300."""
LARGEST_BRAIN_AREA_MM2 = 40_000.0
"""Of heads measured 24,000 at most; with 1 mm for pixels of 0.49 mm, as scripts write that forget them, 79,000."""
LEAST_BRAIN_SLICES = 2
LONGEST_HEAD_MM = 450.0
PART_OF_A_HEAD_MM = 60.0
WIDE, NARROW = 0.9, (0.03, 0.3)
"""Shares of the tissue of the slice that has most: where a head is widest, and near its vertex."""
STEEPEST_MM = 1000.0
"""mm2 by which slices grow per mm from there to there. Parts of 75 heads have 850 at most, those of real ones 600, as
has the pole of a ball of their size; slices of 4 mm and more whose positions are counted, not measured, over 1,100."""


def check_head(volume: Volume) -> None:
    """Raise UnreadableStudy IMPLAUSIBLE_HU or NOT_HEAD unless the volume looks like a head CT."""
    hu, bone, pixel_mm, offsets_mm = _coarse(volume)
    if np.mean(hu < AIR_BELOW_HU) < LEAST_SHARE:
        raise refusal("IMPLAUSIBLE_HU", why=f"too little air; the lowest value is {volume.hu.min():.0f}")
    if np.mean(bone) < LEAST_SHARE:
        raise refusal("IMPLAUSIBLE_HU", why=f"too little bone; the highest value is {volume.hu.max():.0f}")
    coverage_mm = float(volume.geometry.offsets_mm[-1] - volume.geometry.offsets_mm[0])
    if coverage_mm > LONGEST_HEAD_MM:
        raise refusal("NOT_HEAD", why=f"they cover {coverage_mm:.0f} mm")
    areas_mm2 = [_brain_area_mm2(*one, pixel_mm) for one in zip(hu, bone, strict=True)]
    if sum(area >= LEAST_BRAIN_AREA_MM2 for area in areas_mm2) < LEAST_BRAIN_SLICES:
        raise refusal("NOT_HEAD", why="no skull around a brain")
    if max(areas_mm2) > LARGEST_BRAIN_AREA_MM2:
        raise refusal("NOT_HEAD", why=f"a brain of {max(areas_mm2) / 100:.0f} cm2; is Pixel Spacing right?")
    if coverage_mm < PART_OF_A_HEAD_MM and _growth_mm(hu, pixel_mm, offsets_mm) > STEEPEST_MM:
        raise refusal("NOT_HEAD", why=f"from wide to narrow they cover {coverage_mm:.0f} mm; are positions in mm?")


def _coarse(volume: Volume) -> tuple[HuArray, MaskArray, tuple[float, float], FloatArray]:
    """About 48 slices in pixels of COARSE_MM, enough for shapes of centimetres; the pixel size (y, x); the offsets.

    HU are those of every n-th pixel, bone is that of all: a thin skull lies between such pixels as often as in them.
    """
    mm_y, mm_x = volume.geometry.pixel_spacing_mm
    rows, columns = max(1, round(COARSE_MM / mm_y)), max(1, round(COARSE_MM / mm_x))
    every = max(1, len(volume.hu) // 48)
    slices = volume.hu[::every]
    down, across = range(0, slices.shape[1], rows), range(0, slices.shape[2], columns)
    bone = np.logical_or.reduceat(np.logical_or.reduceat(slices > BONE_HU, down, axis=1), across, axis=2)
    return slices[:, ::rows, ::columns], bone, (rows * mm_y, columns * mm_x), volume.geometry.offsets_mm[::every]


def _growth_mm(hu: HuArray, pixel_mm: tuple[float, float], offsets_mm: FloatArray) -> float:
    """mm2 of tissue that slices gain per mm where the head widens fastest; 0 where it does not."""
    tissue = (hu > AIR_BELOW_HU).sum(axis=(1, 2))
    share = tissue / tissue.max()
    wide, narrow = share >= WIDE, (share > NARROW[0]) & (share < NARROW[1])
    gained_mm2 = (tissue[wide][:, None] - tissue[narrow]) * pixel_mm[0] * pixel_mm[1]
    return float((gained_mm2 / np.abs(offsets_mm[wide][:, None] - offsets_mm[narrow])).max(initial=0.0))


def _brain_area_mm2(hu: HuArray, bone: MaskArray, pixel_mm: tuple[float, float]) -> float:
    """Area of the largest region inside closed bone whose median is as dense as brain."""
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
