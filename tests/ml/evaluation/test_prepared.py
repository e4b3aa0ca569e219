"""Prepared data sets as sources to be judged on."""

from pathlib import Path

import numpy as np
import pytest

from ml.data.parts import make_parts, write_parts
from ml.data.preparation import Preparation, prepare_exams
from ml.errors import EvaluationError
from ml.evaluation.judging import evaluate
from ml.evaluation.prepared import PreparedSource
from ml.evaluation.records import Origin, write_published
from ml.labels import ANY
from tests.ml.conftest import TINY_PREPROCESSING
from tests.ml.data.disk import head_volume, mask_of, write_csv, write_dicom, write_nifti
from tests.ml.evaluation.conftest import network
from tests.ml.stages import Stages

NAMES = (
    *("ICH", "IPH", "IVH", "SDH", "EDH", "SAH", "BleedLocation-Left", "BleedLocation-Right", "ChronicBleed"),
    *("Fracture", "CalvarialFracture", "OtherFracture", "MassEffect", "MidlineShift"),
)


def prepare(kind: str, root: Path, out: Path, *, boxes: Path | None = None) -> None:
    """As `python -m ml prepare` does."""
    prepare_exams(Preparation(kind, root, out, TINY_PREPROCESSING, boxes=boxes), Stages())


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A study known to bleed, one of which nothing is known, a broken one, and a NIfTI exam with a mask."""
    root = tmp_path / "lab"
    for n in range(3):
        write_dicom(root / f"p{n}", series=f"1.2.{n}.1", study=f"1.2.{n}")
    for path in (root / "p2").iterdir():
        path.write_bytes(path.read_bytes()[:-4000])
    volume = head_volume()
    write_nifti(root / "images" / "case.nii.gz", volume.hu, volume.geometry)
    write_nifti(root / "masks" / "case.nii.gz", mask_of(volume), volume.geometry)
    write_csv(root / "labels.csv", ("exam", "any"), [("1.2.0", 1), ("1.2.2", 0)])
    return root


def test_readable_exams_with_a_reference_standard_are_judged(lab: Path, tmp_path: Path) -> None:
    """On their own grid; the others are not in the set."""
    prepare("folder", lab, tmp_path / "prepared")
    source = PreparedSource(tmp_path / "prepared", lab)
    assert source.name == "folder:prepared"
    assert sorted(source.exams) == ["1.2.0", "case"]
    origin = Origin("m", source.name, source.exams, "c", "python", "b 1", "0" * 64, 0.5)
    records = evaluate(network(5.0), source, tmp_path / "records", origin=origin, progress=lambda _: None)
    by_name = {one.exam: one for one in records.records}
    assert by_name["1.2.0"].bleeding
    assert by_name["1.2.0"].counts is None
    counts = by_name["case"].counts
    assert counts is not None
    assert sum(counts.truth) == int(mask_of(head_volume()).sum())
    assert np.flatnonzero(counts.truth).tolist() == [5, 6]
    assert next(iter(source.read(["case"]))).findings[ANY] == 1


def test_exams_that_are_left_open_are_not_judged(tmp_path: Path) -> None:
    """Blood that is only chronic (BHX) tells neither way, nor do some slices without blood of an exam (RSNA)."""
    folders = [tmp_path / "cq500" / f"CQ500CT{n} CQ500CT{n}" / "CT Plain" for n in (3, 12)]
    for n, folder in zip((3, 12), folders, strict=True):
        write_dicom(folder, series=f"1.2.{n}.1", study=f"1.2.{n}")
    side = "{'x': 1.0, 'y': 2.0, 'width': 3.0, 'height': 4.0}"
    boxes = [(f"1.2.{n}.1.4", f"1.2.{n}.1", side, word) for n, word in ((3, "Subdural"), (12, "Chronic"))]
    write_csv(
        tmp_path / "boxes" / "1_Initial_Manual_Labeling.csv",
        ("SOPInstanceUID", "SeriesInstanceUID", "data", "labelName"),
        boxes,
    )
    prepare("bhx", tmp_path / "cq500", tmp_path / "bhx", boxes=tmp_path / "boxes")
    assert PreparedSource(tmp_path / "bhx", tmp_path / "cq500").exams == ("CQ500-CT-3",)
    write_dicom(tmp_path / "rsna" / "stage_2_train", series="1.2.5.1", study="ID_5")
    write_csv(tmp_path / "rsna" / "stage_2_train.csv", ("ID", "Label"), [("CT000003_any", 0)])
    prepare("rsna", tmp_path / "rsna", tmp_path / "open")
    nothing = PreparedSource(tmp_path / "open", tmp_path / "rsna")
    origin = Origin("m", nothing.name, nothing.exams, "c", "python", "b 1", "0" * 64, 0.5)
    with pytest.raises(EvaluationError, match="no exam of which it is known"):
        evaluate(network(5.0), nothing, tmp_path / "records", origin=origin, progress=lambda _: None)
    assert not (tmp_path / "records").exists()


def test_a_part_of_a_split_is_judged_like_the_folder_that_it_was_taken_from(tmp_path: Path) -> None:
    """Its links lead to the manifest; exams of two data sets would need two folders of images."""
    for lab in ("one", "two"):
        for n in range(4):
            volume = head_volume()
            volume.hu[:, 32, 32] += n + (10 if lab == "two" else 0)
            write_nifti(tmp_path / lab / "images" / f"{lab}{n}.nii.gz", volume.hu, volume.geometry)
            write_nifti(tmp_path / lab / "masks" / f"{lab}{n}.nii.gz", mask_of(volume), volume.geometry)
        prepare("folder", tmp_path / lab, tmp_path / f"prepared-{lab}")
    shares = {"train": 1.0, "test": 1.0}
    for name, folders in (("split", ["prepared-one"]), ("both", ["prepared-one", "prepared-two"])):
        parts = make_parts([tmp_path / folder for folder in folders], shares, key="3", hold_out={})
        write_parts(tmp_path / name, parts, key="3", shares=shares)
    seen = [PreparedSource(tmp_path / "split" / part, tmp_path / "one") for part in shares]
    assert [source.name for source in seen] == ["folder:train", "folder:test"]
    assert sorted(seen[0].exams + seen[1].exams) == [f"one{n}" for n in range(4)]
    assert all(source.exams for source in seen)
    assert next(iter(seen[1].read(seen[1].exams))).findings[ANY] == 1
    with pytest.raises(EvaluationError, match="exams of prepared-one, prepared-two"):
        _ = PreparedSource(tmp_path / "both" / "train", tmp_path / "one").exams


def test_published_scores_become_a_row(tmp_path: Path) -> None:
    """Qure.ai's, from CQ500's own table, against the majority of three."""
    root = tmp_path / "cq500"
    for number in (3, 12):
        folder = root / f"CQ500CT{number} CQ500CT{number}" / "Unknown Study" / "CT Plain"
        write_dicom(folder, series=f"1.2.{number}.1", study=f"1.2.{number}")
    header = ("name", "Category", *(f"R{n}:{name}" for n in (1, 2, 3) for name in NAMES))
    votes = {3: (1, 1, 0), 12: (0, 0, 1)}
    rows = [
        [f"CQ500-CT-{number}", "B1", *(vote if name == "ICH" else 0 for vote in three for name in NAMES)]
        for number, three in votes.items()
    ]
    write_csv(root / "reads.csv", header, rows)
    scores = [(f"CQ500-CT-{number}", *[0.25 + number / 100] * 6) for number in (3, 12)]
    write_csv(root / "prediction_probabilities.csv", ("name", *NAMES[:6]), scores)
    prepare("cq500", root, tmp_path / "prepared")
    source = PreparedSource(tmp_path / "prepared", root)
    published = {one.bleeding: one.exam_score for one in source.published()}
    assert published == {True: pytest.approx(0.28), False: pytest.approx(0.37)}
    origin = Origin("qure", source.name, source.exams, "c", "python")
    write_published(tmp_path / "records", origin, source.published())


def test_sets_without_published_scores_say_so(lab: Path, tmp_path: Path) -> None:
    """No row is made up."""
    prepare("folder", lab, tmp_path / "prepared")
    with pytest.raises(EvaluationError, match="no published scores"):
        PreparedSource(tmp_path / "prepared", lab).published()
