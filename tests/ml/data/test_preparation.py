"""`prepare`: decoded once, resumed where it stopped, damaged files named."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ml.data.manifest import LEFT_OUT, Catalogue, LeftOut, read_left_out, read_manifest, write_manifest
from ml.data.preparation import UNREADABLE, Outcome, Preparation, prepare_exams
from ml.data.shards import open_folder
from ml.data.sources import Box, ExamSource, MaskFile, findings
from ml.errors import DataError
from tests.ml.conftest import TINY_PREPROCESSING
from tests.ml.data.disk import fail_to_read, head_volume, mask_of, write_csv, write_dicom, write_nifti
from tests.ml.stages import Stages


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Three studies and a NIfTI exam with a mask."""
    root = tmp_path / "lab"
    for n in range(3):
        write_dicom(root / f"p{n}", series=f"1.2.{n}.1", study=f"1.2.{n}")
    volume = head_volume()
    write_nifti(root / "images" / "case.nii.gz", volume.hu, volume.geometry)
    write_nifti(root / "masks" / "case.nii.gz", mask_of(volume), volume.geometry)
    write_csv(root / "labels.csv", ("exam", "any"), [("1.2.0", 1)])
    return root


def prepare(root: Path, out: Path, *, workers: int = 0, **changes: object) -> tuple[Outcome, Stages]:
    """Everything that there is to do."""
    stages = Stages()
    preparation = Preparation("folder", root, out, TINY_PREPROCESSING, workers=workers)
    return prepare_exams(replace(preparation, **changes), stages), stages  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1])
def test_exams_are_decoded_once(lab: Path, tmp_path: Path, workers: int) -> None:
    """The second run finds everything there and reads no image: they may be gone."""
    out = tmp_path / "out"
    outcome, stages = prepare(lab, out, workers=workers)
    assert outcome == Outcome(written=4, kept=0, unreadable=())
    assert sorted(stages.seen["decoding"]) == ["1.2.0", "1.2.1", "1.2.2", "case"]
    assert {shard.exam: str(shard.level) for shard in open_folder(out)} == {
        "1.2.0": "exam",
        "1.2.1": "none",
        "1.2.2": "none",
        "case": "pixel",
    }
    shutil.rmtree(lab)
    outcome, stages = prepare(lab, out, workers=workers)
    assert outcome == Outcome(written=0, kept=4, unreadable=())
    assert "reading headers" not in stages.seen


def test_a_disk_that_may_be_too_small_is_told_of_before_the_work(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of what is still to be done; a NIfTI file does not tell how many images it has."""
    images, out = len(list(lab.rglob("*.dcm"))), tmp_path / "out"
    needed = images * TINY_PREPROCESSING.size**2 * 2
    for free, told in ((needed, False), (needed - 1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        shutil.rmtree(out, ignore_errors=True)
        prepare(lab, out)
        assert ("may take up to" in capsys.readouterr().err) is told
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    prepare(lab, out)
    assert not capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on_where_it_was(lab: Path, tmp_path: Path) -> None:
    """What was half written is written anew, what was finished is not touched."""
    out = tmp_path / "out"
    prepare(lab, out)
    untouched = (out / "1.2.1" / "exam.json").stat().st_mtime_ns
    half = (out / "1.2.0").rename(out / "1.2.0.0123456789abcdef.tmp")
    os.utime(half, (0, 0))
    (out / "case" / "exam.json").unlink()
    assert len(open_folder(out)) == 2
    outcome, _ = prepare(lab, out)
    assert (outcome.written, outcome.kept) == (2, 2)
    assert (out / "1.2.1" / "exam.json").stat().st_mtime_ns == untouched
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["1.2.0", "1.2.1", "1.2.2", "case"]


def test_damaged_files_and_exams_are_named_and_skipped(lab: Path, tmp_path: Path) -> None:
    """One truncated image of an exam, one whole exam, one file that is no DICOM; again after a second run."""
    image = lab / "p0" / "CT000004.dcm"
    image.write_bytes(image.read_bytes()[:-3000])
    for path in (lab / "p1").iterdir():
        path.write_bytes(path.read_bytes()[:-3000])
    (lab / "p2" / "CT000003.dcm").write_bytes(b"")
    out = tmp_path / "out"
    for written in (3, 0):
        outcome, _ = prepare(lab, out)
        assert outcome.written == written
        rows = [(row.exam, row.what, row.code) for row in outcome.unreadable]
        assert rows == [
            ("", "p2/CT000003.dcm", "NOT_DICOM"),
            ("1.2.0", "p0/CT000004.dcm", "PIXELS_UNDECODABLE"),
            ("1.2.1", "p1", "PIXELS_UNDECODABLE"),
        ]
        assert (out / UNREADABLE).read_text().count("\n") == 4
    assert len(open_folder(out)) == 3


def test_a_file_that_the_disk_does_not_give_is_told_of_and_taken_later(lab: Path, tmp_path: Path) -> None:
    """When the headers are read: the file is missed. When the exam is decoded: the next run takes the exam."""
    image = lab / "p0" / "CT000004.dcm"
    content, out = image.read_bytes(), tmp_path / "out"
    fail_to_read(image)
    outcome, _ = prepare(lab, out)
    assert outcome.unreadable == (
        LeftOut("", "p0/CT000004.dcm", "FILE_UNREADABLE", "cannot be read: Input/output error"),
    )
    image.unlink()
    image.write_bytes(content)
    assert prepare(lab, out, rescan=True)[0] == Outcome(written=1, kept=3, unreadable=())
    shutil.rmtree(out / "1.2.0")
    fail_to_read(image)
    outcome, _ = prepare(lab, out)
    assert [(row.exam, row.code, row.reason) for row in outcome.unreadable] == [
        ("1.2.0", "FILE_UNREADABLE", f"Input/output error: {image}")
    ]
    image.unlink()
    image.write_bytes(content)
    assert prepare(lab, out)[0] == Outcome(written=1, kept=3, unreadable=())


def test_a_damaged_exam_that_was_repaired_is_taken_by_the_next_run(lab: Path, tmp_path: Path) -> None:
    """Downloaded again, without reading the headers of all others."""
    case = lab / "images" / "case.nii.gz"
    whole = case.read_bytes()
    case.write_bytes(whole[:500])
    out = tmp_path / "out"
    outcome, _ = prepare(lab, out)
    assert [row.code for row in outcome.unreadable] == ["NIFTI_UNREADABLE"]
    case.write_bytes(whole)
    outcome, _ = prepare(lab, out)
    assert outcome == Outcome(written=1, kept=3, unreadable=())


def test_new_exams_are_found_when_asked_for(lab: Path, tmp_path: Path) -> None:
    """`--rescan`."""
    out = tmp_path / "out"
    prepare(lab, out)
    write_dicom(lab / "p9", series="1.2.9.1", study="1.2.9")
    assert prepare(lab, out)[0].written == 0
    outcome, _ = prepare(lab, out, rescan=True)
    assert (outcome.written, outcome.kept) == (1, 4)


def test_exams_that_are_no_longer_in_the_folder_are_told_of(lab: Path, tmp_path: Path) -> None:
    """A patient who was taken out, or a folder that is another one: what was prepared is not thrown away unasked."""
    out = tmp_path / "out"
    assert prepare(lab, out)[0].left_over == 0
    shutil.rmtree(lab / "p2")
    assert prepare(lab, out)[0] == Outcome(written=0, kept=4, unreadable=()), "images may be gone"
    assert prepare(lab, out, rescan=True)[0] == Outcome(written=0, kept=3, unreadable=(), left_over=1)
    assert {shard.exam for shard in open_folder(out)} == {"1.2.0", "1.2.1", "1.2.2", "case"}
    shutil.rmtree(out / "1.2.2")
    assert prepare(lab, out)[0].left_over == 0


def test_exams_are_made_anew_where_a_rescan_finds_something_else(lab: Path, tmp_path: Path) -> None:
    """A label, a mask and a slice that came later; the others stay as they are."""
    image = lab / "p2" / "CT000004.dcm"
    whole = image.read_bytes()
    image.write_bytes(whole[:-3000])
    out = tmp_path / "out"
    assert len(prepare(lab, out)[0].unreadable) == 1
    image.write_bytes(whole)
    write_csv(lab / "labels.csv", ("exam", "any"), [("1.2.0", 0)])
    volume = head_volume()
    write_nifti(lab / "p1" / "mask.nii.gz", mask_of(volume), volume.geometry)
    untouched = (out / "case" / "exam.json").stat().st_mtime_ns
    outcome, _ = prepare(lab, out, rescan=True)
    assert outcome == Outcome(written=3, kept=1, unreadable=())
    assert (out / "case" / "exam.json").stat().st_mtime_ns == untouched
    exams = {shard.exam: shard for shard in open_folder(out)}
    assert exams["1.2.0"].findings[0] == 0
    assert exams["1.2.1"].level == "pixel"
    assert exams["1.2.2"].left_out == ()
    assert prepare(lab, out, rescan=True)[0] == Outcome(written=0, kept=4, unreadable=())


@pytest.mark.parametrize("written", ["now", "long ago"])
def test_a_mask_that_was_corrected_in_its_place_counts_after_a_rescan(written: str, lab: Path, tmp_path: Path) -> None:
    """Under its old name, whatever time a copy says that it was written; the other exams stay."""
    out, mask, volume = tmp_path / "out", lab / "masks" / "case.nii.gz", head_volume()
    prepare(lab, out)
    before = {shard.exam: shard.hemorrhage_ml for shard in open_folder(out)}["case"]
    write_nifti(mask, mask_of(volume, slices=(3, 4, 5, 6)), volume.geometry)
    if written == "long ago":
        os.utime(mask, (0, 0))
    assert prepare(lab, out, rescan=True)[0] == Outcome(written=1, kept=3, unreadable=())
    assert before is not None
    assert {shard.exam: shard.hemorrhage_ml for shard in open_folder(out)}["case"] == pytest.approx(2 * before)


def test_a_folder_of_another_set_or_grid_is_refused(lab: Path, tmp_path: Path) -> None:
    """Shards of two kinds must not be mixed."""
    out = tmp_path / "out"
    prepare(lab, out)
    with pytest.raises(DataError, match="of its own"):
        prepare(lab, out, kind="rsna")
    with pytest.raises(DataError, match="of its own"):
        prepare(lab, out, kind="instance", rescan=True)
    with pytest.raises(DataError, match="another --out"):
        prepare(lab, out, preprocessing=replace(TINY_PREPROCESSING, pixel_mm=3.0))


def test_nothing_but_damage_is_an_error(lab: Path, tmp_path: Path) -> None:
    """A wrong folder or a dead disk should not look like success."""
    shutil.rmtree(lab / "images")
    shutil.rmtree(lab / "masks")
    for n in range(3):
        for path in (lab / f"p{n}").iterdir():
            path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match="no exam can be read"):
        prepare(lab, tmp_path / "out")


def test_a_full_disk_stops_with_what_to_do(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not a damaged exam."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ml.data.shards.save_array", full)
    with pytest.raises(DataError, match="make room and run the same command again"):
        prepare(lab, tmp_path / "out")


def test_a_manifest_holds_every_row_as_it_was(tmp_path: Path) -> None:
    """Findings, masks with their values, boxes and published scores."""
    source = ExamSource(
        dataset="cq500",
        exam="CQ500-CT-1",
        patient="p",
        images=(Path("a/b.dcm"), Path("a/c.dcm")),
        family="cq500",
        patient_known=False,
        masks=(MaskFile(Path("m.nii"), {2: 5}), MaskFile(Path("n.dcm"))),
        findings=findings(any=1, SDH=1),
        slice_findings={"1.2": findings(any=0)},
        boxes=(Box("1.2", 1.0, 2.0, 3.0, 4.0, "SDH"),),
        published={"any": 0.5},
        choice="why",
    )
    plain = ExamSource(dataset="cq500", exam="CQ500-CT-2", patient="q", images=(Path("d.dcm"),))
    write_manifest(tmp_path, Catalogue("cq500", [source, plain]))
    assert list(read_manifest(tmp_path)) == [source, plain]
    assert read_left_out(tmp_path) == []
    head = json.loads((tmp_path / "manifest.jsonl").read_text().splitlines()[0])
    assert head == {"format": 1, "dataset": "cq500", "exams": 2}
    (tmp_path / "manifest.jsonl").write_text('{"format": 7}\n')
    with pytest.raises(DataError, match="format 7"):
        next(read_manifest(tmp_path))
    assert (tmp_path / LEFT_OUT).exists()


def test_shards_of_a_prepared_exam_are_what_was_on_disk(lab: Path, tmp_path: Path) -> None:
    """From NIfTI and mask to the network's grid."""
    prepare(lab, tmp_path / "out")
    shard = next(one for one in open_folder(tmp_path / "out") if one.exam == "case")
    area = (shard.blood == 1).sum() * 16.0
    assert area == pytest.approx(mask_of(head_volume()).sum() * 3.5**2, rel=0.15)
    assert np.median(shard.hu[shard.blood == 1]) == 35
