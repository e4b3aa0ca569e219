"""What a training patch may look like beyond what was simulated: geometry, contrast, noise, resolution.

Ranges are drawn wider than nature, so that a real scanner is one more draw (domain randomisation). The contrast
rule is the paper's (section 2.2 and Table 2): a third unchanged, a third power law, a third logarithmic. Geometry is
changed here, the rest where the network is trained (`ml.training.intensity`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ml.labels import IGNORE
from ml.training.intensity import NOISE_VALUES, Intensity

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]
U8Array = npt.NDArray[np.uint8]
Generator = np.random.Generator
Slices = Sequence[npt.NDArray[Any]] | npt.NDArray[Any]
"""Three neighbouring slices in HU, each (v, u)."""

Contrast = Literal["none", "power", "log"]

AIR_HU = -1000.0
SHARPENED_PX = 1.0
"""Sigma of the blur whose difference sharpens."""
GRAIN_PX = 1.0
"""Up to this sigma noise has a grain."""


@dataclass(frozen=True)
class Augmentation:
    """Ranges; probabilities are per patch."""

    rotation_degrees: float = 25.0
    scale: tuple[float, float] = (0.82, 1.18)
    """Height and width independently (paper: head size and aspect ratio)."""
    shear: float = 0.08
    mirror: float = 0.5
    reverse_slices: float = 0.3
    same_slices: float = 0.1
    """All three channels show the middle slice, as at the ends of a stack."""
    contrasts: tuple[Contrast, ...] = ("none", "power", "log")
    """One is drawn, each as likely as the others (paper section 2.2; Table 2 compares single ones)."""
    power_law: tuple[float, float] = (0.85, 1.1)
    logarithm: tuple[float, float] = (0.7, 1.1)
    gain: tuple[float, float] = (0.92, 1.08)
    offset_hu: float = 5.0
    blur_px: tuple[float, float] = (0.3, 0.9)
    blur_probability: float = 0.25
    sharpen_probability: float = 0.15
    sharpening: tuple[float, float] = (0.2, 0.8)
    noise_hu: float = 6.0
    noise_probability: float = 0.4


def augment(
    slices: Slices, blood_vu: U8Array, centre: tuple[float, float], size: int, draw: Augmentation, rng: Generator
) -> tuple[F32Array, U8Array]:
    """A (3, size, size) HU patch and its (size, size) target around `centre` (v, u): the geometry."""
    order = (2, 1, 0) if rng.random() < draw.reverse_slices else (0, 1, 2)
    if rng.random() < draw.same_slices:
        order = (1, 1, 1)
    return warp([slices[one] for one in order], blood_vu, centre, size, draw, rng)


def draw_intensity(draw: Augmentation, rng: Generator) -> Intensity[float]:
    """What is done to the HU of one patch."""
    kind = rng.random()
    blur_px, blend = SHARPENED_PX, 0.0
    if kind < draw.blur_probability:
        blur_px, blend = rng.uniform(*draw.blur_px), 1.0
    elif kind < draw.blur_probability + draw.sharpen_probability:
        blend = -rng.uniform(*draw.sharpening)
    noise_hu = rng.uniform(-draw.noise_hu, draw.noise_hu) if rng.random() < draw.noise_probability else 0.0
    rule = draw.contrasts[rng.integers(len(draw.contrasts))]
    return Intensity(
        blur_px=blur_px,
        blend=blend,
        noise_hu=noise_hu,
        grain_px=rng.uniform(0, GRAIN_PX),
        noise_start=float(rng.integers(NOISE_VALUES)),
        logarithm=rng.uniform(*draw.logarithm) if rule == "log" else 0.0,
        power=rng.uniform(*draw.power_law) if rule == "power" else 1.0,
        gain=rng.uniform(*draw.gain),
        offset_hu=rng.uniform(-draw.offset_hu, draw.offset_hu),
    )


def warp(
    slices: Slices, blood_vu: U8Array, centre: tuple[float, float], size: int, draw: Augmentation, rng: Generator
) -> tuple[F32Array, U8Array]:
    """A random affine view; outside the source the image is air and the target ignored."""
    angle = np.radians(rng.uniform(-draw.rotation_degrees, draw.rotation_degrees))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.diag(1 / rng.uniform(*draw.scale, size=2)) + np.diag([rng.uniform(-draw.shear, draw.shear)], k=1)
    if rng.random() < draw.mirror:
        stretch[:, 1] *= -1
    matrix = rotation @ stretch
    rows, columns = (
        _span(middle, reach, length)
        for middle, reach, length in zip(centre, np.abs(matrix).sum(axis=1) * size / 2, blood_vu.shape, strict=True)
    )
    first, shape = np.array([rows.start, columns.start]), (rows.stop - rows.start, columns.stop - columns.start)
    places = _places(matrix, np.array(centre) - first, size, shape)
    hu = _look_up([one[rows, columns] for one in slices], places, "bilinear", outside=AIR_HU)
    target = _look_up([blood_vu[rows, columns]], places, "nearest", outside=IGNORE)[0]
    return hu, target.astype(np.uint8)


def _span(middle: float, reach: float, length: int) -> slice:
    """The part of `length` pixels that a patch may touch: up to `reach` from its middle, and a pixel more. Two pixels
    at least, so that it has ends.
    """
    first = min(max(int(middle - reach) - 1, 0), length - 2)
    return slice(first, max(min(int(middle + reach) + 3, length), first + 2))


def _places(matrix: F64Array, centre: F64Array, size: int, shape: tuple[int, int]) -> Tensor:
    """(1, size, size, 2) where every pixel of the patch lies in a source of that shape, (u, v) from -1 to 1 between the
    centres of its outermost pixels.
    """
    half = (np.array(shape) - 1) / 2
    steps = (np.arange(size) - (size - 1) / 2) / half[:, None]
    places = np.empty((1, size, size, 2), dtype=np.float32)
    for axis, (down, across) in enumerate(matrix):
        start = centre[axis] / half[axis] - 1
        np.add.outer(
            (start + down * steps[axis]).astype(np.float32),
            (across * steps[axis]).astype(np.float32),
            out=places[0, :, :, 1 - axis],
        )
    return torch.from_numpy(places)


def _look_up(images: Slices, places: Tensor, mode: Literal["bilinear", "nearest"], *, outside: float) -> F32Array:
    """(n, size, size) of n images. PyTorch takes a fifth of the time of one SciPy call for each image."""
    above = np.empty((1, len(images), *images[0].shape), dtype=np.float32)
    for place, image in zip(above[0], images, strict=True):
        np.subtract(image, np.float32(outside), out=place)
    found = functional.grid_sample(torch.from_numpy(above), places, mode=mode, padding_mode="zeros", align_corners=True)
    return np.asarray(found[0].add_(outside).numpy())
