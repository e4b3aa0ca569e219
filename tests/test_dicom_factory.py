"""The synthetic head CT series is what its arguments say."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from pydicom import uid

from tests.dicom_factory import ct_series, write
from tests.peers import dciodvfy

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset


def hu(dataset: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The slice in HU."""
    return np.asarray(dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))


def test_the_middle_slice_shows_air_skull_and_brain() -> None:
    """A head-plausibility check has something to find."""
    middle = hu(ct_series(noise_hu=0.0)[14])
    values, counts = np.unique(middle, return_counts=True)
    assert values.tolist() == [-1000.0, 5.0, 20.0, 35.0, 900.0]
    areas_cm2 = dict(zip(values, counts * 0.35**2, strict=True))
    assert 110 < areas_cm2[35.0] < 190
    assert 25 < areas_cm2[900.0] < 50


def test_a_bleed_lies_in_the_patients_left_hemisphere() -> None:
    """Columns rise towards the patient's left (LPS +x)."""
    with_bleed = ct_series(noise_hu=0.0, bleed_radius_mm=15.0, slices=60, spacing_mm=2.0)
    bleed = np.stack([hu(dataset) == 70.0 for dataset in with_bleed])
    volume_ml = bleed.sum() * 3.5 * 3.5 * 2.0 / 1000.0
    assert volume_ml == pytest.approx(4.0 / 3.0 * math.pi * 1.5**3, rel=0.05)
    assert np.nonzero(bleed)[2].min() > 32


def test_a_tilted_gantry_shears_the_stack() -> None:
    """The table moves along z while the slices are inclined, as a scanner stores it."""
    first, second = ct_series(slices=2, tilt_degrees=18.5)
    step = np.subtract(second.ImagePositionPatient, first.ImagePositionPatient)
    row, down = np.reshape(first.ImageOrientationPatient, (2, 3))
    assert step.tolist() == [0.0, 0.0, 5.0]
    assert np.cross(row, down) @ step == pytest.approx(5.0 * math.cos(math.radians(18.5)))


def test_reverse_numbers_the_slices_from_the_vertex_down() -> None:
    """The list follows InstanceNumber, not position."""
    series = ct_series(slices=3, reverse=True, spacing_mm=[4.0, 7.0])
    assert [int(dataset.InstanceNumber) for dataset in series] == [1, 2, 3]
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in series]
    assert np.diff(heights).tolist() == [-7.0, -4.0]


def test_values_out_of_range_wrap_around_in_twelve_bits() -> None:
    """As on old scanners: 4096 becomes 0."""
    (dataset,) = ct_series(slices=1, bits_stored=12, signed=False, pixels=lambda _: np.full((64, 64), 3072.0))
    assert np.unique(dataset.pixel_array).tolist() == [0]


def test_attributes_can_be_added_and_left_out() -> None:
    """Broken headers are made by keyword."""
    (dataset,) = ct_series(
        slices=1, extra={"BodyPartExamined": "CHEST"}, missing=["PixelSpacing", "BurnedInAnnotation"]
    )
    assert dataset.BodyPartExamined == "CHEST"
    assert "PixelSpacing" not in dataset


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.RLELossless,
        pytest.param(uid.JPEGLosslessSV1, marks=pytest.mark.peer("dcmtk")),
        pytest.param(uid.JPEGLossless, marks=pytest.mark.peer("dcmtk")),
    ],
    ids=lambda syntax: syntax.keyword,
)
@pytest.mark.parametrize("signed", [True, False])
def test_every_transfer_syntax_keeps_the_pixels(tmp_path: Path, syntax: uid.UID, *, signed: bool) -> None:
    """Compression loses nothing, and the file says what it is in."""
    (packed,) = ct_series(slices=1, transfer_syntax=syntax, signed=signed)
    (plain,) = ct_series(slices=1, signed=signed)
    (path,) = write([packed], tmp_path)
    read = pydicom.dcmread(path)
    assert read.file_meta.TransferSyntaxUID == syntax
    assert read.SOPInstanceUID == packed.SOPInstanceUID
    assert np.array_equal(read.pixel_array, plain.pixel_array)


def test_a_name_in_another_character_set_survives_the_file() -> None:
    """PatientName is written in the charset that the file names."""
    (dataset,) = ct_series(slices=1, charset="ISO_IR 192", patient_name="山田^太郎")
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    assert pydicom.dcmread(buffer).PatientName.family_name == "山田"


@pytest.mark.peer("dicom3tools")
def test_the_series_is_a_valid_ct_image() -> None:
    """dciodvfy has no error to report."""
    assert dciodvfy(ct_series(slices=1)[0]).errors == ()
