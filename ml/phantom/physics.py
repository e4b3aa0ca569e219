"""What a scanner adds to ideal slices: sharpness of the kernel, coloured noise, beam hardening, metal, motion, rings.

Artefacts are made as in a scanner: an error in the projections (a 128 x 128 copy of the slice, parallel beams) is
reconstructed by filtered back-projection and added. Beam hardening: the error grows with the square of the bone along
a ray, which darkens the band between the petrous bones and brightens beside it.
"""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from ml.phantom.grid import Array
from ml.phantom.motion import draw_movements, unlike_still
from ml.phantom.projections import SIZE, grow, hu_of, project, reconstruct, shrink
from ml.phantom.scanner import Sliced
from ml.phantom.spec import ScannerSpec
from ml.volume import MaskArray

BONY_HU = 92.0
"""A voxel above this, blurred by the kernel, is bone or bone's rim: no reader sees blood in it."""


def artefacts(sliced: Sliced, scanner: ScannerSpec) -> Array:
    """(z, SIZE, SIZE) HU to add: beam hardening, photon starvation at metal, motion, rings, cupping."""
    small = shrink(sliced.hu)
    pixel_cm = scanner.fov_mm / SIZE / 10.0
    rng = np.random.default_rng([scanner.seed, 5])
    scale = hu_of(pixel_cm)
    bone = np.clip(small - 130.0, 0.0, 2500.0) / 1000.0
    through = project(bone) * np.float32(pixel_cm)
    error = -0.003 * np.float32(scanner.hardening) * through**2
    hardened = _corrected(reconstruct(error) * scale, small)
    error = np.zeros_like(error)
    metal = np.clip(small - 2300.0, 0.0, None).max(axis=(1, 2)) > 0
    for number in np.flatnonzero(metal):
        traced = project(np.clip(small[number : number + 1] - 2300.0, 0.0, None) / 1000.0)[0] * np.float32(pixel_cm)
        starved = np.clip(traced, 0.0, 3.0)
        error[number] += starved * rng.normal(-0.05, 0.16, starved.shape).astype(np.float32)
    image = hardened + (reconstruct(error) * scale if np.any(error) else 0.0)
    if scanner.motion_mm > 0:
        heights_mm = np.cumsum(sliced.thickness_mm)
        shift, turn = scanner.motion_mm, scanner.turn_degrees
        for moved, movement in draw_movements(heights_mm, rng, shift_mm=shift, turn_degrees=turn).items():
            image[moved] += unlike_still(small[moved], movement, 10.0 * pixel_cm)
    axis = (np.arange(SIZE) - (SIZE - 1) / 2) * scanner.fov_mm / SIZE
    radius = np.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2)
    image += np.float32(scanner.cupping_hu) * ((radius / 80.0) ** 2 - 0.5).clip(-0.5, 1.0).astype(np.float32)
    if scanner.ring_hu > 0:
        rings = ndimage.gaussian_filter1d(rng.normal(0, 1.0, 200), 1.0) * scanner.ring_hu
        image += rings[np.clip(radius, 0, 199).astype(int)].astype(np.float32) * (radius < 60)
    return np.asarray(image, dtype=np.float32)


def _corrected(image: Array, small: Array) -> Array:
    """Beam hardening as a scanner leaves it: corrected for most of what is smooth (bright rim, dark middle)."""
    soft = (np.abs(small - 30.0) < 90.0).astype(np.float32)
    width = (0, 5.0, 5.0)
    near = ndimage.gaussian_filter(soft, width, truncate=2.5) + np.float32(1e-3)
    smooth = ndimage.gaussian_filter(image * soft, width, truncate=2.5) / near
    left = image - np.float32(0.85) * smooth
    return np.asarray(np.where(left > 0, np.float32(0.55) * left, left), dtype=np.float32)


def _frequencies(matrix: int, pixel_mm: float) -> Array:
    """(matrix, matrix // 2 + 1) cycles per mm."""
    fy, fx = fft.fftfreq(matrix, pixel_mm), fft.rfftfreq(matrix, pixel_mm)
    return np.asarray(np.sqrt(fy[:, None] ** 2 + fx[None, :] ** 2), dtype=np.float32)


def _kernel(scanner: ScannerSpec, frequency: Array) -> Array:
    """Modulation of the in-plane point spread: a core with edge enhancement, and a wide tail.

    The tail follows a real scan (GE HiSpeed Dual, kernel STD+, slices of 7 mm): within the vault the median is 52 HU
    at 2.4 mm from bone, 42 at 4.3 mm, 38 at 7 mm and 34 at 12 mm; without a tail the simulated brain is level from
    3 mm on.
    """
    sigma = scanner.blur_mm / 2.355
    gauss = np.exp(-2.0 * (np.pi * frequency * sigma) ** 2)
    lift = 1.0 + scanner.edge_gain * (frequency / 0.35) ** 2 * np.exp(1.0 - (frequency / 0.35) ** 2)
    tail = 1.0 / (1.0 + (2.0 * np.pi * frequency * scanner.halo_mm) ** 2)
    return np.asarray((1.0 - scanner.halo) * gauss * lift + scanner.halo * tail, dtype=np.float32)


def _noise_shape(scanner: ScannerSpec, frequency: Array) -> Array:
    """Amplitude of the noise by frequency: the ramp under the kernel's roll-off, with a little low-frequency floor."""
    grain = scanner.noise_grain_mm
    return np.asarray(
        (frequency * grain + 0.08) * np.exp(-1.2 * (np.pi * frequency * grain / 2.0) ** 2), dtype=np.float32
    )


def _noise_gain(scanner: ScannerSpec, matrix: int) -> float:
    """Scale that gives the whole spectrum (up to a 512 matrix) unit variance; a coarser matrix keeps its part of it."""
    fine = _frequencies(512, scanner.fov_mm / 512)
    total = float(np.mean(_noise_shape(scanner, fine).astype(np.float64) ** 2))
    area = (512.0 / matrix) ** 2
    return float(1.0 / np.sqrt(total * area))


def apply_physics(sliced: Sliced, scanner: ScannerSpec, *, matrix: int) -> tuple[Array, MaskArray]:
    """(z, y, x) HU as reconstructed (kernel, artefacts, noise, padding), and where bone outshines blood."""
    pixel = scanner.fov_mm / matrix
    frequency = _frequencies(matrix, pixel)
    added = artefacts(sliced, scanner)
    rng = np.random.default_rng([scanner.seed, 7, matrix])
    shape = _noise_shape(scanner, frequency)
    gain = _noise_gain(scanner, matrix)
    thickness = sliced.thickness_mm
    level = scanner.noise_hu * np.sqrt(thickness[0] / thickness)
    kernel = _kernel(scanner, frequency)
    small = shrink(sliced.hu)
    load = _noise_map(small)
    out = np.empty_like(sliced.hu)
    bony = np.empty(sliced.hu.shape, dtype=np.bool_)
    for number in range(len(sliced.hu)):
        smooth = fft.irfft2(fft.rfft2(sliced.hu[number]) * kernel, s=(matrix, matrix))
        bony[number] = smooth > BONY_HU
        white = rng.standard_normal((matrix, matrix), dtype=np.float32)
        noise = fft.irfft2(fft.rfft2(white) * shape, s=(matrix, matrix)) * np.float32(gain * level[number])
        extra = grow(np.stack([added[number], load[number]]), matrix)
        out[number] = smooth + noise * extra[1] + extra[0]
    return calibrate(out, scanner), bony


def _noise_map(small: Array) -> Array:
    """(z, SIZE, SIZE) relative SD: more behind much bone, less at the edge of the head and in thin slices of it."""
    dense = np.clip(small + 1000.0, 0.0, 2200.0) / 1000.0
    wide = ndimage.gaussian_filter(dense, (0, 14.0, 14.0), mode="constant", truncate=2.5)
    return np.asarray(np.clip(0.35 + 0.62 * wide, 0.3, 1.8), dtype=np.float32)


def calibrate(hu: Array, scanner: ScannerSpec) -> Array:
    """Scanner's own HU scale; outside the circle of reconstruction air at -1024."""
    hu *= np.float32(scanner.hu_gain)
    hu += np.float32(scanner.hu_offset)
    if scanner.circular_field:
        hu[:, outside_circle(hu.shape[1])] = -1024.0
    return np.asarray(np.clip(hu, -1024.0, 3071.0), dtype=np.float32)


def outside_circle(matrix: int) -> MaskArray:
    """(matrix, matrix) True where nothing is reconstructed: outside the circle that fits into the image."""
    axis = np.arange(matrix) - (matrix - 1) / 2
    return np.asarray(axis[:, None] ** 2 + axis[None, :] ** 2 > (matrix / 2) ** 2)


def sharpen(hu: Array, scanner: ScannerSpec) -> Array:
    """The same slices as a bone kernel shows them: high frequencies, and their noise, raised up to eight times."""
    matrix = hu.shape[1]
    frequency = _frequencies(matrix, scanner.fov_mm / matrix)
    lift = 1.0 + 7.0 * (1.0 - np.exp(-((frequency / 0.45) ** 2)))
    out = np.empty_like(hu)
    for number, one in enumerate(hu):
        out[number] = fft.irfft2(fft.rfft2(one) * lift, s=(matrix, matrix))
    return np.asarray(np.clip(out, -1024.0, 3071.0), dtype=np.float32)
