"""Sharpness, noise and contrast of training patches.

What is done to a patch is drawn where the patch is cut, as a row of numbers, and computed for the whole batch at once
where the network is: a GPU needs 3 ms for a step of the compact network, and on the processor cores that cut patches
this was two fifths of the work. Where the network is on those cores too, the loader's processes do it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

CONTRAST_HU = 110.0
"""The contrast rule works on 0 to this HU as 0 to 1: the range of the brain window."""
REACH_PX = 3
"""To either side, of the Gaussians here: three times the widest sigma."""
NARROWEST_PX = 1e-3
"""Of a Gaussian that leaves everything as it is."""
NOISE_VALUES = 1 << 22
"""Noise is cut out of one row of so many values, at a place and with a sign that are drawn. Three slices of 1,024 rows
and columns fit."""

T = TypeVar("T")


class Intensity(NamedTuple, Generic[T]):
    """What is done to one patch, in this order; as tensors, to a batch of them."""

    blur_px: T
    """Sigma of the Gaussian within each slice that `blend` is about; up to 1."""
    blend: T
    """1: blurred; 0: as it is; below 0: sharpened, by that share of what the blur takes away."""
    noise_hu: T
    """Standard deviation; either sign."""
    grain_px: T
    """Sigma of the Gaussian by which white noise is blurred before it gets that standard deviation; up to 1."""
    noise_start: T
    """Where the patch's noise begins in the row of values."""
    logarithm: T
    """0: the share s of the brain's range becomes s ** power. Above: logarithm * log2(1 + s)."""
    power: T
    gain: T
    """Of the whole scale of HU, as `offset_hu`."""
    offset_hu: T


CALM: Intensity[float] = Intensity(
    blur_px=1.0,
    blend=0.0,
    noise_hu=0.0,
    grain_px=0.0,
    noise_start=0.0,
    logarithm=0.0,
    power=1.0,
    gain=1.0,
    offset_hu=0.0,
)
"""Changes nothing."""


def change_intensity(hu_N3HW: Tensor, intensity_NK: Tensor) -> Tensor:
    """(N, 3, H, W) float32 HU of patches in HU of any type; row n of `intensity_NK` is the Intensity of patch n."""
    hu = hu_N3HW.to(torch.float32, copy=True)
    draw = Intensity(*intensity_NK[:, :, None, None, None].unbind(1))
    _change_sharpness(hu, draw)
    _add_noise(hu, draw)
    return _change_contrast(hu, draw)


def _change_sharpness(hu: Tensor, draw: Intensity[Tensor]) -> None:
    rows = _rows(draw.blend)
    chosen = hu[rows]
    around = functional.pad(chosen, (REACH_PX,) * 4, mode="replicate")
    hu[rows] = chosen.lerp(_blurred(around, _weights(draw.blur_px[rows])), draw.blend[rows])


def _add_noise(hu: Tensor, draw: Intensity[Tensor]) -> None:
    rows = _rows(draw.noise_hu)
    weights = _weights(draw.grain_px[rows])
    shape = (hu.shape[1], hu.shape[2] + 2 * REACH_PX, hu.shape[3] + 2 * REACH_PX)
    count = math.prod(shape)
    starts = draw.noise_start[rows].flatten().long() % (NOISE_VALUES - count)
    noise = _blurred(_white_noise(hu.device).unfold(0, count, 1)[starts].view(-1, *shape), weights)
    # by weights w, independent values of variance 1 become ones of sum(w^2); once along the rows, once the columns
    variance = 2 * (weights**2).sum(dim=-1, keepdim=True) - weights[..., :1] ** 2
    hu[rows] += noise.mul_(draw.noise_hu[rows] / variance)


def _change_contrast(hu: Tensor, draw: Intensity[Tensor]) -> Tensor:
    """The paper's ways on the brain's range of HU, then a small gain and offset of the whole scale. What is outside of
    the range moves with its end, so that bone stays brighter than blood.
    """
    rows = _rows(draw.logarithm)
    log, share = draw.logarithm[rows], _share(hu[rows])
    hu[rows] += (share + 1).log2_().mul_(log).sub_(share).mul_((log > 0) * CONTRAST_HU)
    rows = _rows(draw.power - 1)
    share = _share(hu[rows])
    hu[rows] += share.pow(draw.power[rows]).sub_(share).mul_(CONTRAST_HU)
    return hu.mul_(draw.gain).add_(draw.offset_hu)


def _share(hu: Tensor) -> Tensor:
    """Of the brain's range."""
    return (hu * (1 / CONTRAST_HU)).clamp_(0, 1)


def _rows(amount: Tensor) -> Tensor | slice:
    """The patches to which something is done. On a GPU all: it would have to wait for the answer."""
    return slice(None) if amount.is_cuda else amount.flatten().nonzero().flatten()


def _weights(sigma_px: Tensor) -> Tensor:
    """(N, 1, 1, 1 + REACH_PX) of a pixel and of its neighbours to one side, for sigmas of (N, 1, 1, 1)."""
    away = torch.arange(REACH_PX + 1, device=sigma_px.device)
    weights = torch.exp(-0.5 * (away / sigma_px.clamp(min=NARROWEST_PX)) ** 2)
    return weights / (2 * weights.sum(dim=-1, keepdim=True) - weights[..., :1])


def _blurred(images: Tensor, weights: Tensor) -> Tensor:
    """Within each slice, each patch with its own weights; smaller by REACH_PX on every side."""
    itself, *others = torch.split(weights, 1, dim=-1)
    for axis in (2, 3):
        length = images.shape[axis] - 2 * REACH_PX
        total = images.narrow(axis, REACH_PX, length) * itself
        for away, weight in enumerate(others, start=1):
            pair = images.narrow(axis, REACH_PX - away, length) + images.narrow(axis, REACH_PX + away, length)
            total.addcmul_(pair, weight)
        images = total
    return images


@lru_cache(maxsize=8)
def _white_noise(device: torch.device) -> Tensor:
    """(NOISE_VALUES,) independent, standard normal, the same on every device."""
    return torch.randn(NOISE_VALUES, generator=torch.Generator().manual_seed(0)).to(device)
