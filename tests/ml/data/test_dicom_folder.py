"""Which series of a folder is read."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from ml.data.dicom_folder import find_series
from ml.data.readers import READERS, Options
from ml.data.series import read_volume
from ml.errors import UnreadableStudy
from tests.ml.data.disk import Change, write_apple_doubles, write_dicom


def described(text: str, **facts: object) -> Change:
    """A change that names a series and more."""

    def change(_: int, ds: Dataset) -> None:
        ds.SeriesDescription = text
        for keyword, value in facts.items():
            setattr(ds, keyword, value)

    return change


def write_study(folder: Path) -> None:
    """Thick plain slices, the same thin, bone, contrast, and a localizer."""
    thin_mm = [z * 2.0 for z in range(56)]
    write_dicom(folder / "plain", series="1.2.1", change=described("HEAD PLAIN"))
    write_dicom(folder / "thin", series="1.2.2", at_mm=thin_mm, thickness_mm=2.0)
    write_dicom(folder / "bone", series="1.2.3", change=described("HEAD BONE"))
    write_dicom(folder / "contrast", series="1.2.4", change=described("HEAD", ContrastBolusAgent="yes"))
    scout = described("SCOUT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_dicom(folder / "scout", series="1.2.5", at_mm=[0.0], change=scout)


def test_one_series_of_a_study_is_read_and_each_other_has_a_reason(tmp_path: Path) -> None:
    """The thick plain one; it is a volume."""
    write_study(tmp_path)
    found = find_series(tmp_path)
    assert found.series_instance_uid == "1.2.1"
    assert {one.series_instance_uid: one.code for one in found.left_out} == {
        "1.2.2": "NOT_CHOSEN",
        "1.2.3": "BONE_KERNEL",
        "1.2.4": "CONTRAST",
        "1.2.5": "NOT_AXIAL",
    }
    assert "of 5 series" in found.reason
    assert len(read_volume(found.paths).hu) == len(found.paths) == 12


def test_a_scout_within_a_series_does_not_leave_that_out(tmp_path: Path) -> None:
    """Nor is it read with it."""
    write_dicom(tmp_path / "bone", series="1.2.3", change=described("HEAD BONE"))
    slices = write_dicom(tmp_path / "plain", series="1.2.1", change=described("HEAD PLAIN"))
    stray = described("HEAD PLAIN", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SOPInstanceUID="1.2.1.99")
    write_dicom(tmp_path / "scout", series="1.2.1", at_mm=[0.0], change=stray)
    assert find_series(tmp_path).paths == tuple(slices)


def test_a_kernel_with_its_strength_behind_it_is_known(tmp_path: Path) -> None:
    """Siemens writes two values where the reconstruction is iterative; the first one is the kernel."""
    write_dicom(tmp_path / "sharp", series="1.2.1", change=described("HEAD 5.0", ConvolutionKernel=["J70h", "3"]))
    write_dicom(tmp_path / "soft", series="1.2.2", change=described("HEAD 5.0", ConvolutionKernel=["J40s", "3"]))
    found = find_series(tmp_path)
    assert found.series_instance_uid == "1.2.2"
    assert [one.code for one in found.left_out] == ["BONE_KERNEL"]


def test_a_thickness_that_is_no_single_number_is_not_known(tmp_path: Path) -> None:
    """To the choice as to the volume, which takes distances from positions: the study is read."""
    write_dicom(tmp_path / "one", series="1.2.1", change=described("HEAD", SliceThickness=[5.0, 5.0]))
    write_dicom(tmp_path / "bone", series="1.2.2", change=described("HEAD BONE", SliceThickness=[5.0, 5.0]))
    found = find_series(tmp_path)
    assert found.series_instance_uid == "1.2.1"
    assert len(read_volume(found.paths).hu) == 12


def test_the_only_series_is_taken_as_it_is(tmp_path: Path) -> None:
    """Whether it can be analysed is for the reader of volumes to say; other files are passed by."""
    write_dicom(tmp_path / "series", series="1.2.3", change=described("HEAD BONE"))
    (tmp_path / "LICENSE").write_text("beside the images")
    write_apple_doubles(tmp_path)
    found = find_series(tmp_path)
    assert (found.series_instance_uid, found.left_out) == ("1.2.3", ())


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir"])
def test_the_index_of_a_cd_is_no_series(tmp_path: Path, name: str) -> None:
    """It is DICOM without a patient, study and series; Linux shows the names of a CD in small letters."""
    write_dicom(tmp_path / "series", series="1.2.3")
    index = Dataset()
    index.file_meta = FileMetaDataset()
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = UID("1.2.9")
    index.FileSetID = "CD"
    pydicom.dcmwrite(tmp_path / name, index, enforce_file_format=True)
    assert find_series(tmp_path).series_instance_uid == "1.2.3"
    assert READERS["folder"](tmp_path, Options()).left_out == []


def test_a_study_without_a_series_to_read_is_refused(tmp_path: Path) -> None:
    """With what is there instead."""
    write_dicom(tmp_path / "bone", series="1.2.3", change=described("HEAD BONE"))
    write_dicom(tmp_path / "short", series="1.2.4", at_mm=[0.0, 10.0])
    with pytest.raises(UnreadableStudy, match="BONE_KERNEL, TOO_FEW_SLICES") as refused:
        find_series(tmp_path)
    assert refused.value.code == "NO_ELIGIBLE_SERIES"


def test_a_multi_frame_scan_beside_a_report_is_named_as_such(tmp_path: Path) -> None:
    """Its frames have the positions, so it would look like too few slices."""

    def multi_frame(_: int, ds: Dataset) -> None:
        ds.SOPClassUID, ds.NumberOfFrames = EnhancedCTImageStorage, 30
        del ds.ImagePositionPatient, ds.ImageOrientationPatient

    write_dicom(tmp_path / "scan", series="1.2.1", at_mm=[0.0], change=multi_frame)
    write_dicom(tmp_path / "report", series="1.2.2", at_mm=[0.0], change=described("", Modality="SR"))
    with pytest.raises(UnreadableStudy, match="MULTI_FRAME, NOT_CT") as refused:
        find_series(tmp_path)
    assert refused.value.code == "NO_ELIGIBLE_SERIES"


@pytest.mark.parametrize(
    ("study", "patient", "code"), [("9", "phantom", "MIXED_STUDIES"), ("1.2.3", "other", "MIXED_PATIENTS")]
)
def test_a_folder_of_several_exams_is_refused(tmp_path: Path, study: str, patient: str, code: str) -> None:
    """Nothing is guessed, and no patient is named."""
    write_dicom(tmp_path / "one", series="1.2.1")
    write_dicom(tmp_path / "two", series="1.2.2", study=study, change=described("", PatientID=patient))
    with pytest.raises(UnreadableStudy) as refused:
        find_series(tmp_path)
    assert refused.value.code == code
    assert patient not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no DICOM at all", b"\0" * 128 + b"DICM\x02\x00half"])
def test_a_broken_file_is_a_missing_slice(tmp_path: Path, content: bytes) -> None:
    """Named .dcm, so it counts; of which series cannot be told."""
    write_study(tmp_path)
    (tmp_path / "plain" / "CT000003.dcm").write_bytes(content)
    with pytest.raises(UnreadableStudy, match="1 of 93 files") as refused:
        find_series(tmp_path)
    assert refused.value.code == "NOT_DICOM"


def test_an_empty_folder_has_no_images(tmp_path: Path) -> None:
    """As one of other files."""
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UnreadableStudy) as refused:
        find_series(tmp_path)
    assert refused.value.code == "NO_IMAGES"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("without", [132, None], ids=["preamble", "preamble and meta information"])
def test_files_without_preamble_are_read(tmp_path: Path, syntax: UID, without: int | None) -> None:
    """As conversion scripts leave them, and with no suffix: the same pixels as with it."""

    def encode(_: int, ds: Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = syntax

    whole = write_dicom(tmp_path / "whole", series="1.2.1", change=encode)
    (tmp_path / "cut").mkdir()
    for path in whole:
        content = path.read_bytes()
        length = 144 + int.from_bytes(content[140:144], "little")
        (tmp_path / "cut" / path.stem).write_bytes(content[without or length :])
    (tmp_path / "cut" / "notes").write_bytes(b"\x08\x00 but nothing else of DICOM")
    found = find_series(tmp_path / "cut")
    assert len(found.paths) == len(whole)
    np.testing.assert_array_equal(read_volume(found.paths).hu, read_volume(whole).hu)
