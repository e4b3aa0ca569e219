"""What the network says of one exam, on the grid of the input volume."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from ml.labels import Subtype
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


class Side(StrEnum):
    """Where a lesion lies in the patient."""

    LEFT = "left"
    RIGHT = "right"
    MIDLINE = "midline"
    """On both sides of the midline, neither of which holds nearly all of it."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """One connected component of the mask; `number` counts from 1, largest first."""

    number: int
    mask: MaskArray
    """(z, y, x) bool."""
    volume_ml: float
    """Voxels times their true size: slice heights along the normal, not table steps."""
    mean_hu: float
    key_slices: tuple[int, ...]
    """z of the slices with the largest areas, the largest first; at least one."""
    longest_axial_diameter_mm: float
    """From edge to edge within one slice."""
    abc2_ml: float
    """The bedside estimate A x B x C / 2, beside the volume that it estimates."""
    side: Side
    subtype: Subtype | None = None
    """None where the network does not tell subtypes."""

    @property
    def key_slice(self) -> int:
        """z of the largest area."""
        return self.key_slices[0]
