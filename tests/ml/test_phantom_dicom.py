"""Simulated exams as DICOM: what is read back is what was simulated, and dciodvfy has nothing to say."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from ml.phantom import SimulatedExam, draw_spec, simulate
from ml.phantom.dicom import Storage, write_series, write_study
from ml.phantom.exam import as_other_study
from ml.phantom.spec import Zone


@pytest.fixture(scope="module")
def exam() -> SimulatedExam:
    """A tilted exam of ten slices with a circular field."""
    spec = draw_spec(13, bleed=True)
    scanner = replace(
        spec.scanner,
        zones=(Zone(6, 4.0, 4.0), Zone(4, 7.0, 7.0)),
        tilt_degrees=18.5,
        circular_field=True,
        start_mm=-30.0,
    )
    return simulate(replace(spec, scanner=scanner), matrix=128)


def read_hu(path: Path) -> np.ndarray:
    """HU of a file, padding as air."""
    ds = pydicom.dcmread(path)
    hu = ds.pixel_array.astype(np.float64) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    if "PixelPaddingValue" in ds:
        hu[ds.pixel_array == ds.PixelPaddingValue] = -1024
    return hu


@pytest.mark.parametrize("storage", ["16-bit signed with padding", "12-bit unsigned"])
def test_a_series_read_back_equals_the_exam_to_rounding(exam: SimulatedExam, tmp_path: Path, storage: Storage) -> None:
    """HU to half a unit, and the geometry to a micrometre."""
    paths = write_series(exam, tmp_path, storage=storage)
    geometry = exam.volume.geometry
    assert len(paths) == 10
    for z, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        assert np.abs(read_hu(path) - exam.volume.hu[z]).max() <= 0.5 + 1e-6
        np.testing.assert_allclose(
            [float(part) for part in ds.ImagePositionPatient], geometry.positions_lps[z], atol=1e-5
        )
        orientation = [*geometry.row_lps, *geometry.column_lps]
        np.testing.assert_allclose([float(part) for part in ds.ImageOrientationPatient], orientation, atol=1e-5)
        assert ds.SOPInstanceUID == geometry.sop_instance_uids[z]
        assert float(ds.SliceThickness) == (4.0 if z < 6 else 7.0)
    assert (pydicom.dcmread(paths[0]).BitsStored == 12) == (storage == "12-bit unsigned")


def test_padding_marks_what_lies_outside_the_circle(exam: SimulatedExam, tmp_path: Path) -> None:
    """The corner of a 16-bit image is padding, its centre is not."""
    ds = pydicom.dcmread(write_series(exam, tmp_path)[4])
    assert ds.pixel_array[0, 0] == ds.PixelPaddingValue
    assert ds.pixel_array[64, 64] != ds.PixelPaddingValue


def test_a_patient_is_as_old_as_the_birth_date_says(exam: SimulatedExam, tmp_path: Path) -> None:
    """On the day of the scan, in whatever half of the year that is: viewers show either."""
    months = set()
    for seed in range(8):
        ds = pydicom.dcmread(write_series(as_other_study(exam, seed), tmp_path / str(seed))[0])
        passed = int(ds.StudyDate) - int(ds.PatientBirthDate)
        assert ds.PatientAge == f"{passed // 10000:03d}Y"
        months.add(ds.StudyDate[4:6])
    assert min(months) < "07" <= max(months)


def test_writing_twice_gives_the_same_bytes(exam: SimulatedExam, tmp_path: Path) -> None:
    """UIDs, dates and pixels all come from the seed."""
    first, second = write_series(exam, tmp_path / "a"), write_series(exam, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_study_holds_localizer_soft_and_bone_series(exam: SimulatedExam, tmp_path: Path) -> None:
    """One study, one frame of reference, three series; the bone kernel is sharper and noisier."""
    paths = write_study(exam, tmp_path, study_instance_uid="1.2.3.4")
    read = [pydicom.dcmread(path) for path in paths]
    assert {ds.StudyInstanceUID for ds in read} == {"1.2.3.4"}
    assert len({ds.SeriesInstanceUID for ds in read}) == 3
    assert len({ds.FrameOfReferenceUID for ds in read}) == 1
    assert len({ds.SOPInstanceUID for ds in read}) == 21
    assert [ds.ImageType[2] for ds in read[:2]] == ["LOCALIZER", "AXIAL"]
    soft, bone = read_hu(paths[1 + 7]), read_hu(paths[11 + 7])
    inner = (soft > 15) & (soft < 50)
    assert read[1].ConvolutionKernel != read[11].ConvolutionKernel
    assert bone[inner].std() > 1.5 * soft[inner].std()


def test_a_compressed_series_holds_the_same_pixels(exam: SimulatedExam, tmp_path: Path) -> None:
    """RLE Lossless decodes to the same values."""
    plain, packed = (
        write_series(exam, tmp_path / "a"),
        write_series(exam, tmp_path / "b", transfer_syntax_uid=RLELossless),
    )
    assert pydicom.dcmread(packed[3]).file_meta.TransferSyntaxUID == RLELossless
    np.testing.assert_array_equal(pydicom.dcmread(plain[3]).pixel_array, pydicom.dcmread(packed[3]).pixel_array)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("storage", ["16-bit signed with padding", "12-bit unsigned"])
def test_dciodvfy_finds_no_error_and_no_warning(exam: SimulatedExam, tmp_path: Path, storage: Storage) -> None:
    """Every series of a study is valid CT Image Storage (PS3.3 A.3)."""
    paths = write_study(exam, tmp_path, storage=storage)
    for path in (paths[0], paths[1], paths[10], paths[-1]):
        done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        said = [line for line in done.stderr.splitlines() if line.startswith(("Error", "Warning"))]
        assert said == []
