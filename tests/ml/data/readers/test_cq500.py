"""CQ500, Seg-CQ500 and BHX: one collection of patients in three layouts."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ml.data.readers import READERS, Options
from ml.data.readers.bhx import read_boxes
from ml.data.readers.cq500 import read_majority
from ml.data.sources import Box
from ml.errors import DataError
from ml.labels import BLEED, FINDINGS
from tests.ml.data.disk import head_volume, mask_of, write_apple_doubles, write_csv, write_dicom, write_nifti

ASPECTS = (
    *("ICH", "IPH", "IVH", "SDH", "EDH", "SAH", "BleedLocation-Left", "BleedLocation-Right", "ChronicBleed"),
    *("Fracture", "CalvarialFracture", "OtherFracture", "MassEffect", "MidlineShift"),
)
HEADER = ("name", "Category", *(f"R{n}:{aspect}" for n in (1, 2, 3) for aspect in ASPECTS))


def reads(name: str, **votes: tuple[int, int, int]) -> list[object]:
    """A row of reads.csv; what is not named nobody saw."""
    return [name, "B1", *(votes.get(aspect, (0, 0, 0))[n] for n in range(3) for aspect in ASPECTS)]


def write_series(root: Path, number: int, name: str, *, thin: bool = False, contrast: str = "") -> None:
    """A series in the folder of its study; thin ones have twice as many slices."""

    def change(_: int, ds: Dataset) -> None:
        if contrast:
            ds.ContrastBolusAgent = contrast

    folder = root / f"CQ500CT{number} CQ500CT{number}" / "Unknown Study" / f"CT {name}"
    step = 2.4 if thin else 10.0
    write_dicom(
        folder,
        series=f"1.2.{number}.{sum(name.encode())}",
        at_mm=[z * step for z in range(40 if thin else 12)],
        thickness_mm=step,
        change=change,
    )


@pytest.fixture
def cq500(tmp_path: Path) -> Path:
    """Three studies, one in a batch folder as the Kaggle mirror has them."""
    root = tmp_path / "cq500"
    for name in ("Plain", "Plain THIN", "BONE", "POST CONTRAST"):
        write_series(root, 3, name, thin="THIN" in name)
    write_series(root / "qct02", 12, "55mm-Plain")
    write_series(root, 336, "HEAD", contrast="IOHEXOL")
    rows = [
        reads("CQ500-CT-3", ICH=(1, 1, 0), SDH=(1, 0, 0), IPH=(0, 1, 1), ChronicBleed=(1, 1, 1)),
        reads("CQ500-CT-12", ICH=(0, 0, 1), SAH=(1, 1, 1)),
        reads("CQ500-CT-336"),
        reads("CQ500-CT-490"),
    ]
    write_csv(root / "reads.csv", HEADER, rows)
    write_csv(root / "prediction_probabilities.csv", ("name", "ICH", "IPH"), [("CQ500-CT-3", 0.93, 0.5)])
    return root


def test_exams_are_joined_with_the_majority_of_their_readers(cq500: Path) -> None:
    """Folder CQ500CT3 is row CQ500-CT-3; each finding has its own majority, and "ICH" need not be their union."""
    three, twelve = READERS["cq500"](cq500, Options()).exams
    assert (three.exam, twelve.exam) == ("CQ500-CT-3", "CQ500-CT-12")
    assert dict(zip(FINDINGS, three.findings, strict=True)) == {
        "any": 1,
        "EDH": 0,
        "IPH": 1,
        "IVH": 0,
        "SAH": 0,
        "SDH": 0,
    }
    assert dict(zip(FINDINGS, twelve.findings, strict=True)) == {
        "any": 0,
        "EDH": 0,
        "IPH": 0,
        "IVH": 0,
        "SAH": 1,
        "SDH": 0,
    }
    assert three.published == {"any": 0.93, "IPH": 0.5}
    assert twelve.published == {}
    exam = three.load(cq500)
    assert exam.findings.tolist() == list(three.findings)
    assert exam.level == "exam"


def test_one_series_stands_for_an_exam_and_the_report_says_why(cq500: Path) -> None:
    """Thick, plain and soft; a study with contrast series only is no exam."""
    catalogue = READERS["cq500"](cq500, Options())
    assert "CT Plain: 12 slices of 10 mm" in catalogue.exams[0].choice
    assert {path.parent.name for path in catalogue.exams[0].images} == {"CT Plain"}
    codes = {(row.exam, Path(row.what).name): row.code for row in catalogue.left_out}
    assert codes == {
        ("CQ500-CT-3", "CT Plain THIN"): "NOT_CHOSEN",
        ("CQ500-CT-3", "CT BONE"): "BONE_KERNEL",
        ("CQ500-CT-3", "CT POST CONTRAST"): "CONTRAST",
        ("CQ500-CT-336", "CT HEAD"): "CONTRAST",
        ("CQ500-CT-336", ""): "NO_SERIES",
        ("CQ500-CT-490", ""): "NO_IMAGES",
    }


def test_files_that_macos_leaves_are_no_damage(cq500: Path) -> None:
    """They are not on the list of files to be downloaded again."""
    before = READERS["cq500"](cq500, Options())
    write_apple_doubles(cq500)
    assert READERS["cq500"](cq500, Options()) == before


def test_a_study_without_reads_has_no_labels(cq500: Path) -> None:
    """It is kept, and the report says so."""
    table = cq500 / "reads.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if "CT-12" not in line))
    catalogue = READERS["cq500"](cq500, Options())
    assert catalogue.exams[1].findings == (-1,) * 6
    assert ("CQ500-CT-12", "NO_READS") in {(row.exam, row.code) for row in catalogue.left_out}


def test_tables_of_another_form_are_refused(cq500: Path, tmp_path: Path) -> None:
    """A renamed column must not become an unknown finding."""
    table = write_csv(tmp_path / "reads.csv", [name.replace("R2:SDH", "R2:Sub") for name in HEADER], [])
    with pytest.raises(DataError, match="R2:SDH"):
        read_majority(table)
    write_csv(cq500 / "prediction_probabilities.csv", ("name", "IPH"), [("CQ500-CT-3", 0.5)])
    with pytest.raises(DataError, match="no column ICH"):
        READERS["cq500"](cq500, Options())


def write_seg_cq500(root: Path, *cases: str) -> Path:
    """Cases with images, masks and brains."""
    volumes = root / "Seg-CQ500" / "data" / "volumes"
    volume = head_volume()
    for case in cases:
        write_nifti(volumes / case / "CT.nii", volume.hu, volume.geometry, orientation="LAS")
        write_nifti(volumes / case / "ICH_mask.nii.gz", mask_of(volume), volume.geometry, orientation="LAS")
        write_nifti(volumes / case / "brain.nii.gz", mask_of(volume), volume.geometry)
    write_csv(volumes / "info.csv", ("name", "ICH", "SDH", "IPH"), [(case, 1, 0.66, 0.33) for case in cases])
    return root


def test_seg_cq500_has_masks_and_the_patients_of_cq500(tmp_path: Path, cq500: Path) -> None:
    """Voxel labels of no subtype, findings by the readers' consensus."""
    root = write_seg_cq500(tmp_path / "seg", "CQ500-CT-3", "other")
    (root / "Seg-CQ500" / "data" / "volumes" / "CQ500-CT-9").mkdir()
    catalogue = READERS["seg-cq500"](root, Options())
    one, other = catalogue.exams
    assert one.patient == READERS["cq500"](cq500, Options()).exams[0].patient
    assert (one.patient_known, other.patient_known) == (True, False)
    exam = one.load(root)
    assert exam.pixels is not None
    assert (exam.pixels == BLEED).sum() == mask_of(head_volume()).sum()
    assert exam.findings.tolist() == [1, -1, 0, -1, -1, 1]
    assert [(row.exam, row.code) for row in catalogue.left_out] == [("CQ500-CT-9", "NO_IMAGES")]


def test_numbers_that_three_readers_cannot_give_are_no_labels_of_theirs(tmp_path: Path) -> None:
    """0.93 is what some model said; the masks are labels all the same."""
    root = write_seg_cq500(tmp_path / "seg", "CQ500-CT-3", "CQ500-CT-9")
    rows = [("CQ500-CT-3", 0.98, 0.93, 0.1), ("CQ500-CT-9", 1, 0, 0)]
    write_csv(root / "Seg-CQ500" / "data" / "volumes" / "info.csv", ("name", "ICH", "SDH", "IPH"), rows)
    catalogue = READERS["seg-cq500"](root, Options())
    assert [exam.load(root).findings.tolist() for exam in catalogue.exams] == [[1, -1, -1, -1, -1, -1]] * 2
    assert [(Path(row.what).name, row.code) for row in catalogue.left_out] == [("info.csv", "NO_READS")]


def write_bhx(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """The three tables; `rows`: image, series, data, label."""
    names = ("1_Initial_Manual_Labeling", "2_Extrapolation_to_All_Series", "3_Extrapolation_to_Selected_Series")
    header = ("", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "data", "labelName", "labelType")
    for name in names:
        full = [
            (n, image, series, "1.2.3", data, label, "drawn") for n, (image, series, data, label) in enumerate(rows)
        ]
        write_csv(folder / f"{name}.csv", header, full)
    return folder


def test_boxes_label_the_slices_of_their_series(cq500: Path, tmp_path: Path) -> None:
    """Each box once, though three tables have it; chronic blood makes no slice positive."""
    series = f"1.2.3.{sum(b'Plain')}"
    data = "{'x': 10.5, 'y': 20.25, 'width': 8.0, 'height': 6.5}"
    rows = [
        (f"{series}.6", series, data, "Subdural"),
        (f"{series}.6", series, data, "Chronic"),
        (f"{series}.7", series, data, "Chronic"),
        ("1.2.99.1", "1.2.99", data, "Epidural"),
    ]
    catalogue = READERS["bhx"](cq500, Options(boxes=write_bhx(tmp_path / "bhx", rows)))
    (source,) = catalogue.exams
    assert source.boxes[0] == Box(f"{series}.6", 10.5, 20.25, 8.0, 6.5, "SDH")
    assert [box.label for box in source.boxes] == ["SDH", "chronic", "chronic"]
    exam = source.load(cq500)
    assert exam.slice_findings[5].tolist() == [1, 0, 0, 0, 0, 1]
    assert exam.slice_findings[6].tolist() == [-1] * 6
    assert np.count_nonzero(exam.slice_findings[:, 0] == 0) == 10
    assert source.patient == READERS["cq500"](cq500, Options()).exams[0].patient
    codes = [(row.exam, row.code) for row in catalogue.left_out]
    assert codes == [("CQ500-CT-12", "NO_BOXES"), ("CQ500-CT-336", "NO_BOXES"), ("", "NO_IMAGES")]


def test_boxes_that_are_none_are_refused(tmp_path: Path) -> None:
    """Parsed as a literal, never run."""
    for data in ("__import__('os').getcwd()", "{'x': 1}", "{'x': 1, 'y': 'two', 'width': 1, 'height': 1}", "[1]"):
        bhx = write_bhx(tmp_path / "bhx", [("1.2.1", "1.2", data, "Subdural")])
        with pytest.raises(DataError, match="is no box"):
            read_boxes(bhx)


def test_boxes_need_their_folder_and_known_labels(cq500: Path, tmp_path: Path) -> None:
    """BHX has no images of its own."""
    with pytest.raises(DataError, match="--boxes"):
        READERS["bhx"](cq500, Options())
    box = "{'x': 1, 'y': 1, 'width': 1, 'height': 1}"
    bhx = write_bhx(tmp_path / "bhx", [("1.2.1", "1.2", box, "Tumour")])
    with pytest.raises(DataError, match="Tumour"):
        read_boxes(bhx)
