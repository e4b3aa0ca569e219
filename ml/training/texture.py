"""Noise of training patches, cheap to make.

A GPU needs 3 ms for a step of the compact network, and processor cores make its patches: `Generator.standard_normal`
and `scipy.ndimage.gaussian_filter` took more time than everything else that is done to them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

F32Array = npt.NDArray[np.float32]
Generator = np.random.Generator

SHARES = 1 << 16
NORMAL = ndtri((np.arange(SHARES) + 0.5) / SHARES).astype(np.float32)
"""(65536,) the standard normal distribution at the middles of as many equal shares of it: within 4.2 SD."""
REACH_SD = 3.0
"""Of a grain to either side, in standard deviations."""


def white_noise(count: int, rng: Generator) -> F32Array:
    """(count,) independent, standard normal."""
    return np.asarray(NORMAL.take(np.frombuffer(rng.bytes(2 * count), dtype=np.uint16)))


def grainy_noise(shape: tuple[int, ...], grain_px: float, rng: Generator) -> F32Array:
    """(n, v, u) standard normal, in every image as if blurred by a Gaussian of that sigma.

    Noise is the same everywhere, so that all images are blurred as one row, and what runs over an edge does no harm.
    """
    weights = _weights(grain_px)
    reach, width = len(weights) - 1, shape[-1]
    count = int(np.prod(shape))
    noise = white_noise(count + 2 * reach * (width + 1), rng)
    noise = _blur(_blur(noise, weights, 1), weights, width)
    noise *= np.float32(1 / (weights[0] ** 2 + 2 * (weights[1:] ** 2).sum()))  # for each of two axes its square root
    return noise.reshape(shape)


def _weights(sigma_px: float) -> F32Array:
    """(reach + 1,) of a pixel itself and of its neighbours to one side."""
    away = np.arange(int(REACH_SD * sigma_px + 0.5) + 1)
    weights = np.exp(-0.5 * (away / max(sigma_px, 1e-6)) ** 2)
    return np.asarray(weights / (2 * weights.sum() - weights[0]), dtype=np.float32)


def _blur(row: F32Array, weights: F32Array, step: int) -> F32Array:
    """With neighbours that are `step` apart; shorter by all that the first and the last pixel lack."""
    margin = (len(weights) - 1) * step
    count = len(row) - 2 * margin
    blurred = row[margin : margin + count] * weights[0]
    pair = np.empty_like(blurred)
    for away, weight in enumerate(weights[1:], start=1):
        before, after = margin - away * step, margin + away * step
        np.add(row[before : before + count], row[after : after + count], out=pair)
        pair *= weight
        blurred += pair
    return np.asarray(blurred)
