"""Splits as folders, from prepared exams of several data sets."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ml.data.exams import LabelledExam
from ml.data.parts import make_parts, write_parts
from ml.data.shards import open_folder, write_exam
from ml.errors import DataError
from ml.volume import Volume
from tests.ml.conftest import TINY_PREPROCESSING, MakeVolume


def other(volume: Volume, n: int) -> Volume:
    """An exam of which no image is one of another."""
    hu = volume.hu.copy()
    hu[:, 50, 40] += n
    hu[:, 50, 41] += range(len(hu))
    return replace(volume, hu=hu)


def write(folder: Path, dataset: str, exams: dict[str, str], volume: Volume, *, first: int) -> Path:
    """Prepared exams by name and patient."""
    for n, (name, patient) in enumerate(exams.items()):
        exam = LabelledExam(dataset, name, patient, other(volume, first + n), family="cq500")
        write_exam(folder / name, exam, TINY_PREPROCESSING)
    return folder


def test_parts_are_folders_of_exams(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Links that open as the exams they are; a second split does not replace the first."""
    names = {f"e{n}": f"p{n // 2}" for n in range(8)}
    folder = write(tmp_path / "shards", "cq500", names, make_volume(), first=0)
    parts = make_parts([folder], {"train": 1, "test": 1}, key="3", hold_out={})
    write_parts(tmp_path / "split", parts, key="3", shares={"train": 1, "test": 1})
    opened = {name: open_folder(tmp_path / "split" / name) for name in ("train", "test")}
    assert {name: [one.exam for one in found] for name, found in opened.items()} == {
        name: [one.exam for one in found] for name, found in parts.items()
    }
    assert sum(map(len, opened.values())) == 8
    assert opened["train"][0].hu.shape == (10, 64, 64)
    told = json.loads((tmp_path / "split" / "split.json").read_text())
    assert set(told["parts"]["train"] + told["parts"]["test"]) == {f"cq500/{name}" for name in names}
    with pytest.raises(DataError, match="holds a split already"):
        write_parts(tmp_path / "split", parts, key="3", shares={})


def test_links_of_another_split_are_refused(make_volume: MakeVolume, tmp_path: Path) -> None:
    """One that was stopped, or of which split.json alone was removed: its exams would be trained on and judged on."""
    folder, out = (
        write(tmp_path / "shards", "cq500", {"a": "p1", "b": "p2"}, make_volume(), first=0),
        tmp_path / "split",
    )
    first, second = open_folder(folder)
    write_parts(out, {"train": [first], "test": [second]}, key="1", shares={})
    (out / "split.json").unlink()
    with pytest.raises(DataError, match=r"a part of one; remove that folder"):
        write_parts(out, {"train": [second], "test": [first]}, key="2", shares={})
    assert [[exam.exam for exam in open_folder(out / name)] for name in ("train", "test")] == [["a"], ["b"]]


def test_a_held_out_set_must_not_overlap(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Train on Seg-CQ500, test on CQ500: refused, unless the exams in common are left out of the test."""
    volume = make_volume()
    seg = write(tmp_path / "seg", "seg-cq500", {"CQ500-CT-1": "p1", "CQ500-CT-2": "p2"}, volume, first=0)
    whole = write(tmp_path / "cq500", "cq500", {f"CQ500-CT-{n}": f"p{n}" for n in range(4)}, volume, first=50)
    with pytest.raises(DataError, match="seg-cq500 CQ500-CT-1 and cq500 CQ500-CT-1 are of one patient"):
        make_parts([seg], {"train": 1}, key="1", hold_out={"test": whole})
    parts = make_parts([seg], {"train": 1}, key="1", hold_out={"test": whole}, drop_overlaps=True)
    assert [one.exam for one in parts["test"]] == ["CQ500-CT-0", "CQ500-CT-3"]
    again = write(tmp_path / "again", "cq500", {"new": "p9"}, volume, first=0)
    with pytest.raises(DataError, match="show the same image"):
        make_parts([seg], {"train": 1}, key="1", hold_out={"test": again})


def test_what_is_dropped_takes_its_patient_with_it(make_volume: MakeVolume, tmp_path: Path) -> None:
    """One image under two patients: they are one, and so is the second exam of either."""
    volume = make_volume()
    pool = write(tmp_path / "pool", "seg-cq500", {"a": "p1"}, volume, first=5)
    held = write(tmp_path / "held", "cq500", {"b": "p2", "c": "p2", "d": "p3"}, volume, first=5)
    parts = make_parts([pool], {"train": 1}, key="1", hold_out={"test": held}, drop_overlaps=True)
    assert [one.exam for one in parts["test"]] == ["d"]


def test_two_exams_of_one_name_are_refused(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Two laboratories that both begin with 001: one link would hide the other exam."""
    volume = make_volume()
    labs = [write(tmp_path / lab, "folder", {"001": "p1"}, volume, first=n) for n, lab in enumerate(("here", "there"))]
    with pytest.raises(DataError, match="here and there both have an exam folder 001"):
        make_parts(labs, {"train": 1}, key="1", hold_out={})
    other_set = write(tmp_path / "other", "bhsd", {"001": "p3"}, volume, first=9)
    assert len(make_parts([labs[0], other_set], {"train": 1}, key="1", hold_out={})["train"]) == 2


def test_parts_without_exams_or_names_are_refused(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Rather than trained on."""
    folder = write(tmp_path / "one", "cq500", {"e": "p"}, make_volume(), first=0)
    with pytest.raises(DataError, match="no exam is left for"):
        make_parts([folder], {"train": 1, "test": 1}, key="1", hold_out={})
    with pytest.raises(DataError, match="names of their own"):
        make_parts([folder], {"train": 1}, key="1", hold_out={"train": folder})
    with pytest.raises(DataError, match="no prepared exam"):
        make_parts([tmp_path], {"train": 1}, key="1", hold_out={})
