"""Small DICOM heads on disk: a skull around a brain, written as a scanner would."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

SIZE = 64
SPACING_MM = 3.5

Change = Callable[[int, Dataset], None]
WriteSeries = Callable[..., list[Path]]


def head_hu(z: int) -> npt.NDArray[np.int16]:
    """(64, 64) air, 7 mm of bone and brain; every slice a little different."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    radius = np.hypot(rows / 1.2, columns)
    hu = np.full((SIZE, SIZE), -1000, dtype=np.int16)
    hu[radius < 24] = 900
    hu[radius < 21] = 35
    hu[30, 20 + z % 20] = 60
    return hu


def image(z: int, offset_mm: float, *, series: str, thickness_mm: float | None) -> Dataset:
    """One CT image; unsigned 16 bit with intercept -1024."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{series}.{z + 1}")
    ds.SeriesInstanceUID = series
    ds.Modality = "CT"
    ds.PatientID = "phantom"
    ds.FrameOfReferenceUID = f"{series}.0"
    ds.ImagePositionPatient = [-112.0, -112.0, offset_mm]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [SPACING_MM, SPACING_MM]
    if thickness_mm is not None:
        ds.SliceThickness = thickness_mm
    ds.Rows = ds.Columns = SIZE
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelData = (head_hu(z) + 1024).astype(np.uint16).tobytes()
    return ds


@pytest.fixture
def write_series(tmp_path: Path) -> WriteSeries:
    """Writes a series with slices at the given offsets; `change(z, ds)` spoils or alters each image before."""

    def write(
        offsets_mm: Sequence[float] = tuple(range(0, 50, 5)),
        *,
        change: Change | None = None,
        thickness_mm: float | None = 5.0,
    ) -> list[Path]:
        series = generate_uid(entropy_srcs=["series"])[:40]
        folder = tmp_path / f"series-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        paths = []
        for z, offset_mm in enumerate(offsets_mm):
            ds = image(z, offset_mm, series=series, thickness_mm=thickness_mm)
            if change is not None:
                change(z, ds)
            paths.append(folder / f"{z:03}.dcm")
            pydicom.dcmwrite(paths[-1], ds, enforce_file_format=True)
        return paths

    return write
