"""What a single CT image says about itself, checked one image at a time and then as a set.

Sources: PS3.3 C.7.6.2 (Image Plane), C.7.6.3 (Image Pixel), C.8.2.1 (CT Image), C.7.5.1.1.2 (Pixel Padding).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from ml.data.part10 import is_of_the_disk, open_file, read_dataset
from ml.data.refusals import refusal
from ml.errors import UnreadableStudy
from ml.volume import FloatArray

UNIT_TOLERANCE = 1e-2
"""Direction cosines in DS lose digits; beyond this they are not directions of one image plane."""
PARALLEL_DEGREES = 0.5
SPACING_TOLERANCE = 1e-3
"""Relative: pixel spacings written by one scanner agree to the digits of DS."""
LARGEST_MATRIX = 2048
"""Rows or columns; scanners make 512 to 2048. A wrong header must not fill the memory."""
MULTI_FRAME_CLASSES = frozenset([EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage])
NOT_HEAD_PARTS = frozenset(
    [
        *("ABDOMEN", "ANKLE", "ARM", "BREAST", "CHEST", "CLAVICLE", "ELBOW", "FEMUR", "FOOT", "HAND", "HEART", "HIP"),
        *("KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "LUNG", "PELVIS", "SHOULDER", "SSPINE", "TSPINE", "WRIST"),
    ]
)
"""Values of Body Part Examined (PS3.16 Annex L) that contain no part of the head. Empty or unknown ones pass."""


KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID", "Modality"),
    *("BodyPartExamined", "NumberOfFrames", "SamplesPerPixel", "Rows", "Columns", "PixelSpacing", "SliceThickness"),
    *("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "ImageType"),
)
"""All that is read before the pixels."""


@dataclass(frozen=True, eq=False)
class SliceHeader:
    """The facts of one image that the volume needs."""

    path: Path
    sop_instance_uid: str
    series_instance_uid: str
    patient_id: str
    frame_of_reference_uid: str | None
    position_lps: FloatArray
    row_lps: FloatArray
    column_lps: FloatArray
    pixel_spacing_mm: tuple[float, float]
    shape: tuple[int, int]
    thickness_mm: float | None
    rescale_slope: float
    rescale_intercept: float
    body_part: str

    @property
    def normal_lps(self) -> FloatArray:
        """(3,) row x column."""
        return np.asarray(np.cross(self.row_lps, self.column_lps), dtype=np.float64)


def read_headers(paths: Sequence[Path]) -> tuple[SliceHeader, ...]:
    """Headers of all files, each complete and the set consistent; raises UnreadableStudy."""
    if not paths:
        raise refusal("NO_IMAGES")
    datasets = _parse(paths)
    if len(datasets) < len(paths):
        raise refusal("NOT_DICOM", count=len(paths) - len(datasets), total=len(paths))
    datasets = _without_localizers(datasets)
    _check_kind(list(datasets.values()))
    for code, is_valid in _REQUIRED:
        missing = sum(not is_valid(ds) for ds in datasets.values())
        if missing:
            raise refusal(code, count=missing, total=len(datasets))
    headers = tuple(_header(path, ds) for path, ds in datasets.items())
    check_consistent(headers)
    return headers


def read_intact_headers(paths: Sequence[Path]) -> tuple[tuple[SliceHeader, ...], dict[Path, UnreadableStudy]]:
    """Headers of the files that have a complete one, and what is wrong with each of the others.

    Raises UnreadableStudy where nothing is left, or what is left does not belong together.
    """
    datasets = _parse(paths)
    faults = {path: refusal("NOT_DICOM", count=1, total=1) for path in paths if path not in datasets}
    datasets = _without_localizers(datasets)
    for path, ds in datasets.items():
        code = next((code for code, is_valid in _REQUIRED if not is_valid(ds)), None)
        if code is not None:
            faults[path] = refusal(code, count=1, total=1)
    intact = {path: ds for path, ds in datasets.items() if path not in faults}
    if not intact:
        raise refusal("NO_IMAGES") if not faults else next(iter(faults.values()))
    _check_kind(list(intact.values()))
    headers = tuple(_header(path, ds) for path, ds in intact.items())
    check_consistent(headers)
    return headers, faults


def check_consistent(headers: Sequence[SliceHeader]) -> None:
    """One patient, series, frame of reference, orientation and pixel grid; raises UnreadableStudy."""
    if len({header.patient_id for header in headers}) > 1:
        raise refusal("MIXED_PATIENTS")
    series = {header.series_instance_uid for header in headers}
    if len(series) > 1:
        raise refusal("MIXED_SERIES", count=len(series))
    frames = {header.frame_of_reference_uid for header in headers} - {None}
    if len(frames) > 1:
        raise refusal("MIXED_FRAMES_OF_REFERENCE", count=len(frames))
    degrees = max(_angle_degrees(headers[0], header) for header in headers)
    if degrees > PARALLEL_DEGREES:
        raise refusal("MIXED_ORIENTATIONS", degrees=degrees)
    if len({header.shape for header in headers}) > 1:
        raise refusal("MIXED_GEOMETRY", what="rows or columns")
    spacings = np.array([header.pixel_spacing_mm for header in headers])
    if np.ptp(spacings, axis=0).max() > SPACING_TOLERANCE * spacings.min():
        raise refusal("MIXED_GEOMETRY", what="pixel spacing")
    parts = {header.body_part for header in headers} & NOT_HEAD_PARTS
    if parts:
        raise refusal("NOT_HEAD", why=f"Body Part Examined is {min(parts)}")


def _parse(paths: Sequence[Path]) -> dict[Path, Dataset]:
    """The files that can be parsed. Raises OSError: one that cannot be read now is no broken file."""
    datasets: dict[Path, Dataset] = {}
    for path in paths:
        with open_file(path) as file:
            try:
                ds = read_tags(file, KEYWORDS)
            except Exception as error:  # pydicom raises a dozen types on broken bytes; counted below
                if is_of_the_disk(error):
                    raise
                continue
        datasets[path] = ds
    return datasets


def _without_localizers(datasets: dict[Path, Dataset]) -> dict[Path, Dataset]:
    """Without those that some scanners and exports put into the series of the slices; all, where nothing else is."""
    slices = {path: ds for path, ds in datasets.items() if not is_localizer(ds.get("ImageType") or ())}
    return slices or datasets


def is_localizer(image_type: Iterable[object]) -> bool:
    """By Image Type (PS3.3 C.8.2.1.1.1)."""
    return any(str(part).upper() == "LOCALIZER" for part in image_type)


def read_tags(file: BinaryIO, keywords: Sequence[str]) -> Dataset:
    """The attributes of a DICOM file, their values parsed; raises whatever pydicom raises on broken bytes.

    Data sets whose identifiers were replaced have UIDs like "ID_0123" (RSNA 2019): taken as they are. Without a
    SOP Class UID it is that of the file meta information (PS3.10 section 7.1).
    """
    with disable_value_validation():
        ds = read_dataset(file, stop_before_pixels=True, specific_tags=list(keywords))
        for keyword in keywords:
            ds.get(keyword)  # pydicom parses values when they are asked for
        if "SOPClassUID" in keywords and not ds.get("SOPClassUID"):
            ds.SOPClassUID = ds.file_meta.get("MediaStorageSOPClassUID", "")
    return ds


def _check_kind(datasets: Sequence[Dataset]) -> None:
    classes = {str(ds.get("SOPClassUID", "")) for ds in datasets}
    modalities = {str(ds.get("Modality", "") or "no modality") for ds in datasets}
    if modalities != {"CT"}:
        raise refusal("NOT_CT", found=", ".join(sorted(modalities)))
    if classes & MULTI_FRAME_CLASSES:
        raise refusal("MULTI_FRAME")
    if classes != {CTImageStorage}:
        raise refusal("NOT_CT", found="another SOP class than CT Image Storage")
    if any((numbers(ds, "NumberOfFrames", 1) or [1])[0] > 1 for ds in datasets):
        raise refusal("MULTI_FRAME")


def _header(path: Path, ds: Dataset) -> SliceHeader:
    row, column = np.split(np.array([float(one) for one in ds.ImageOrientationPatient]), 2)
    spacing = [float(one) for one in ds.PixelSpacing]
    thickness = numbers(ds, "SliceThickness", 1)
    return SliceHeader(
        path=path,
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.get("SeriesInstanceUID", "")),
        patient_id=str(ds.get("PatientID", "") or "").strip(),
        frame_of_reference_uid=str(ds.get("FrameOfReferenceUID", "") or "") or None,
        position_lps=np.array([float(one) for one in ds.ImagePositionPatient]),
        row_lps=row / np.linalg.norm(row),
        column_lps=column / np.linalg.norm(column),
        pixel_spacing_mm=(spacing[0], spacing[1]),
        shape=(int(ds.Rows), int(ds.Columns)),
        thickness_mm=thickness[0] if thickness and thickness[0] > 0 else None,
        rescale_slope=float(ds.RescaleSlope),
        rescale_intercept=float(ds.RescaleIntercept),
        body_part=str(ds.get("BodyPartExamined", "") or "").strip().upper(),
    )


def numbers(ds: Dataset, keyword: str, count: int) -> list[float] | None:
    """Exactly `count` finite numbers, or None."""
    value: Any = ds.get(keyword)
    if value is None or value == "":
        return None
    values = list(value) if isinstance(value, (list, tuple)) or hasattr(value, "__iter__") else [value]
    try:
        numbers = [float(one) for one in values]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _has_orientation(ds: Dataset) -> bool:
    cosines = numbers(ds, "ImageOrientationPatient", 6)
    if cosines is None:
        return False
    row, column = np.split(np.array(cosines), 2)
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    return bool(np.abs(lengths - 1).max() < UNIT_TOLERANCE and abs(row @ column) < UNIT_TOLERANCE)


def _has_spacing(ds: Dataset) -> bool:
    return min(numbers(ds, "PixelSpacing", 2) or [0.0]) > 0


def _has_rescale(ds: Dataset) -> bool:
    slope, intercept = numbers(ds, "RescaleSlope", 1), numbers(ds, "RescaleIntercept", 1)
    return slope is not None and intercept is not None and slope[0] != 0


def _has_pixel_module(ds: Dataset) -> bool:
    sizes = [ds.get("Rows"), ds.get("Columns")]
    return all(isinstance(size, int) and size > 0 for size in sizes) and ds.get("SamplesPerPixel", 1) == 1


_REQUIRED: tuple[tuple[str, Callable[[Dataset], bool]], ...] = (
    ("NO_IMAGES", _has_pixel_module),
    ("UID_MISSING", lambda ds: bool(ds.get("SOPInstanceUID"))),
    ("MATRIX_UNUSUAL", lambda ds: max(ds.Rows, ds.Columns) <= LARGEST_MATRIX),
    ("ORIENTATION_MISSING", _has_orientation),
    ("POSITION_MISSING", lambda ds: numbers(ds, "ImagePositionPatient", 3) is not None),
    ("SPACING_MISSING", _has_spacing),
    ("RESCALE_MISSING", _has_rescale),
)


def _angle_degrees(one: SliceHeader, other: SliceHeader) -> float:
    """Largest angle between the row, and between the column, directions of two slices."""
    cosine = min(one.row_lps @ other.row_lps, one.column_lps @ other.column_lps)
    return math.degrees(math.acos(max(-1.0, min(1.0, float(cosine)))))
