"""What the network says of one exam, on the grid of the input volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.volume import MaskArray

ProbArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BundleIdentity:
    """Which weights made a prediction. `digest` is the SHA-256 (hex) over weights and config."""

    name: str
    version: str
    digest: str
    device_uid: str
    """DICOM Device UID (0018,1002), one per digest."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Probabilities in [0, 1]; `prob` is (z, y, x), `slice_scores` is (z,)."""

    prob: ProbArray
    mask: MaskArray
    """(z, y, x) what is reported as hemorrhage: `prob` at the bundle's operating point, small islands removed."""
    slice_scores: ProbArray
    exam_score: float
    """Calibrated probability that the exam shows intracranial hemorrhage."""
    exam_positive: bool
    """`exam_score` at or above the bundle's exam operating point."""
    bundle: BundleIdentity


@dataclass(frozen=True, eq=False)
class Lesion:
    """One connected component of the mask; `number` counts from 1, largest first."""

    number: int
    mask: MaskArray
    """(z, y, x) bool."""
    volume_ml: float
    mean_hu: float
    key_slice: int
    """z of the largest area."""
    longest_axial_diameter_mm: float
