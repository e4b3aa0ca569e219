"""A head that moves while a slice is scanned: some views see it elsewhere than the others.

What comes of it are streaks; where the head turned, bright and dark bands under the skull that look like a layer of
blood. It moves for a while and then lies still, so some neighbouring slices show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ml.phantom.grid import Array
from ml.phantom.projections import SIZE, VIEWS, grow, hu_of, project, reconstruct, shrink
from ml.volume import FloatArray, Volume

WHILE_MM = (10.0, 60.0)
"""Of the stack: how long it moves."""
STEADY_MM = 4.0
"""What is scanned within so much of the stack sees the same movement: thin slices of a spiral are made of one turn."""
SUDDEN_VIEWS = 8
"""In so many of them the head goes from one place to the other, when it does not come back."""
MOVED_MM, TURNED_DEGREES = (0.3, 4.0), (0.5, 5.0)
"""How far the heads of restless patients move: standard deviations."""
AIR_HU = -1000.0


@dataclass(frozen=True, eq=False)
class Movement:
    """Of the head while one slice is scanned."""

    shift_mm: tuple[float, float]
    """(y, x)."""
    turn_degrees: float
    """About the middle of the image."""
    course: Array
    """(VIEWS,) where it is in each view: 0 in its place, 1 moved."""


def draw_unrest(rng: np.random.Generator) -> tuple[float, float]:
    """`shift_mm` and `turn_degrees` of a restless patient."""
    return float(rng.uniform(*MOVED_MM)), float(rng.uniform(*TURNED_DEGREES))


def draw_movements(
    heights_mm: FloatArray, rng: np.random.Generator, *, shift_mm: float, turn_degrees: float
) -> dict[int, Movement]:
    """By slice, for the slices of one part of the stack; `shift_mm` and `turn_degrees` are standard deviations.

    `heights_mm`: (z,) along the normal, rising.
    """
    start = float(rng.uniform(heights_mm[0], heights_mm[-1]))
    stop = start + float(rng.uniform(*WHILE_MM))
    pieces: dict[int, Movement] = {}
    movements: dict[int, Movement] = {}
    for number in np.flatnonzero((heights_mm >= start) & (heights_mm < stop)):
        piece = int((heights_mm[number] - start) / STEADY_MM)
        if piece not in pieces:
            pieces[piece] = _draw_one(rng, shift_mm, turn_degrees)
        movements[int(number)] = pieces[piece]
    return movements


def _draw_one(rng: np.random.Generator, shift_mm: float, turn_degrees: float) -> Movement:
    """It drifts away and comes back, or goes at once and stays."""
    down, right = rng.normal(0.0, shift_mm, 2)
    first, last = sorted(rng.integers(0, VIEWS, 2))
    views = np.arange(VIEWS)
    if rng.random() < 0.5:
        course = np.sin(np.pi * np.clip((views - first) / max(1, last - first), 0.0, 1.0)) ** 2
    else:
        course = np.clip((views - first) / SUDDEN_VIEWS + 0.5, 0.0, 1.0)
    if course.mean() > 0.5:  # most views show it where its labels are
        course = 1.0 - course
    return Movement((float(down), float(right)), float(rng.normal(0.0, turn_degrees)), course.astype(np.float32))


def unlike_still(small_hu: Array, movement: Movement, pixel_mm: float) -> Array:
    """(SIZE, SIZE) HU that a slice of a moving head differs by from that of one that lies still, `small_hu`."""
    mu = np.clip(small_hu - AIR_HU, 0.0, 3000.0) / hu_of(pixel_mm / 10.0)
    other = ndimage.rotate(mu, movement.turn_degrees, reshape=False, order=1) if movement.turn_degrees else mu
    other = ndimage.shift(other, np.array(movement.shift_mm) / pixel_mm, order=1)
    views = project((other - mu)[None]) * movement.course[:, None]
    return np.asarray(reconstruct(views)[0] * hu_of(pixel_mm / 10.0), dtype=np.float32)


def with_motion(hu_zyx: Array, pixel_mm: float, movements: dict[int, Movement]) -> Array:
    """The slices of a scan that was still as if the head had moved; `pixel_mm` is that of its square pixels."""
    rows, columns = hu_zyx.shape[1:]
    matrix = -(-max(rows, columns) // SIZE) * SIZE
    moved = hu_zyx.astype(np.float32, copy=True)
    padding = ((0, matrix - rows), (0, matrix - columns))
    small_mm = pixel_mm * matrix / SIZE
    for number, movement in movements.items():
        small = shrink(np.pad(hu_zyx[number], padding, constant_values=AIR_HU)[None])[0]
        moved[number] += grow(unlike_still(small, movement, small_mm)[None], matrix)[0, :rows, :columns]
    return moved


def restless(volume: Volume, rng: np.random.Generator) -> Volume:
    """A scan as if its patient had been restless for a part of it."""
    shift_mm, turn_degrees = draw_unrest(rng)
    movements = draw_movements(volume.geometry.offsets_mm, rng, shift_mm=shift_mm, turn_degrees=turn_degrees)
    pixel_mm = float(np.mean(volume.geometry.pixel_spacing_mm))
    return Volume(with_motion(volume.hu, pixel_mm, movements), volume.geometry)
