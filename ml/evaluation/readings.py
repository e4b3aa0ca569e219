"""A second reading of simulated pixel labels, for the test-retest study of the paper's section 2.5.

The paper's neuroradiologist outlined 23 exams three times. The simulator's truth is exact, so further readings are
drawn from it: outlines wander as a hand does. How far is an assumption, not a measurement.
"""

from __future__ import annotations

import zlib

import numpy as np
from scipy import ndimage

from ml.data.exams import LabelledExam
from ml.labels import LabelArray, is_blood
from ml.volume import MaskArray

WANDER_MM = 0.5
"""Standard deviation of an outline's displacement: about one pixel of a head CT."""
WANDER_LENGTH_MM = 4.0
"""How far along an outline it stays on one side."""
BIAS_MM = 0.25
"""Standard deviation of how tight or wide a whole exam is outlined in one reading."""
_MARGIN = 8
"""Pixels around a lesion within which its outline may move."""


def read_again(exam: LabelledExam, pixels: LabelArray, reading: int) -> MaskArray:
    """Where a reading sees blood: the first is the labels themselves, later ones outline them anew.

    The same for the same exam and reading. Slices without blood stay so, as does the exam's reference standard.
    """
    truth = is_blood(pixels)
    if reading == 1:
        return truth
    rng = np.random.default_rng([zlib.crc32(exam.exam.encode()), reading])
    spacing_mm = exam.volume.geometry.pixel_spacing_mm
    bias_mm = rng.normal(0, BIAS_MM)
    again = np.zeros_like(truth)
    for z in np.flatnonzero(truth.any(axis=(1, 2))):
        again[z] = _outline(truth[z], spacing_mm, bias_mm, rng)
    return again


def _outline(truth: MaskArray, spacing_mm: tuple[float, float], bias_mm: float, rng: np.random.Generator) -> MaskArray:
    """One (y, x) image: where the distance to the true outline is less than a smooth random displacement."""
    rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    box = tuple(slice(max(0, one[0] - _MARGIN), one[-1] + 1 + _MARGIN) for one in (rows, columns))
    inside = np.pad(truth[box], 1)
    outside_mm = ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
    inside_mm = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    half = min(spacing_mm) / 2  # distances are between pixel centres; the outline runs between them
    signed_mm = np.where(inside, half - inside_mm, outside_mm - half)
    field = ndimage.gaussian_filter(
        rng.normal(size=inside.shape), [WANDER_LENGTH_MM / one for one in spacing_mm], mode="wrap"
    )
    field *= WANDER_MM / max(float(field.std()), 1e-9)
    drawn = np.zeros_like(truth)
    drawn[box] = (signed_mm < field + bias_mm)[1:-1, 1:-1]
    return drawn
