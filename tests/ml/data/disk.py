"""Data sets in miniature, written in the layouts in which they are published."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from ml.volume import Geometry, Volume
from tests.ml.data.conftest import SIZE, SPACING_MM, head_hu, image

Change = Callable[[int, Dataset], None]


def fail_to_read(path: Path) -> None:
    """Put a file in this place that can be opened and gives an I/O error when it is read, as on a failing disk."""
    path.unlink(missing_ok=True)
    path.symlink_to("/proc/self/mem")


def offsets(slices: int = 12, step_mm: float = 10.0) -> list[float]:
    """Positions of a stack that is as high as a head."""
    return [z * step_mm for z in range(slices)]


def write_dicom(
    folder: Path,
    *,
    series: str,
    study: str = "1.2.3",
    at_mm: Sequence[float] | None = None,
    thickness_mm: float | None = 10.0,
    change: Change | None = None,
    name: Callable[[int, Dataset], str] = lambda z, _: f"CT{z:06}.dcm",
) -> list[Path]:
    """One CT series in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for z, offset_mm in enumerate(offsets() if at_mm is None else at_mm):
        with disable_value_validation():
            ds = image(z, offset_mm, series=series, thickness_mm=thickness_mm)
            ds.StudyInstanceUID = study
            if change is not None:
                change(z, ds)
            paths.append(folder / name(z, ds))
            pydicom.dcmwrite(paths[-1], ds, enforce_file_format=True)
    return paths


def head_volume(slices: int = 12, step_mm: float = 10.0, *, shift: int = 0) -> Volume:
    """What `write_dicom` writes, as a volume; `shift` makes another patient of it."""
    positions = np.array([[-112.0, -112.0, z * step_mm] for z in range(slices)])
    names = tuple(str(z) for z in range(slices))
    geometry = Geometry(positions, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (SPACING_MM, SPACING_MM), names)
    return Volume(np.stack([head_hu(z + shift) for z in range(slices)]).astype(np.float32), geometry)


def affine_ras(geometry: Geometry) -> npt.NDArray[np.float64]:
    """Of voxels (x, y, z) of evenly spaced slices."""
    affine = np.eye(4)
    affine[:3, 0] = geometry.row_lps * geometry.pixel_spacing_mm[1]
    affine[:3, 1] = geometry.column_lps * geometry.pixel_spacing_mm[0]
    affine[:3, 2] = geometry.positions_lps[1] - geometry.positions_lps[0]
    affine[:3, 3] = geometry.positions_lps[0]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def write_nifti(
    path: Path,
    values_zyx: npt.NDArray[np.generic],
    geometry: Geometry,
    *,
    orientation: str | None = None,
    dtype: type[np.generic] = np.int16,
) -> Path:
    """A NIfTI file; `orientation` ("RAS", "LPI" ...) turns its voxels, and the affine with them."""
    file = nib.Nifti1Image(values_zyx.transpose(2, 1, 0).astype(dtype), affine_ras(geometry))
    if orientation is not None:
        wanted = nib.orientations.axcodes2ornt(orientation)
        file = file.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(file.affine), wanted))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(file, path)
    return path


def mask_of(volume: Volume, code: int = 1, slices: Iterable[int] = (5, 6)) -> npt.NDArray[np.uint8]:
    """A square in the brain of some slices."""
    mask = np.zeros(volume.hu.shape, dtype=np.uint8)
    mask[list(slices), SIZE // 2 - 6 : SIZE // 2 + 6, SIZE // 2 : SIZE // 2 + 8] = code
    return mask


def write_apple_doubles(root: Path) -> None:
    """What macOS leaves beside every file on a drive that is not its own: "._049.nii" beside 049.nii."""
    for path in [one for one in root.rglob("*") if one.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(bytes.fromhex("00051607") + bytes(200))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path
