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
class Region:
    """Voxels of a grid, kept as the box around them: an exam of 80 million voxels may have dozens of lesions."""

    shape: tuple[int, ...]
    """(z, y, x) of the grid."""
    box: tuple[slice, ...]
    inside: MaskArray
    """(z, y, x) bool, of the box."""

    @classmethod
    def of(cls, mask: MaskArray) -> Region:
        """From a mask of the whole grid with at least one voxel."""
        spans = []
        for axis in range(mask.ndim):
            seen = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
            spans.append(slice(int(seen[0]), int(seen[-1]) + 1))
        return cls(mask.shape, tuple(spans), mask[tuple(spans)].copy())

    @property
    def mask(self) -> MaskArray:
        """(z, y, x) bool of the whole grid, made anew each time."""
        mask = np.zeros(self.shape, dtype=np.bool_)
        mask[self.box] = self.inside
        return mask

    def on_slice(self, z: int) -> MaskArray:
        """(y, x) bool of one slice."""
        plane = np.zeros(self.shape[1:], dtype=np.bool_)
        if self.box[0].start <= z < self.box[0].stop:
            plane[self.box[1:]] = self.inside[z - self.box[0].start]
        return plane


@dataclass(frozen=True, eq=False)
class Lesion:
    """One connected component of the mask; `number` counts from 1, largest first."""

    number: int
    region: Region
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
