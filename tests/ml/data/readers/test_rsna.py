"""RSNA 2019 as Kaggle ships it, with its quirks."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from ml.data.manifest import Catalogue
from ml.data.readers import READERS, Options
from ml.data.readers.rsna import read_labels, unpack
from ml.errors import DataError
from ml.labels import FINDINGS, LabelLevel
from tests.ml.data.conftest import head_hu
from tests.ml.data.disk import write_apple_doubles, write_csv, write_dicom

WORDS = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
GONE = ("SliceThickness", "InstanceNumber", "SOPClassUID", "FrameOfReferenceUID", "BodyPartExamined")


def image_id(study: int, z: int) -> str:
    """Nine hex digits; not in the order of the slices."""
    return f"ID_{(study * 4096 + (z * 37) % 101):09x}"


def rsna_image(study: int, patient: int, *, wrapped: bool) -> object:
    """What RSNA left in a header, and how old scanners stored negative HU."""

    def change(z: int, ds: Dataset) -> None:
        ds.SOPInstanceUID = image_id(study, z)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.SeriesInstanceUID = f"ID_{study + 77:010x}"
        ds.StudyID, ds.PatientID = "", f"ID_{patient:08x}"
        ds.WindowCenter, ds.WindowWidth = [30, 30], [80, 80]
        for keyword in GONE:
            if keyword in ds:
                del ds[keyword]
        if wrapped:
            ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 12, 11, 0
            ds.PixelData = (head_hu(z).astype(np.int32) % 4096).astype(np.uint16).tobytes()

    return change


@pytest.fixture
def rsna(tmp_path: Path) -> Path:
    """Two labelled studies of one patient, one wrapped around; a study of the test set; one truncated file."""
    root = tmp_path / "rsna"
    for study, folder in ((1, "stage_2_train"), (2, "stage_2_train"), (3, "stage_2_test")):
        write_dicom(
            root / folder,
            series="1.2.9",
            study=f"ID_{study:010x}",
            at_mm=[z * 10.0 for z in range(12)],
            change=rsna_image(study, 5 if study < 3 else 6, wrapped=study == 2),  # type: ignore[arg-type]
            name=lambda _, ds: f"{ds.SOPInstanceUID}.dcm",
        )
    rows = []
    for study in (1, 2):
        for z in range(12):
            bleeding = study == 1 and z in (5, 6)
            labels = dict.fromkeys(WORDS, 0) | ({"any": 1, "subdural": 1} if bleeding else {})
            rows += [(f"{image_id(study, z)}_{word}", labels[word]) for word in WORDS]
    write_csv(root / "stage_2_train.csv", ("ID", "Label"), [*rows, *rows[:12]])
    return root


def test_exams_are_studies_and_their_images_have_labels(rsna: Path) -> None:
    """Grouped without series numbers, ordered by position, labelled by image."""
    catalogue = READERS["rsna"](rsna, Options())
    assert [exam.exam for exam in catalogue.exams] == [f"ID_{study:010x}" for study in (1, 2, 3)]
    assert catalogue.left_out == []
    one, two, test = (exam.load(rsna) for exam in catalogue.exams)
    assert one.patient == two.patient != test.patient
    assert [exam.level for exam in (one, two, test)] == [LabelLevel.SLICE, LabelLevel.SLICE, LabelLevel.NONE]
    assert one.volume.geometry.offsets_mm.tolist() == [z * 10.0 for z in range(12)]
    assert np.flatnonzero(one.slice_findings[:, 0] == 1).tolist() == [5, 6]
    assert one.slice_findings[5].tolist() == [1, 0, 0, 0, 0, 1]
    assert one.findings.tolist() == [1, 0, 0, 0, 0, 1]
    assert two.findings.tolist() == [0] * 6
    assert "ID_" not in one.patient


def test_wrapped_images_have_the_hu_of_others(rsna: Path) -> None:
    """12 bits, unsigned, intercept 0: air of -1000 was stored as 3096."""
    one, two, _ = (exam.load(rsna) for exam in READERS["rsna"](rsna, Options()).exams)
    assert np.array_equal(one.volume.hu, two.volume.hu)
    assert one.volume.hu.min() == -1000


def test_the_truncated_file_costs_one_image(rsna: Path) -> None:
    """As ID_6431af929: its header is whole, its pixels are not. The exam keeps the others and the gap."""
    path = rsna / "stage_2_train" / f"{image_id(1, 4)}.dcm"
    path.write_bytes(path.read_bytes()[:-5000])
    exam = READERS["rsna"](rsna, Options()).exams[0].load(rsna)
    assert len(exam.volume.hu) == 11
    assert np.diff(exam.volume.geometry.offsets_mm).max() == 20
    ((name, reason),) = exam.left_out
    assert name == f"stage_2_train/{path.name}"
    assert reason.startswith("PIXELS_UNDECODABLE")
    assert np.flatnonzero(exam.slice_findings[:, 0] == 1).tolist() == [4, 5]


def test_files_that_macos_leaves_are_no_damage(rsna: Path) -> None:
    """They are not on the list of files to be downloaded again."""
    write_apple_doubles(rsna)
    assert READERS["rsna"](rsna, Options()).left_out == []


def test_files_that_are_no_images_are_named(rsna: Path) -> None:
    """An empty download."""
    (rsna / "stage_2_train" / "ID_00000dead.dcm").write_bytes(b"")
    catalogue = READERS["rsna"](rsna, Options())
    (row,) = catalogue.left_out
    assert (row.what, row.code) == ("stage_2_train/ID_00000dead.dcm", "NOT_DICOM")


def test_duplicated_rows_are_one_and_contradictions_are_unknown(tmp_path: Path) -> None:
    """The table has 24 rows twice; 838 groups of equal images contradict each other."""
    rows = [("ID_000000001_any", 1), ("ID_000000001_sdh", 0)]
    table = write_csv(tmp_path / "t.csv", ("ID", "Label"), [rows[0], rows[0], ("ID_000000002_any", 0)])
    catalogue = Catalogue("rsna")
    assert unpack(read_labels(table, catalogue)["ID_000000001"])[0] == 1
    assert catalogue.left_out == []
    table = write_csv(tmp_path / "t.csv", ("ID", "Label"), [("ID_000000001_any", 1), ("ID_000000001_any", 0)])
    assert unpack(read_labels(table, catalogue)["ID_000000001"]) == (-1,) * len(FINDINGS)
    assert [row.code for row in catalogue.left_out] == ["CONTRADICTION"]
    table = write_csv(tmp_path / "t.csv", ("ID", "Label"), rows)
    with pytest.raises(DataError, match="ID_000000001_sdh"):
        read_labels(table, catalogue)


@pytest.mark.parametrize("row", ["ID_000000001_any", "ID_000000001_any,", "ID_000000001_a", "ID_000000001_any,1,0"])
def test_a_table_that_breaks_off_is_refused(row: str, tmp_path: Path) -> None:
    """Half a download: the images after it would pass for unlabelled ones."""
    table = tmp_path / "stage_2_train.csv"
    table.write_text(f"ID,Label\nID_000000000_any,0\n{row}")
    with pytest.raises(DataError, match="a row that is no label"):
        read_labels(table, Catalogue("rsna"))


def test_images_of_the_table_without_a_file_are_counted(rsna: Path) -> None:
    """A download that was stopped."""
    (rsna / "stage_2_train" / f"{image_id(2, 0)}.dcm").unlink()
    (row,) = READERS["rsna"](rsna, Options()).left_out
    assert row.reason.startswith("1 images of the table")


def test_another_folder_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    """The wrong path is the commonest mistake."""
    with pytest.raises(DataError, match=r"stage_2_train\.csv"):
        READERS["rsna"](tmp_path, Options())
    write_csv(tmp_path / "stage_2_train.csv", ("ID", "Target"), [])
    with pytest.raises(DataError, match="ID,Target"):
        READERS["rsna"](tmp_path, Options())


def test_headers_read_in_processes_are_the_same(rsna: Path) -> None:
    """Whatever the order in which they come back."""
    here, there = READERS["rsna"](rsna, Options()), READERS["rsna"](rsna, Options(workers=1))
    assert here.exams == there.exams
    assert pydicom.config.settings.reading_validation_mode == pydicom.config.WARN
