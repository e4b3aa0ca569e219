"""Records on disk: whole, resumable, traceable."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.errors import EvaluationError
from ml.evaluation.pixels import count_pixels
from ml.evaluation.records import (
    MASKS,
    ExamPixels,
    ExamRecord,
    ImageCounts,
    LesionMatches,
    Origin,
    open_folder,
    read_records,
    write_published,
    write_record,
)
from ml.evaluation.study import (
    ModelRole,
    SetRole,
    Study,
    StudyModel,
    StudySet,
    read_study,
    record_folder,
    write_study,
)

ORIGIN = Origin(
    "baseline", "phantom:B:0+3@128", ("a", "b", "c"), "abc", "python -m ml evaluate", "compact 1", "0" * 64, 0.5
)
RECORD = ExamRecord(
    exam="b",
    group="b",
    bleeding=True,
    exam_score=0.25,
    exam_called=False,
    subtypes=("IPH", "SAH"),
    slice_scores=(0.5, 0.25),
    slice_bleeding=(True, False),
    truth_ml=1.5,
    reported_ml=0.0,
    counts=ImageCounts((64, 64), (2, 0), (3, 1), (2, 0), (0, 0), (0, 0)),
    lesions=LesionMatches((1.5,), (False,), ()),
    seconds=0.5,
)


def pixels() -> ExamPixels:
    """Two small images."""
    rng = np.random.default_rng(0)
    prob = rng.random((2, 8, 8), dtype=np.float32)
    masks = {name: rng.random((2, 8, 8)) < 0.3 for name in MASKS}
    return ExamPixels(*count_pixels(prob, masks["truth"], np.ones_like(masks["truth"])), masks)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    """Its pixels too, to the bit."""
    open_folder(tmp_path, ORIGIN)
    kept = pixels()
    write_record(tmp_path, RECORD, kept)
    found = read_records(tmp_path)
    assert found.origin == ORIGIN
    assert found.records == (RECORD,)
    assert found.missing == 2
    back = found.pixels(RECORD)
    assert np.array_equal(back.histogram.positives, kept.histogram.positives)
    assert np.array_equal(back.histogram.negatives, kept.histogram.negatives)
    assert np.array_equal(back.image_positives, kept.image_positives)
    assert np.array_equal(back.image_negatives, kept.image_negatives)
    assert all(np.array_equal(back.masks[name], kept.masks[name]) for name in MASKS)


def test_a_stopped_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    """An exam is finished when its JSON is there; pixels alone are half an exam."""
    assert open_folder(tmp_path, ORIGIN) == ("a", "b", "c")
    write_record(tmp_path, RECORD, pixels())
    (tmp_path / "exams" / "a.npz").write_bytes(b"half")
    assert open_folder(tmp_path, replace(ORIGIN, commit="later", command="again")) == ("a", "c")
    assert read_records(tmp_path).origin.commit == "later"


def test_a_set_that_is_finished_keeps_the_commit_that_made_it(tmp_path: Path) -> None:
    """To ask again is no new answer."""
    open_folder(tmp_path, ORIGIN)
    for exam in ORIGIN.exams:
        write_record(tmp_path, replace(RECORD, exam=exam))
    assert open_folder(tmp_path, replace(ORIGIN, commit="later", command="again")) == ()
    assert read_records(tmp_path).origin == ORIGIN


@pytest.mark.parametrize("change", [{"digest": "1" * 64}, {"data": "phantom:A:0+3@128"}, {"pixel_prob": 0.4}])
def test_answers_of_two_bundles_never_mix(tmp_path: Path, change: dict[str, object]) -> None:
    """Nor of two sets or thresholds; what is there stays."""
    open_folder(tmp_path, ORIGIN)
    write_record(tmp_path, RECORD)
    with pytest.raises(EvaluationError, match="choose another folder"):
        open_folder(tmp_path, replace(ORIGIN, **change))  # type: ignore[arg-type]
    assert read_records(tmp_path).origin == ORIGIN


@pytest.mark.parametrize("exams", [("../a",), ("a", "a"), ("",), ("a/b",)])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, exams: tuple[str, ...]) -> None:
    """A name from a data set must not leave the folder."""
    with pytest.raises(EvaluationError):
        open_folder(tmp_path, replace(ORIGIN, exams=exams))


def test_damage_is_named(tmp_path: Path) -> None:
    """With what to do; never a figure from half the exams."""
    with pytest.raises(EvaluationError, match=r"origin\.json is missing"):
        read_records(tmp_path)
    open_folder(tmp_path, ORIGIN)
    write_record(tmp_path, RECORD, pixels())
    whole = (tmp_path / "exams" / "b.npz").read_bytes()
    places = range(0, whole.index(b"PK\1\2"), 61)  # in what stands before the list of arrays
    flipped = [whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :] for place in places]
    refused = 0
    for content in (b"PK half a file", *flipped):  # NumPy raises half a dozen errors, by where the damage is
        (tmp_path / "exams" / "b.npz").write_bytes(content)
        try:
            read_records(tmp_path).pixels(RECORD)
        except EvaluationError as error:
            refused += "b.npz is damaged" in str(error)
    assert refused > len(flipped) / 2
    (tmp_path / "exams" / "b.npz").unlink()
    with pytest.raises(EvaluationError, match=r"b\.npz is missing"):
        read_records(tmp_path).pixels(RECORD)
    (tmp_path / "exams" / "b.json").write_text('{"exam": "b"}')
    with pytest.raises(EvaluationError, match=r"b\.json is damaged"):
        read_records(tmp_path)


def test_published_scores_need_no_bundle(tmp_path: Path) -> None:
    """Qure.ai's row: exam scores and nothing else."""
    origin = replace(ORIGIN, bundle=None, digest=None, pixel_prob=None, exams=("a", "b"))
    records = [ExamRecord(exam, exam, bleeding=exam == "a", exam_score=0.5) for exam in ("b", "a")]
    write_published(tmp_path, origin, records)
    assert [one.exam for one in read_records(tmp_path).records] == ["a", "b"]


def test_a_study_names_its_models_and_sets(tmp_path: Path) -> None:
    """Written, read, extended; a model is found at its place."""
    study = Study(
        title="trial",
        data="simulated",
        command="python -m ml tables --data phantom",
        commit="abc",
        machine="2 cores",
        models=(StudyModel("baseline", ModelRole.BASELINE, "Baseline"),),
        sets=(StudySet("test", SetRole.TEST, "Institution B"), StudySet("test-2", SetRole.READING, "again", 2)),
    )
    write_study(tmp_path, study)
    assert read_study(tmp_path) == study
    folder = record_folder(tmp_path, "baseline", "test")
    open_folder(folder, ORIGIN)
    assert study.records(tmp_path, "baseline", "test").missing == 3
    with pytest.raises(EvaluationError, match="python -m ml evaluate"):
        study.records(tmp_path, "baseline", "test-2")
    with pytest.raises(EvaluationError, match="distinct"):
        write_study(tmp_path, replace(study, sets=(study.sets[0], study.sets[0])))
    (tmp_path / "study.json").write_text('{"title": 3}')
    with pytest.raises(EvaluationError, match="damaged"):
        read_study(tmp_path)
    with pytest.raises(EvaluationError, match="not a study"):
        read_study(tmp_path / "none")
