"""PhysioNet CT-ICH, BHSD and INSTANCE 2022: NIfTI images with masks, each with its own names and values."""

from pathlib import Path

import numpy as np
import pytest

from ml.data.readers import READERS, Options
from ml.data.readers.rsna import patient
from ml.errors import DataError
from ml.labels import BLEED, Subtype
from tests.ml.data.disk import head_volume, mask_of, write_apple_doubles, write_csv, write_nifti

DIAGNOSES = (
    *("PatientNumber", "SliceNumber", "Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural"),
    *("No_Hemorrhage", "Fracture_Yes_No"),
)


@pytest.fixture
def ct_ich(tmp_path: Path) -> Path:
    """Two scans, the second stored from the vertex down; the table ends with empty cells."""
    root = tmp_path / "ct-ich"
    volume = head_volume()
    rows = []
    for number, orientation in ((49, "LAS"), (130, "LAI")):
        name = f"{number:03}.nii"
        write_nifti(root / "ct_scans" / name, volume.hu, volume.geometry, orientation=orientation)
        mask = mask_of(volume, 255)
        write_nifti(root / "masks" / name, mask, volume.geometry, orientation=orientation, dtype=np.uint8)
        bleeding = (5, 6) if orientation == "LAS" else (12 - 1 - 5, 12 - 1 - 6)
        rows += [(number, z + 1, 0, 0, 0, 0, int(z in bleeding), int(z not in bleeding), 0) for z in range(12)]
    write_csv(root / "hemorrhage_diagnosis_raw_ct.csv", DIAGNOSES, [*rows, [""] * 9])
    write_csv(root / "Patient_demographics.csv", ("Patient Number", "Age\n(years)"), [(49, 30)])
    return root


def test_ct_ich_has_masks_and_subtypes_by_slice(ct_ich: Path) -> None:
    """Slice numbers count from 1 in the file's order, whichever way the file runs; masks may hold 255."""
    catalogue = READERS["ct-ich"](ct_ich, Options())
    assert [exam.exam for exam in catalogue.exams] == ["049", "130"]
    assert catalogue.left_out == []
    for source in catalogue.exams:
        exam = source.load(ct_ich)
        assert exam.pixels is not None
        seen = np.flatnonzero(exam.pixels.any(axis=(1, 2)))
        assert np.flatnonzero(exam.slice_findings[:, 0] == 1).tolist() == seen.tolist() == [5, 6]
        assert exam.slice_findings[5].tolist() == [1, 0, 0, 0, 0, 1]
        assert exam.slice_findings[0].tolist() == [0] * 6
        assert set(np.unique(exam.pixels)) == {0, BLEED}


def test_files_that_macos_leaves_are_no_scans(ct_ich: Path) -> None:
    """Their names have no number."""
    write_apple_doubles(ct_ich)
    catalogue = READERS["ct-ich"](ct_ich, Options())
    assert [exam.exam for exam in catalogue.exams] == ["049", "130"]
    assert catalogue.left_out == []


def test_ct_ich_scans_without_a_mask_keep_the_labels_of_their_slices(ct_ich: Path) -> None:
    """And masks without a scan are named."""
    (ct_ich / "masks" / "130.nii").rename(ct_ich / "masks" / "131.nii")
    catalogue = READERS["ct-ich"](ct_ich, Options())
    assert [(row.exam, row.code) for row in catalogue.left_out] == [("130", "NO_MASK"), ("131", "NO_IMAGES")]
    assert catalogue.exams[1].load(ct_ich).level == "slice"


def test_ct_ich_scans_without_rows_keep_their_mask(ct_ich: Path) -> None:
    """A copy whose name is no patient's number, and a patient whom the table does not know."""
    for old, new in (("049", "049 (1)"), ("130", "131")):
        for folder in ("ct_scans", "masks"):
            (ct_ich / folder / f"{old}.nii").rename(ct_ich / folder / f"{new}.nii")
    catalogue = READERS["ct-ich"](ct_ich, Options())
    copy, other = catalogue.exams
    assert [(row.exam, row.code) for row in catalogue.left_out] == [(copy.exam, "NO_READS"), ("131", "NO_READS")]
    assert " " not in copy.exam
    assert [exam.load(ct_ich).level for exam in (copy, other)] == ["pixel", "pixel"]


@pytest.mark.parametrize(("images", "masks"), [("images", "ground truths"), ("imagesTr", "labelsTr")])
def test_bhsd_has_five_subtypes_and_the_patients_of_rsna(tmp_path: Path, images: str, masks: str) -> None:
    """1 EDH ... 5 SDH; ID_<patient>_<study> in the names. The labelled part lies in a folder called label_192."""
    volume = head_volume()
    name = "ID_0219ef88_ID_e5c1a31210.nii.gz"
    mask = mask_of(volume, 2)
    mask[8, 10:12, 30:34] = 5
    write_nifti(tmp_path / "label_192" / images / name, volume.hu, volume.geometry, orientation="LAS")
    write_nifti(tmp_path / "label_192" / masks / name, mask, volume.geometry, orientation="LAS", dtype=np.uint8)
    write_nifti(tmp_path / "unlabel_2000" / "images" / "other.nii.gz", volume.hu, volume.geometry)
    catalogue = READERS["bhsd"](tmp_path, Options())
    one, other = catalogue.exams
    assert one.exam == "ID_0219ef88_ID_e5c1a31210"
    assert one.patient == patient("ID_0219ef88")
    assert (one.patient_known, other.patient_known) == (True, False)
    exam = one.load(tmp_path)
    assert exam.pixels is not None
    assert np.array_equal(exam.pixels, mask[::-1, ::-1])  # its rows run to the front, so its normal to the feet
    assert exam.slice_findings[12 - 1 - 8].tolist() == [1, 0, 0, 0, 0, 1]
    assert exam.findings[Subtype.IPH] == 1
    assert other.load(tmp_path).level == "none"


def test_a_bhsd_patient_is_that_of_rsna_in_any_case_of_letters(tmp_path: Path) -> None:
    """A copy that changed the case of names must not hide that a patient is in both sets."""
    volume = head_volume()
    for name in ("id_0219ef88_id_e5c1a31210.nii.gz", "ID_0219EF88_ID_E5C1A31211.nii.gz"):
        write_nifti(tmp_path / "images" / name, volume.hu, volume.geometry)
    exams = READERS["bhsd"](tmp_path, Options()).exams
    assert [(exam.patient, exam.patient_known) for exam in exams] == [(patient("ID_0219ef88"), True)] * 2


def test_bhsd_tells_by_folder_whether_its_other_volumes_bleed(tmp_path: Path) -> None:
    """As released; what lies in further folders is told of."""
    volume = head_volume()
    for n, folder in enumerate(
        ("label_192/images", "unlabel_2000/anybleed", "unlabel_2000/nobleed", "FirstStage_test")
    ):
        write_nifti(tmp_path / folder / f"ID_0219ef8{n}_ID_e5c1a3121{n}.nii.gz", volume.hu, volume.geometry)
    name = "ID_0219ef80_ID_e5c1a31210.nii.gz"
    write_nifti(tmp_path / "label_192" / "ground truths" / name, mask_of(volume, 2), volume.geometry)
    catalogue = READERS["bhsd"](tmp_path, Options())
    exams = [exam.load(tmp_path) for exam in catalogue.exams]
    assert [(exam.level, exam.findings.tolist()) for exam in exams] == [
        ("pixel", [1, 0, 1, 0, 0, 0]),
        ("exam", [1, -1, -1, -1, -1, -1]),
        ("exam", [0] * 6),
    ]
    assert {exam.patient for exam in exams} == {patient(f"ID_0219ef8{n}") for n in range(3)}
    assert [(row.exam, row.code) for row in catalogue.left_out] == [("ID_0219ef83_ID_e5c1a31213", "OTHER_FOLDER")]


def test_instance_has_binary_masks_and_unlabelled_volumes(tmp_path: Path) -> None:
    """Training volumes with masks, those of the later phases without."""
    volume = head_volume()
    write_nifti(tmp_path / "train_2" / "data" / "001.nii.gz", volume.hu, volume.geometry)
    write_nifti(tmp_path / "train_2" / "label" / "001.nii.gz", mask_of(volume), volume.geometry)
    write_nifti(tmp_path / "evaluation" / "101.nii.gz", volume.hu, volume.geometry)
    first, second = (exam.load(tmp_path) for exam in READERS["instance"](tmp_path, Options()).exams)
    assert (first.level, second.level) == ("pixel", "none")
    assert first.hemorrhage_ml == pytest.approx(mask_of(volume).sum() * 3.5 * 3.5 * 10 / 1000)


@pytest.mark.parametrize("kind", ["ct-ich", "bhsd", "instance", "seg-cq500", "cq500", "folder"])
def test_another_folder_is_refused(kind: str, tmp_path: Path) -> None:
    """With what was expected there."""
    (tmp_path / "hemorrhage_diagnosis_raw_ct.csv").write_text(",".join(DIAGNOSES))
    with pytest.raises(DataError):
        READERS[kind](tmp_path, Options())


def test_two_files_for_one_exam_are_refused(tmp_path: Path) -> None:
    """Whichever was taken would be a guess."""
    volume = head_volume()
    for name in ("001.nii.gz", "001.nii"):
        write_nifti(tmp_path / "data" / name, volume.hu, volume.geometry)
    with pytest.raises(DataError, match="both claim"):
        READERS["instance"](tmp_path, Options())
