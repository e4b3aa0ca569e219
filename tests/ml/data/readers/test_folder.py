"""A lab's own exams, in whatever folders they lie."""

from pathlib import Path

import numpy as np
import pytest

from ml.data.readers import READERS, Options
from ml.data.series import read_volume
from ml.errors import DataError
from ml.labels import ANY, BLEED, Subtype
from tests.ml.data.disk import head_volume, mask_of, write_apple_doubles, write_csv, write_dicom, write_nifti
from tests.ml.data.test_masks import whole, write_seg


def test_studies_are_exams_with_masks_of_either_kind(tmp_path: Path) -> None:
    """A SEG elsewhere in the tree, a NIfTI mask beside the images, one under the series' name, and none."""
    root = tmp_path / "lab"
    images = {
        n: write_dicom(root / f"p{n}" / "head", series=f"1.2.{n}.1", study=f"1.2.{n}", change=whole)
        for n in range(1, 5)
    }
    volume = read_volume(images[1])
    sdh = np.zeros((1, *volume.hu.shape), dtype=np.uint8)
    sdh[0, 4, 30:36, 20:30] = 1
    (root / "segs").mkdir()
    write_seg(root / "segs" / "a", images[1], sdh, ["Subdural hematoma"])
    write_nifti(root / "p2" / "head" / "mask.nii.gz", mask_of(volume), volume.geometry, orientation="RAS")
    write_nifti(root / "masks" / "1.2.3.1.nii.gz", mask_of(volume), volume.geometry)
    (root / "notes.txt").write_text("not an image")
    (root / "broken.dcm").write_bytes(b"DICM" * 50)
    write_csv(root / "labels.csv", ("exam", "any", "SDH"), [("1.2.4", 0, "")])
    catalogue = READERS["folder"](root, Options())
    exams = [source.load(root) for source in catalogue.exams]
    assert [exam.exam for exam in exams] == [f"1.2.{n}" for n in range(1, 5)]
    assert [exam.level for exam in exams] == ["pixel", "pixel", "pixel", "exam"]
    first, second, third, fourth = exams
    assert first.pixels is not None
    assert np.array_equal(first.pixels, sdh[0] * np.uint8(Subtype.SDH))
    for exam in (second, third):
        assert exam.pixels is not None
        assert np.array_equal(exam.pixels, mask_of(volume, BLEED))
    assert fourth.findings.tolist() == [0, -1, -1, -1, -1, -1]
    assert [(row.what, row.code) for row in catalogue.left_out] == [("broken.dcm", "NOT_DICOM")]


def test_the_series_that_masks_were_drawn_on_stands_for_the_study(tmp_path: Path) -> None:
    """Even where another one would have been chosen."""
    thin = [2.4 * z for z in range(40)]
    write_dicom(tmp_path / "thick", series="1.2.1.1", study="1.2.1")
    write_dicom(tmp_path / "thin", series="1.2.1.2", study="1.2.1", at_mm=thin, thickness_mm=2.4)
    (chosen,) = READERS["folder"](tmp_path, Options()).exams
    assert chosen.images[0].parent.name == "thick"
    volume = head_volume(40, 2.4)
    write_nifti(tmp_path / "thin" / "mask.nii", mask_of(volume), volume.geometry)
    catalogue = READERS["folder"](tmp_path, Options())
    assert catalogue.exams[0].images[0].parent.name == "thin"
    assert [(row.what, row.code) for row in catalogue.left_out] == [("1.2.1.1", "NOT_CHOSEN")]


def test_a_mask_of_no_images_is_told_of(tmp_path: Path) -> None:
    """Beside two series, under a name that no series has, in a folder of masks without images, and of no scan: else
    the exam would pass for one that nobody has drawn on.
    """
    write_dicom(tmp_path / "p1", series="1.2.1.1", study="1.2.1")
    write_dicom(tmp_path / "p1", series="1.2.1.2", study="1.2.1", name=lambda z, _: f"other{z}.dcm")
    volume = head_volume()
    places = ["masks/1.2.77.nii", "masks/case.nii.gz", "notes/case.nii.gz", "p1/mask.nii.gz"]
    for place in places:
        write_nifti(tmp_path / place, mask_of(volume), volume.geometry)
    left_out = READERS["folder"](tmp_path, Options()).left_out
    assert [(row.what, row.code) for row in left_out if row.code != "NOT_CHOSEN"] == [
        (place, "NO_IMAGES") for place in places
    ]
    write_nifti(tmp_path / "images" / "case.nii.gz", volume.hu, volume.geometry)
    write_nifti(tmp_path / "masks" / "1.2.1.1.nii.gz", mask_of(volume), volume.geometry)
    catalogue = READERS["folder"](tmp_path, Options())
    assert [exam.load(tmp_path).level for exam in catalogue.exams] == ["pixel", "pixel"]
    assert [row.what for row in catalogue.left_out if row.code != "NOT_CHOSEN"] == [places[0], *places[2:]]


def test_a_table_of_labels_is_read_as_people_write_it(tmp_path: Path) -> None:
    """By file name, and with decimals; a row that belongs to no exam is told of."""
    volume = head_volume()
    write_nifti(tmp_path / "imagesTr" / "case7_0000.nii.gz", volume.hu, volume.geometry)
    rows = [("case7_0000.nii.gz", "1.0", "", "0.0"), ("case8", "0", "0", "0")]
    write_csv(tmp_path / "labels.csv", ("exam", "any", "EDH", "SDH"), rows)
    catalogue = READERS["folder"](tmp_path, Options())
    assert [exam.findings for exam in catalogue.exams] == [(1, -1, -1, -1, -1, 0)]
    assert [(row.exam, row.what, row.code) for row in catalogue.left_out] == [("case8", "labels.csv", "NO_IMAGES")]


def test_an_exam_with_a_subtype_bleeds_though_nobody_wrote_so_beside_it(tmp_path: Path) -> None:
    """Else only the exams without blood would be judged. Subtypes that are absent leave open what else there is."""
    volume = head_volume()
    for number in range(4):
        write_nifti(tmp_path / "images" / f"case{number}.nii.gz", volume.hu, volume.geometry)
    rows = [("case0", "0", "", ""), ("case1", "", "1", ""), ("case2", "", "0", "0"), ("case3", "", "", "")]
    write_csv(tmp_path / "labels.csv", ("exam", "any", "EDH", "SDH"), rows)
    exams = READERS["folder"](tmp_path, Options()).exams
    assert [exam.findings[ANY] for exam in exams] == [0, 1, -1, -1]
    assert [exam.load(tmp_path).findings[ANY] for exam in exams] == [0, 1, -1, -1]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"exam,any\ncase7,yes\n", "tells 'yes' of exam case7"),
        (b"exam,ICH\ncase7,1\n", "none of the columns any, EDH"),
        ("exam,any\nMüller,1\n".encode("cp1252"), "is not in UTF-8"),
        ("exam,any\ncase7,1\n".encode("utf-16"), "is not in UTF-8"),
    ],
)
def test_a_table_that_tells_nothing_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    """Its exams would pass for such of which nothing is known."""
    write_nifti(tmp_path / "images" / "case7.nii.gz", head_volume().hu, head_volume().geometry)
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=why):
        READERS["folder"](tmp_path, Options())


def test_files_that_macos_leaves_are_no_masks(tmp_path: Path) -> None:
    """Neither beside a series, whose exam would be lost, nor among NIfTI exams."""
    volume = head_volume()
    write_dicom(tmp_path / "p1", series="1.2.1.1", study="1.2.1")
    write_nifti(tmp_path / "p1" / "mask.nii.gz", mask_of(volume), volume.geometry)
    write_nifti(tmp_path / "images" / "case.nii.gz", volume.hu, volume.geometry)
    write_nifti(tmp_path / "masks" / "case.nii.gz", mask_of(volume), volume.geometry)
    write_apple_doubles(tmp_path)
    catalogue = READERS["folder"](tmp_path, Options())
    assert [exam.load(tmp_path).level for exam in catalogue.exams] == ["pixel", "pixel"]
    assert catalogue.left_out == []


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store", "DICOMDIR"])
def test_what_a_file_manager_leaves_is_no_damage(name: str, tmp_path: Path) -> None:
    """Nothing is left out, so that `prepare` does not end with 3."""
    write_dicom(tmp_path / "series", series="1.2.3")
    (tmp_path / "series" / name).write_bytes(bytes(500))
    catalogue = READERS["folder"](tmp_path, Options())
    assert (len(catalogue.exams), catalogue.left_out) == (1, [])


def test_nifti_exams_lie_under_images_and_masks(tmp_path: Path) -> None:
    """nnU-Net's names as well; patients are not named in the keys."""
    volume = head_volume()
    write_nifti(tmp_path / "imagesTr" / "case7_0000.nii.gz", volume.hu, volume.geometry)
    write_nifti(tmp_path / "labelsTr" / "case7.nii.gz", mask_of(volume), volume.geometry)
    write_nifti(tmp_path / "imagesTr" / "Mr Smith.nii.gz", volume.hu, volume.geometry)
    catalogue = READERS["folder"](tmp_path, Options())
    assert [exam.load(tmp_path).level for exam in catalogue.exams] == ["none", "pixel"]
    assert catalogue.exams[1].exam == "case7"
    assert "Smith" not in catalogue.exams[0].exam + catalogue.exams[0].patient
