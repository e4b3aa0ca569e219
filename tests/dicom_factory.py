"""Small synthetic head CT series for tests of the node: right header, plausible pixels, made in milliseconds.

A head of ellipses (air, scalp, skull, brain, ventricles, a bleed if asked for) cut by slices that may be tilted,
uneven, reversed, compressed or broken in a chosen way. For pixels that a network must learn from there is `ml.phantom`.
"""

from __future__ import annotations

import math
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from tests.peers.presence import need, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

HuSlice = npt.NDArray[np.float64]

AIR_HU, SCALP_HU, SKULL_HU, BRAIN_HU, VENTRICLE_HU, BLEED_HU = -1000.0, 20.0, 900.0, 35.0, 5.0, 70.0
HEAD_LPS_MM = (75.0, 95.0, 90.0)
"""Half axes of the head: left-right, anterior-posterior, to the vertex."""
SCALP_MM, SKULL_MM = 5.0, 7.0
BLEED_CENTRE_LPS_MM = (35.0, 10.0, 20.0)
"""In the patient's left hemisphere, relative to the centre of the head."""
SYNTAXES = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.RLELossless,
]
"""Lossless, one of each way to encode."""
JPEG_LOSSLESS_OPTION = {uid.JPEGLosslessSV1: "+e1", uid.JPEGLossless: "+el"}
"""Transfer syntax -> dcmcjpeg's option."""


LOSSY: dict[str, dict[str, Any]] = {uid.JPEGLSNearLossless: {"jls_error": 2}, uid.JPEG2000: {"j2k_cr": [8]}}
"""What a lossy encoder must be told: largest error in stored values; compression ratio."""


def ct_series(
    folder: Path | None = None,
    *,
    slices: int = 28,
    rows: int = 64,
    columns: int = 64,
    spacing_mm: float | Sequence[float] = 5.0,
    tilt_degrees: float = 0.0,
    reverse: bool = False,
    thickness_mm: float | None = None,
    pixel_spacing: tuple[float, float] | None = None,
    bleed_radius_mm: float = 0.0,
    noise_hu: float = 4.0,
    seed: int = 0,
    pixels: Callable[[int], npt.ArrayLike] | None = None,
    bits_stored: int = 16,
    signed: bool = True,
    rescale_intercept: float = -1024.0,
    rescale_slope: float = 1.0,
    patient_name: str = "Phantom^Head",
    patient_id: str = "PHANTOM1",
    charset: str | list[str] | None = "ISO_IR 100",
    modality: str = "CT",
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    kernel: str | None = "H30s",
    contrast: str | None = None,
    description: str = "Head 5mm",
    study_description: str = "CT HEAD",
    series_number: int = 2,
    acquisition_number: int = 1,
    study_uid: str | None = None,
    series_uid: str | None = None,
    frame_of_reference: str | None = None,
    extra: Mapping[str, object] | None = None,
    missing: Iterable[str] = (),
    transfer_syntax: str = uid.ExplicitVRLittleEndian,
) -> list[Dataset]:
    """One axial series, in the order of InstanceNumber; written to `folder` as well if there is one.

    spacing_mm: table step between slices, one for all or `slices - 1` of them. On a tilted gantry the distance along
        the normal is smaller by cos(tilt).
    tilt_degrees: gantry tilt; the slices stay square to x and are sheared along y, as scanners store them.
    reverse: InstanceNumber rises from the vertex down. Otherwise from the base up.
    thickness_mm: SliceThickness; the smallest step if not given.
    pixel_spacing: mm between rows, between columns; a field of view of 224 mm if not given.
    bleed_radius_mm: a ball of blood in the left hemisphere; 0 for none.
    pixels: HU of the slice with this index (0 is the lowest), in place of the head.
    bits_stored, signed, rescale_intercept, rescale_slope: how HU become stored values. A value out of range wraps
        around, as on old scanners.
    extra: keyword -> value of further or other attributes. missing: keywords that are deleted at the very end.
    transfer_syntax: what `compress` makes of it.
    """
    steps_mm = list(spacing_mm) if isinstance(spacing_mm, Sequence) else [spacing_mm] * (slices - 1)
    assert len(steps_mm) == slices - 1, "one table step less than slices"
    table_mm = np.concatenate([[0.0], np.cumsum(steps_mm)])
    table_mm -= 0.5 * table_mm[-1]
    row_mm, column_mm = pixel_spacing or (224.0 / rows, 224.0 / columns)
    tilt = math.radians(tilt_degrees)
    down_lps = np.array([0.0, math.cos(tilt), -math.sin(tilt)])
    corner_lps = np.array([-0.5 * (columns - 1) * column_mm, 0.0, 0.0]) - 0.5 * (rows - 1) * row_mm * down_lps
    random = np.random.default_rng(seed)
    shared = {
        "SpecificCharacterSet": charset,
        "Modality": modality,
        "ImageType": list(image_type),
        "PatientName": patient_name,
        "PatientID": patient_id,
        "StudyDescription": study_description,
        "SeriesDescription": description,
        "SeriesNumber": series_number,
        "AcquisitionNumber": acquisition_number,
        "StudyInstanceUID": study_uid or uid.generate_uid(),
        "SeriesInstanceUID": series_uid or uid.generate_uid(),
        "FrameOfReferenceUID": frame_of_reference or uid.generate_uid(),
        "SliceThickness": thickness_mm or min(steps_mm, default=5.0),
        "GantryDetectorTilt": tilt_degrees,
        "ConvolutionKernel": kernel,
        "ContrastBolusAgent": contrast,
        "ImageOrientationPatient": [1.0, 0.0, 0.0, *(round(float(part), 9) for part in down_lps)],
        "PixelSpacing": [row_mm, column_mm],
        "RescaleIntercept": rescale_intercept,
        "RescaleSlope": rescale_slope,
    }
    datasets = []
    for index, height_mm in enumerate(table_mm):
        position_lps = corner_lps + np.array([0.0, 0.0, height_mm])
        if pixels is not None:
            hu = np.asarray(pixels(index), dtype=np.float64)
        else:
            hu = head_slice(
                position_lps, down_lps, (rows, columns), (row_mm, column_mm), bleed_radius_mm=bleed_radius_mm
            )
            hu = np.maximum(hu + noise_hu * random.standard_normal(hu.shape), AIR_HU)
        dataset = _instance({**FIXED, **shared})
        dataset.InstanceNumber = slices - index if reverse else index + 1
        dataset.ImagePositionPatient = [round(float(part), 6) for part in position_lps]
        dataset.SliceLocation = round(float(height_mm), 6)
        _store(dataset, np.rint((hu - rescale_intercept) / rescale_slope), bits_stored=bits_stored, signed=signed)
        datasets.append(dataset)
    datasets.sort(key=lambda dataset: int(dataset.InstanceNumber))
    for dataset in datasets:
        for keyword, value in (extra or {}).items():
            setattr(dataset, keyword, value)
        compress(dataset, transfer_syntax)
        for keyword in missing:
            dataset.pop(keyword, None)
    if folder is not None:
        write(datasets, folder)
    return datasets


def head_slice(
    corner_lps: npt.NDArray[np.float64],
    down_lps: npt.NDArray[np.float64],
    shape: tuple[int, int],
    spacing_mm: tuple[float, float],
    *,
    bleed_radius_mm: float = 0.0,
) -> HuSlice:
    """HU of the head around (0, 0, 0) in the plane whose first pixel lies at `corner_lps`; rows run along x."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    across, down = x * spacing_mm[1], y * spacing_mm[0]
    points = (corner_lps[0] + across, corner_lps[1] + down * down_lps[1], corner_lps[2] + down * down_lps[2])

    def inside(half_axes: Sequence[float], centre: Sequence[float] = (0.0, 0.0, 0.0)) -> npt.NDArray[np.bool_]:
        terms = [((point - c) / a) ** 2 for point, c, a in zip(points, centre, half_axes, strict=True)]
        return np.asarray(sum(terms) <= 1.0)

    hu = np.full(shape, AIR_HU)
    hu[inside(HEAD_LPS_MM)] = SCALP_HU
    hu[inside([axis - SCALP_MM for axis in HEAD_LPS_MM])] = SKULL_HU
    hu[inside([axis - SCALP_MM - SKULL_MM for axis in HEAD_LPS_MM])] = BRAIN_HU
    for side in (-1.0, 1.0):
        hu[inside((7.0, 28.0, 15.0), (side * 12.0, 0.0, 5.0))] = VENTRICLE_HU
    if bleed_radius_mm:
        hu[inside((bleed_radius_mm,) * 3, BLEED_CENTRE_LPS_MM)] = BLEED_HU
    return hu


FIXED: dict[str, object] = {
    "SOPClassUID": uid.CTImageStorage,
    "PatientBirthDate": "19500101",
    "PatientSex": "O",
    "StudyDate": "20240102",
    "SeriesDate": "20240102",
    "AcquisitionDate": "20240102",
    "ContentDate": "20240102",
    "StudyTime": "101500",
    "SeriesTime": "101600",
    "AcquisitionTime": "101601",
    "ContentTime": "101602",
    "StudyID": "1",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "",
    "PositionReferenceIndicator": "",
    "Manufacturer": "Phantoms",
    "ManufacturerModelName": "Ellipses",
    "BodyPartExamined": "HEAD",
    "PatientPosition": "HFS",
    "KVP": 120,
    "WindowCenter": 40,
    "WindowWidth": 80,
}
"""Attributes that no test has asked to vary; `extra` does."""


def write(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Writes them as 0001.dcm, 0002.dcm ... into the folder, which is made; gives the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets, start=1):
        path = folder / f"{number:04d}.dcm"
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        paths.append(path)
    return paths


def compress(dataset: Dataset, transfer_syntax: str) -> None:
    """Brings a dataset into a transfer syntax, in place; its SOP Instance UID stays. Lossy only where LOSSY says so.

    Implicit and Explicit LE and Deflated are only another way of writing; JPEG-LS, JPEG 2000 and RLE are done by
    pydicom's plugins; JPEG Lossless (.57, .70) by DCMTK's dcmcjpeg, without which the test is skipped by name.
    """
    syntax = uid.UID(transfer_syntax)
    if syntax in JPEG_LOSSLESS_OPTION:
        _jpeg_lossless(dataset, JPEG_LOSSLESS_OPTION[syntax])
    elif syntax.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False, **LOSSY.get(syntax, {}))
    else:
        dataset.file_meta.TransferSyntaxUID = syntax


def _jpeg_lossless(dataset: Dataset, option: str) -> None:
    need("dcmtk")
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder, "plain.dcm"), Path(folder, "packed.dcm")
        dataset.save_as(plain, enforce_file_format=True)
        subprocess.run([program("dcmcjpeg"), option, "+un", plain, packed], check=True, capture_output=True)
        result = pydicom.dcmread(packed)
    dataset.PixelData = result.PixelData
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = result.file_meta.TransferSyntaxUID


def _instance(attributes: Mapping[str, Any]) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.SOPInstanceUID = uid.generate_uid()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return dataset


def _store(dataset: Dataset, values: HuSlice, *, bits_stored: int, signed: bool) -> None:
    """Image Pixel module (PS3.3 C.7.6.3) of rounded values; out of range they wrap around in `bits_stored` bits."""
    wrapped = values.astype(np.int64) & ((1 << bits_stored) - 1)
    if signed:
        wrapped -= (wrapped >> (bits_stored - 1)) << bits_stored
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits_stored, bits_stored - 1
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = wrapped.astype("<i2" if signed else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
