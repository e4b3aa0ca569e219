"""NIfTI files to volumes: RAS affines become LPS geometry, slices as they were acquired.

NIfTI-1 stores an affine from voxel indices (i, j, k) to RAS millimetres (the sform, else the qform, else the voxel
sizes alone); x to the right and y to the front, where DICOM has left and back. A sheared affine is a tilted gantry
and stays one. Nothing is resampled.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from ml.data.pixels import AIR_HU
from ml.data.refusals import refusal
from ml.data.series import LEAST_SLICES, check_axial, head_volume
from ml.volume import FloatArray, Geometry, Volume

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SQUARE = 1e-2
"""Cosine of the angle between rows and columns above which a slice is no rectangle."""
ENDINGS = (".nii.gz", ".nii")
UNKNOWN_CODE = 0
"""qform and sform codes of a header that does not say where the patient is."""


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of a NIfTI file."""

    values: npt.NDArray[np.float32]
    """(z, y, x), along the normal."""
    geometry: Geometry
    """`sop_instance_uids` holds the index of each slice in the file, as the tables of data sets count (from 0)."""
    placed: bool
    """False where the header does not say where the patient is."""


def read_nifti(path: Path) -> Volume:
    """The head CT in a NIfTI file; raises UnreadableStudy."""
    stack = read_stack(path)
    check_axial(stack.geometry.normal_lps)
    if len(stack.values) < LEAST_SLICES:
        raise refusal("TOO_FEW_SLICES", count=len(stack.values), least=LEAST_SLICES)
    hu = np.nan_to_num(stack.values, nan=AIR_HU, posinf=AIR_HU, neginf=AIR_HU)
    return head_volume(np.maximum(hu, np.float32(AIR_HU)), stack.geometry)


def read_stack(path: Path) -> Stack:
    """The values of a NIfTI file of one volume, whatever they mean; raises UnreadableStudy."""
    try:
        image = nib.Nifti1Image.from_filename(path)
        values = np.asarray(image.dataobj, dtype=np.float32)
    except FileNotFoundError:
        raise
    except (ImageFileError, HeaderDataError, ValueError, EOFError, OSError, zlib.error, MemoryError) as error:
        raise refusal("NIFTI_UNREADABLE", why=type(error).__name__) from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or 0 in values.shape:
        raise refusal("NIFTI_GEOMETRY", why=f"{values.ndim} dimensions where 3 are expected")
    affine = RAS_TO_LPS @ np.asarray(image.affine, dtype=np.float64)
    axes = _axes(affine)
    geometry = geometry_of(affine, values.shape, axes)
    values = values.transpose(axes)
    if geometry.sop_instance_uids[0] != "0":
        values = values[::-1]
    codes = (int(image.header["qform_code"]), int(image.header["sform_code"]))
    return Stack(values, geometry, placed=codes != (UNKNOWN_CODE, UNKNOWN_CODE))


def geometry_of(affine_lps: FloatArray, shape: tuple[int, ...], axes: tuple[int, int, int]) -> Geometry:
    """The geometry of slices across `axes[0]`, rows counted along `axes[1]`, columns along `axes[2]`."""
    slices, rows, columns = axes
    lengths = np.linalg.norm(affine_lps[:3, :3], axis=0)
    row, column = affine_lps[:3, columns] / lengths[columns], affine_lps[:3, rows] / lengths[rows]
    if abs(row @ column) > SQUARE:
        raise refusal("NIFTI_GEOMETRY", why="rows and columns are not at right angles")
    index = np.arange(shape[slices])
    positions = affine_lps[:3, 3] + index[:, None] * affine_lps[:3, slices]
    if affine_lps[:3, slices] @ np.cross(row, column) < 0:
        index, positions = index[::-1], positions[::-1]
    names = tuple(str(one) for one in index)
    return Geometry(positions, row, column, (float(lengths[rows]), float(lengths[columns])), names)


def _axes(affine_lps: FloatArray) -> tuple[int, int, int]:
    """Array axes (slices, rows, columns): slices run along the axis nearest to head-feet."""
    directions = affine_lps[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    if not np.isfinite(affine_lps).all() or not (lengths > 0).all() or abs(np.linalg.det(directions)) < 1e-6:
        raise refusal("NIFTI_GEOMETRY", why="the affine cannot be inverted")
    slices = int(np.argmax(np.abs(directions[2] / lengths)))
    columns, rows = (axis for axis in range(3) if axis != slices)
    return slices, rows, columns


def stem(path: Path) -> str:
    """The name without .nii or .nii.gz."""
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def is_nifti(path: Path) -> bool:
    """By its name. A name that begins with a dot is that of something else: macOS leaves "._049.nii" beside 049.nii."""
    return path.name.lower().endswith(ENDINGS) and not path.name.startswith(".")
