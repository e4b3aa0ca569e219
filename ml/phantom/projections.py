"""Slices as the sums that a scanner measures along its rays, and back: SIZE x SIZE pixels, parallel beams."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft, sparse

from ml.phantom.grid import Array

SIZE = 128
VIEWS = 90
"""Of half a turn."""
FINER = 2
"""Each pixel is this many times as many points in both directions: with one, a skull leaves streaks of 26 HU in its
middle when it is projected and reconstructed, with two 6."""
BINS = 184
PER_CM = 0.19
"""Attenuation of water: 1000 HU."""


@lru_cache(maxsize=1)
def _projector() -> sparse.csr_matrix:
    """(VIEWS x BINS, SIZE x SIZE) line integrals of unit pixels, linear between detector bins."""
    points = (np.arange(SIZE * FINER, dtype=np.float32) + 0.5) / FINER
    y, x = np.meshgrid(points - SIZE / 2, points - SIZE / 2, indexing="ij")
    pixel = (points.astype(np.int64)[:, None] * SIZE + points.astype(np.int64)).ravel()
    views = []
    for number in range(VIEWS):
        angle = np.pi * number / VIEWS
        at = (x * np.cos(angle) + y * np.sin(angle)).ravel() + (BINS - 1) / 2
        first = np.floor(at).astype(np.int64)
        upper = (at - first).astype(np.float32)
        weights = np.concatenate([1 - upper, upper]) / FINER**2
        places = np.concatenate([first, first + 1]), np.concatenate([pixel, pixel])
        views.append(sparse.coo_matrix((weights, places), shape=(BINS, SIZE * SIZE)).tocsr())
    return sparse.vstack(views, format="csr").astype(np.float32)


@lru_cache(maxsize=1)
def _back_projector() -> sparse.csr_matrix:
    return _projector().T.tocsr()


def _ramp() -> Array:
    """Frequency response of a band-limited ramp, per bin."""
    n = np.concatenate([np.arange(BINS), np.arange(-BINS, 0)])
    kernel = np.zeros(2 * BINS)
    kernel[0] = 0.25
    odd = n % 2 == 1
    kernel[odd] = -1.0 / (np.pi * n[odd]) ** 2
    return np.asarray(np.real(fft.fft(kernel)), dtype=np.float32)


def project(slices: Array) -> Array:
    """(z, SIZE, SIZE) to (z, VIEWS, BINS), in pixel lengths."""
    flat = slices.reshape(len(slices), -1)
    return np.asarray((_projector() @ flat.T).T.reshape(len(slices), VIEWS, BINS), dtype=np.float32)


def hu_of(pixel_cm: float) -> np.float32:
    """HU of a reconstruction that has attenuation in pixel lengths."""
    return np.float32(1000.0 / PER_CM / pixel_cm)


def reconstruct(sinogram: Array) -> Array:
    """Filtered back-projection, (z, VIEWS, BINS) to (z, SIZE, SIZE)."""
    padded = fft.rfft(sinogram, 2 * BINS, axis=-1, workers=1)
    filtered = fft.irfft(padded * _ramp()[: BINS + 1], axis=-1, workers=1)[..., :BINS].astype(np.float32)
    flat = filtered.reshape(len(sinogram), -1)
    image = (_back_projector() @ flat.T).T.reshape(len(sinogram), SIZE, SIZE)
    return np.asarray(image * np.float32(np.pi / VIEWS), dtype=np.float32)


def shrink(hu: Array) -> Array:
    """(z, n, n) to (z, SIZE, SIZE), each the mean of a block; n is a multiple of SIZE."""
    factor = hu.shape[1] // SIZE
    return np.asarray(hu.reshape(len(hu), SIZE, factor, SIZE, factor).mean(axis=(2, 4)), dtype=np.float32)


def grow(small: Array, matrix: int) -> Array:
    """Linear enlargement of (z, SIZE, SIZE) that keeps pixel areas aligned, by two matrix products."""
    at = (np.arange(matrix) + 0.5) * SIZE / matrix - 0.5
    weights = np.clip(1.0 - np.abs(at[:, None] - np.arange(SIZE)[None, :]), 0.0, None)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.asarray(np.matmul(np.matmul(weights, small), weights.T), dtype=np.float32)
