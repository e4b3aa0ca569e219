"""A head CT as an array in Hounsfield units with the geometry it was acquired in.

Axes are (z, y, x): z slices along the normal, y rows, x columns. Patient coordinates are DICOM's LPS
in millimetres (PS3.3 C.7.6.2.1.1). Nothing here is resampled: a tilted gantry stays tilted, uneven
spacing stays uneven.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
HuArray = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where each voxel of a volume lies in the patient.

    Invariant: slices are sorted by position along `normal_lps`, strictly increasing.
    """

    positions_lps: FloatArray
    """(z, 3) mm: ImagePositionPatient, the centre of the first pixel of each slice."""
    row_lps: FloatArray
    """(3,) unit vector along a row: the direction of increasing x (first half of ImageOrientationPatient)."""
    column_lps: FloatArray
    """(3,) unit vector down a column: the direction of increasing y (second half)."""
    pixel_spacing_mm: tuple[float, float]
    """(between rows = y, between columns = x), as PixelSpacing (0028,0030)."""
    sop_instance_uids: tuple[str, ...]
    """(z,) the source instance of each slice."""
    frame_of_reference_uid: str | None = None

    @cached_property
    def normal_lps(self) -> FloatArray:
        """(3,) unit slice normal: row x column."""
        normal = np.cross(self.row_lps, self.column_lps)
        return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)

    @cached_property
    def offsets_mm(self) -> FloatArray:
        """(z,) position of each slice along the normal, mm, increasing."""
        return np.asarray(self.positions_lps @ self.normal_lps, dtype=np.float64)

    @cached_property
    def slice_heights_mm(self) -> FloatArray:
        """(z,) mm of patient along the normal that each slice stands for.

        Half the distance to each neighbour; an end slice counts its one neighbour's distance twice. On a
        tilted gantry this is the distance along the normal, not the table step (5.1 % less at 18 degrees).
        """
        steps = np.diff(self.offsets_mm)
        if steps.size == 0:
            return np.ones(1)
        before = np.concatenate([steps[:1], steps])
        after = np.concatenate([steps, steps[-1:]])
        return np.asarray((before + after) / 2, dtype=np.float64)

    @cached_property
    def voxel_volumes_ml(self) -> FloatArray:
        """(z,) mL of one voxel of each slice."""
        return self.slice_heights_mm * (self.pixel_spacing_mm[0] * self.pixel_spacing_mm[1] / 1000.0)

    @cached_property
    def tilt_degrees(self) -> float:
        """Angle between the slice normal and the line through the slice origins (0 without tilt)."""
        if len(self.positions_lps) < 2:
            return 0.0
        along = self.positions_lps[-1] - self.positions_lps[0]
        cosine = float(abs(along @ self.normal_lps) / np.linalg.norm(along))
        return float(np.degrees(np.arccos(min(1.0, cosine))))

    def to_lps(self, z: int, y: float, x: float) -> FloatArray:
        """(3,) mm: the patient point of index (z, y, x); y and x may lie between pixels."""
        return np.asarray(
            self.positions_lps[z]
            + self.row_lps * (x * self.pixel_spacing_mm[1])
            + self.column_lps * (y * self.pixel_spacing_mm[0]),
            dtype=np.float64,
        )


@dataclass(frozen=True, eq=False)
class Volume:
    """An exam ready for the network. `hu` is float32 (z, y, x); pixel padding reads as air (-1024)."""

    hu: HuArray
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.hu.ndim != 3 or len(self.geometry.positions_lps) != self.hu.shape[0]:
            raise ValueError(f"volume {self.hu.shape} does not fit {len(self.geometry.positions_lps)} slice positions")

    def volume_ml(self, mask: MaskArray) -> float:
        """mL of a (z, y, x) mask, each slice with its own height along the normal."""
        return float(mask.sum(axis=(1, 2)) @ self.geometry.voxel_volumes_ml)
