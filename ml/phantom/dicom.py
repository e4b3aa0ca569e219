"""Simulated exams as CT Image Storage series (PS3.3 A.3), with the header a scanner would write.

Names, identifiers and dates are made up from the spec's seed; every UID is derived from it, so writing twice gives the
same files.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from ml.phantom.exam import SimulatedExam, uid
from ml.phantom.physics import outside_circle, sharpen
from ml.volume import HuArray

Storage = Literal["16-bit signed with padding", "12-bit unsigned"]
PADDING = -2000
"""Pixel Padding Value of 16-bit series, as GE writes outside the circle of reconstruction."""
BIRTH_MONTH = 7
"""Of every patient."""


@dataclass(frozen=True)
class _Series:
    """What differs between the series of a study."""

    number: int
    description: str
    kernel: str
    uid: str
    window: tuple[float, float]


def _decimal(value: float) -> str:
    """A Decimal String of at most 16 characters (PS3.5 6.2)."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return text if len(text) <= 16 else f"{value:.9g}"


def _taken(exam: SimulatedExam) -> datetime:
    """A made-up moment of the scan."""
    minutes = int(np.random.default_rng([exam.spec.seed, 21]).integers(0, 5 * 365 * 24 * 60))
    return datetime(2019, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)


def _patient(ds: Dataset, exam: SimulatedExam, patient_name: str) -> None:
    rng = np.random.default_rng([exam.spec.seed, 22])
    taken = _taken(exam)
    age = int(rng.integers(18, 95))
    ds.PatientName = patient_name
    ds.PatientID = f"SIM{exam.spec.seed:08d}"
    ds.PatientBirthDate = f"{taken.year - age - (taken.month < BIRTH_MONTH):04d}{BIRTH_MONTH:02d}01"
    ds.PatientSex = "M" if rng.random() < 0.5 else "F"
    ds.PatientAge = f"{age:03d}Y"


def _study(ds: Dataset, exam: SimulatedExam, study_instance_uid: str | None) -> None:
    taken = _taken(exam)
    ds.StudyInstanceUID = study_instance_uid or uid(exam.spec, "study")
    ds.StudyDate, ds.StudyTime = taken.strftime("%Y%m%d"), taken.strftime("%H%M%S")
    ds.AccessionNumber = f"A{exam.spec.seed:08d}"
    ds.ReferringPhysicianName = ""
    ds.StudyID = str(exam.spec.seed % 100000)
    ds.StudyDescription = "CT HEAD WITHOUT CONTRAST"


def _series(ds: Dataset, exam: SimulatedExam, series: _Series) -> None:
    scanner, taken = exam.spec.scanner, _taken(exam)
    ds.Modality = "CT"
    ds.SeriesInstanceUID = series.uid
    ds.SeriesNumber = series.number
    ds.SeriesDescription = series.description
    ds.SeriesDate, ds.SeriesTime = taken.strftime("%Y%m%d"), taken.strftime("%H%M%S")
    ds.AcquisitionDate, ds.AcquisitionTime = ds.SeriesDate, ds.SeriesTime
    ds.ContentDate, ds.ContentTime = ds.SeriesDate, ds.SeriesTime
    ds.BodyPartExamined = "HEAD"
    ds.PatientPosition = "HFS"
    ds.Manufacturer = scanner.manufacturer
    ds.ManufacturerModelName = scanner.model
    ds.InstitutionName = f"SIMULATED {scanner.institution.upper()}"
    ds.StationName = "CT1"
    ds.DeviceSerialNumber = str(scanner.seed % 100000)
    ds.SoftwareVersions = "1"
    ds.FrameOfReferenceUID = exam.volume.geometry.frame_of_reference_uid
    ds.PositionReferenceIndicator = "OM"


def _acquisition(ds: Dataset, exam: SimulatedExam, series: _Series) -> None:
    scanner = exam.spec.scanner
    ds.KVP = _decimal(scanner.kvp)
    ds.ExposureTime = 1000
    ds.XRayTubeCurrent = int(scanner.exposure_mas)
    ds.Exposure = int(scanner.exposure_mas)
    ds.ConvolutionKernel = series.kernel
    ds.GantryDetectorTilt = _decimal(scanner.tilt_degrees)
    ds.ReconstructionDiameter = _decimal(scanner.fov_mm)
    ds.DataCollectionDiameter = _decimal(max(250.0, scanner.fov_mm))
    ds.RotationDirection = "CW"
    ds.TableHeight = "150"


def _image(ds: Dataset, exam: SimulatedExam, index: int, thickness: float) -> None:
    geometry = exam.volume.geometry
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = index + 1
    ds.ImagePositionPatient = [_decimal(float(part)) for part in geometry.positions_lps[index]]
    ds.ImageOrientationPatient = [_decimal(float(part)) for part in (*geometry.row_lps, *geometry.column_lps)]
    ds.PixelSpacing = [_decimal(part) for part in geometry.pixel_spacing_mm]
    ds.SliceThickness = _decimal(thickness)
    ds.SliceLocation = _decimal(float(geometry.positions_lps[index][2]))


def _pixels(ds: Dataset, hu: HuArray, storage: Storage, *, circular: bool) -> None:
    """Store one slice; the value of every voxel inside the field is its HU to the nearest integer."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape
    ds.BitsAllocated = 16
    ds.RescaleSlope = "1"
    ds.RescaleType = "HU"
    rounded = np.rint(np.clip(hu, -1024, 3071)).astype(np.int32)
    values: npt.NDArray[np.int16] | npt.NDArray[np.uint16]
    if storage == "12-bit unsigned":
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 12, 11, 0, "-1024"
        values = (rounded + 1024).astype("<u2")
    else:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 16, 15, 1, "0"
        values = rounded.astype("<i2")
        ds.PixelPaddingValue = PADDING
        if circular:
            values = np.where(outside_circle(hu.shape[0]), np.int16(PADDING), values).astype("<i2")
    ds.set_pixel_data(values, "MONOCHROME2", int(ds.BitsStored), generate_instance_uid=False)


def _file(path: Path, sop_instance_uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = UID(sop_instance_uid)
    return ds


def _save(ds: FileDataset, path: Path, transfer_syntax_uid: str) -> Path:
    """Write one file; anything but the native little-endian syntaxes is compressed by pydicom's encoders."""
    wanted = UID(transfer_syntax_uid)
    if wanted.is_compressed:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            ds.compress(wanted, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = wanted
    ds.save_as(path, enforce_file_format=True)
    return path


def _thickness(exam: SimulatedExam) -> list[float]:
    return [zone.thickness_mm for zone in exam.spec.scanner.zones for _ in range(zone.slices)]


def _write(  # noqa: PLR0913 - what a series is made of
    exam: SimulatedExam, hu: HuArray, folder: Path, series: _Series, *, uids: tuple[str, ...], patient_name: str,
    transfer_syntax_uid: str, study_instance_uid: str | None, storage: Storage,
) -> list[Path]:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (thickness, sop_uid) in enumerate(zip(_thickness(exam), uids, strict=True)):
        path = folder / f"{index + 1:04d}.dcm"
        ds = _file(path, sop_uid)
        _patient(ds, exam, patient_name)
        _study(ds, exam, study_instance_uid)
        _series(ds, exam, series)
        _acquisition(ds, exam, series)
        _image(ds, exam, index, thickness)
        ds.WindowCenter, ds.WindowWidth = (_decimal(part) for part in series.window)
        _pixels(ds, hu[index], storage, circular=exam.spec.scanner.circular_field)
        paths.append(_save(ds, path, transfer_syntax_uid))
    return paths


def write_series(
    exam: SimulatedExam, folder: Path, *, patient_name: str = "SIMULATED^HEAD",
    transfer_syntax_uid: str = ExplicitVRLittleEndian, study_instance_uid: str | None = None,
    storage: Storage = "16-bit signed with padding",
) -> list[Path]:  # fmt: skip
    """Write the exam as one CT series into `folder` (made where it is missing), one file per slice, caudal first.

    Values are HU rounded to integers; "16-bit signed with padding" marks what lies outside a circular field with
    Pixel Padding Value -2000, "12-bit unsigned" has Rescale Intercept -1024. Compressed transfer syntaxes need
    pydicom's encoders.
    """
    scanner = exam.spec.scanner
    series = _Series(
        2, f"HEAD {scanner.zones[0].thickness_mm:g}mm", scanner.kernel, uid(exam.spec, "series", 2), (40.0, 80.0)
    )
    return _write(
        exam, exam.volume.hu, folder, series, uids=exam.volume.geometry.sop_instance_uids, patient_name=patient_name,
        transfer_syntax_uid=transfer_syntax_uid, study_instance_uid=study_instance_uid, storage=storage,
    )  # fmt: skip


def write_study(  # noqa: PLR0913 - options of one study
    exam: SimulatedExam, folder: Path, *, patient_name: str = "SIMULATED^HEAD",
    transfer_syntax_uid: str = ExplicitVRLittleEndian, study_instance_uid: str | None = None,
    storage: Storage = "16-bit signed with padding", localizer: bool = True, bone: bool = True,
) -> list[Path]:  # fmt: skip
    """Write a whole study: localizer (series 1), soft (2), the same slices with the bone kernel (3), a folder each."""
    paths = []
    if localizer:
        paths.append(
            _write_localizer(exam, folder / "1", patient_name=patient_name, study_instance_uid=study_instance_uid)
        )
    paths += write_series(
        exam, folder / "2", patient_name=patient_name, transfer_syntax_uid=transfer_syntax_uid,
        study_instance_uid=study_instance_uid, storage=storage,
    )  # fmt: skip
    if bone:
        scanner = exam.spec.scanner
        series = _Series(3, "HEAD BONE", scanner.bone_kernel, uid(exam.spec, "series", 3), (500.0, 2000.0))
        uids = tuple(uid(exam.spec, "bone", number) for number in range(len(exam.volume.hu)))
        paths += _write(
            exam, sharpen(exam.volume.hu, scanner), folder / "3", series, uids=uids, patient_name=patient_name,
            transfer_syntax_uid=transfer_syntax_uid, study_instance_uid=study_instance_uid, storage=storage,
        )  # fmt: skip
    return paths


def _write_localizer(exam: SimulatedExam, folder: Path, *, patient_name: str, study_instance_uid: str | None) -> Path:
    """A lateral scout: line integrals from left to right through the slices, one pixel per mm."""
    folder.mkdir(parents=True, exist_ok=True)
    geometry, hu = exam.volume.geometry, exam.volume.hu
    rows_mm = geometry.positions_lps[:, 2]
    attenuation = np.clip(hu + 1000.0, 0.0, None).mean(axis=2)
    height = max(16, int(rows_mm[-1] - rows_mm[0]) + 1)
    depth = hu.shape[1] * geometry.pixel_spacing_mm[0]
    columns = np.linspace(0, hu.shape[1] - 1, int(depth))
    at_z = np.linspace(rows_mm[-1], rows_mm[0], height)
    picture = np.empty((height, int(depth)), dtype=np.float32)
    along = np.stack([np.interp(columns, np.arange(hu.shape[1]), line) for line in attenuation])
    for column in range(picture.shape[1]):
        picture[:, column] = np.interp(at_z, rows_mm, along[:, column])
    sop_uid = uid(exam.spec, "localizer")
    ds = _file(folder / "0001.dcm", sop_uid)
    series = _Series(1, "SCOUT", exam.spec.scanner.bone_kernel, uid(exam.spec, "series", 1), (0.0, 1000.0))
    _patient(ds, exam, patient_name)
    _study(ds, exam, study_instance_uid)
    _series(ds, exam, series)
    _acquisition(ds, exam, series)
    ds.GantryDetectorTilt = "0"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.AcquisitionNumber = 0
    ds.InstanceNumber = 1
    first = geometry.positions_lps[0]
    ds.ImagePositionPatient = [_decimal(part) for part in (0.0, float(first[1]), float(rows_mm[-1]))]
    ds.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]
    ds.PixelSpacing = [_decimal((rows_mm[-1] - rows_mm[0]) / (height - 1)), _decimal(depth / int(depth))]
    ds.SliceThickness = _decimal(depth)
    ds.WindowCenter, ds.WindowWidth = "0", "1000"
    _pixels(ds, picture - 1000.0, "16-bit signed with padding", circular=False)
    del ds.RescaleType  # a scout's values are not Hounsfield units
    return _save(ds, folder / "0001.dcm", ExplicitVRLittleEndian)
