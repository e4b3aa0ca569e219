"""From predictions and truth to records."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.data.exams import LabelledExam
from ml.errors import EvaluationError
from ml.evaluation.judging import evaluate, judge, match_lesions, reading_folder
from ml.evaluation.metrics import dsc
from ml.evaluation.readings import read_again
from ml.evaluation.records import Origin, read_records
from ml.evaluation.sources import PhantomSource
from ml.labels import ANY, BLEED, IGNORE, Subtype
from ml.prediction import BundleIdentity, Prediction
from ml.volume import MaskArray, Volume
from tests.ml.conftest import MakeVolume, geometry

ORIGIN = Origin("m", "three heads", ("a", "b", "c"), "abc", "python -m ml evaluate", "tiny 0", "0" * 64, 0.5, 0.5, 0.1)


def answer(volume: Volume) -> Prediction:
    """A network that sees what is bright, two pixels too far to the right."""
    prob = np.roll(np.clip((volume.hu - 20) / 100, 0, 1) * (volume.hu < 300), 2, axis=2).astype(np.float32)
    mask: MaskArray = prob >= np.float32(0.5)
    called = bool(mask.any())
    return Prediction(
        prob=prob,
        mask=mask,
        slice_scores=prob.max(axis=(1, 2)),
        exam_score=float(prob.max()),
        exam_positive=called,
        bundle=BundleIdentity("tiny", "0", "0" * 64, "2.25.1"),
    )


class Heads:
    """Geometric heads; the bright cube is blood in all but the last, where there is none."""

    name = ORIGIN.data
    exams = ORIGIN.exams

    def __init__(self, make_volume: MakeVolume) -> None:
        self._make = make_volume
        self.read_exams: list[str] = []

    def read(self, wanted: Sequence[str]) -> Iterator[LabelledExam]:
        """As a data set's reader does."""
        for exam in wanted:
            self.read_exams.append(exam)
            yield self.exam(exam)

    def exam(self, name: str) -> LabelledExam:
        """One of them."""
        volume = self._make()
        pixels = np.where(volume.hu == 70, Subtype.IPH, 0).astype(np.uint8)
        if name == "c":
            volume = Volume(np.where(volume.hu == 70, 30, volume.hu).astype(np.float32), volume.geometry)
            pixels[:] = 0
        return LabelledExam("heads", name, name, volume, pixels)


def test_counts_are_those_of_the_masks(make_volume: MakeVolume) -> None:
    """Image by image; their sums give the DSC of the masks."""
    exam = Heads(make_volume).exam("a")
    prediction = answer(exam.volume)
    record, pixels = judge(prediction, exam, origin=ORIGIN, seconds=1.0)
    assert record.counts is not None
    assert pixels is not None
    counted = 2 * sum(record.counts.reported_true) / (sum(record.counts.reported) + sum(record.counts.truth))
    truth = exam.volume.hu == 70
    assert counted == pytest.approx(dsc(prediction.mask, truth))
    assert 0.5 < counted < 1
    assert sum(record.counts.pixels) == truth.size
    assert pixels.histogram.positives.sum() == truth.sum()
    assert pixels.histogram.negatives.sum() == truth.size - truth.sum()
    assert record.truth_ml == pytest.approx(exam.volume.volume_ml(truth))
    assert record.slice_bleeding == tuple(bool(one.any()) for one in truth)
    assert record.lesions is not None
    assert record.lesions.found == (True,)


def test_an_exam_without_pixel_labels_has_scores_only(make_volume: MakeVolume) -> None:
    """As most of CQ500: the radiologists told of the exam, not of its slices."""
    told = np.array([1, 0, 1, 0, 1, 0], dtype=np.int8)
    exam = LabelledExam("heads", "a", "p", make_volume(), told=told)
    record, pixels = judge(answer(exam.volume), exam, origin=ORIGIN, seconds=1.0)
    assert pixels is None
    assert record.counts is None
    assert record.truth_ml is None
    assert record.bleeding
    assert record.subtypes == ("IPH", "SAH")
    assert record.slice_bleeding == (None,) * 10
    assert record.reported_ml is not None
    assert record.reported_ml > 0


def test_an_exam_that_nobody_judged_is_refused(make_volume: MakeVolume) -> None:
    """It must not count as bleed-free."""
    exam = LabelledExam("heads", "a", "p", make_volume())
    with pytest.raises(EvaluationError, match="no reference standard"):
        judge(answer(exam.volume), exam, origin=ORIGIN, seconds=1.0)


def test_pixels_that_nobody_labelled_count_nowhere(make_volume: MakeVolume) -> None:
    """Neither as found nor as false, though the exam is known to bleed."""
    exam = replace(Heads(make_volume).exam("a"), told=np.array([1, -1, -1, -1, -1, -1], dtype=np.int8))
    assert exam.pixels is not None
    exam.pixels[:, :60] = IGNORE
    record, pixels = judge(answer(exam.volume), exam, origin=ORIGIN, seconds=1.0)
    assert record.counts is not None
    assert pixels is not None
    assert sum(record.counts.pixels) == exam.pixels[:, 60:].size
    assert sum(record.counts.truth) == sum(record.counts.reported) == 0
    assert pixels.histogram.positives.sum() + pixels.histogram.negatives.sum() == exam.pixels[:, 60:].size


def test_a_trace_of_another_subtype_leaves_a_case_isolated(make_volume: MakeVolume) -> None:
    """0.005 mL of SAH beside an IPH; a quarter of a millilitre does not."""
    exam = Heads(make_volume).exam("a")
    exam = replace(exam, volume=Volume(exam.volume.hu, geometry(np.arange(10) * 5.0, spacing_mm=(1.0, 1.0))))
    assert exam.pixels is not None
    exam.pixels[5, 0, 0] = Subtype.SAH
    assert judge(answer(exam.volume), exam, origin=ORIGIN, seconds=1.0)[0].subtypes == ("IPH",)
    exam.pixels[5, 0, :50] = Subtype.SAH
    assert judge(answer(exam.volume), exam, origin=ORIGIN, seconds=1.0)[0].subtypes == ("IPH", "SAH")
    exam.pixels[5, 1, 1] = BLEED
    assert judge(answer(exam.volume), exam, origin=ORIGIN, seconds=1.0)[0].subtypes is None


def test_lesions_are_matched_by_touch() -> None:
    """One found, one missed, one false."""
    truth = np.zeros((4, 20, 20), dtype=bool)
    truth[0, :5, :5] = truth[3, 15:, 15:] = True
    reported = np.zeros_like(truth)
    reported[0, 4:8, 4:8] = reported[2, 0:2, 10:12] = True
    matched = match_lesions(truth, reported, geometry(np.arange(4) * 5.0))
    assert sorted(matched.found) == [False, True]
    assert matched.truth_ml == pytest.approx((25 * 0.02, 25 * 0.02))
    assert matched.false_ml == pytest.approx((4 * 0.02,))


def test_an_evaluation_resumes_and_does_not_read_twice(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Finished exams are told to the bar and not read."""
    heads, told = Heads(make_volume), list[str]()
    evaluate(answer, heads, tmp_path / "set", origin=ORIGIN, progress=told.append)
    (tmp_path / "set" / "exams" / "b.json").unlink()
    heads.read_exams.clear()
    records = evaluate(answer, heads, tmp_path / "set", origin=ORIGIN, progress=told.append)
    assert heads.read_exams == ["b"]
    assert sorted(told) == ["a", "a", "b", "b", "c", "c"]
    assert [one.exam for one in records.records] == ["a", "b", "c"]
    assert [one.bleeding for one in records.records] == [True, True, False]


def test_readings_share_predictions_and_differ_in_truth(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Three folders from one pass."""
    heads = Heads(make_volume)
    folder = tmp_path / "set"
    evaluate(answer, heads, folder, origin=ORIGIN, readings=3, progress=lambda _: None)
    assert heads.read_exams == ["a", "b", "c"]
    sets = [read_records(reading_folder(folder, number)) for number in (1, 2, 3)]
    assert [one.origin.reading for one in sets] == [1, 2, 3]
    assert len({one.records[0].exam_score for one in sets}) == 1
    masks = [one.pixels(one.records[0]).masks for one in sets]
    assert all(np.array_equal(masks[0]["reported"], one["reported"]) for one in masks)
    assert not np.array_equal(masks[0]["truth"], masks[1]["truth"])
    assert not np.array_equal(masks[1]["truth"], masks[2]["truth"])


def test_further_readings_of_a_finished_set_leave_its_records_alone(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Asked for later, by another version of the program, which the first set's origin does not name."""
    heads = Heads(make_volume)
    folder = tmp_path / "set"
    first = evaluate(answer, heads, folder, origin=ORIGIN, progress=lambda _: None)

    def changed(volume: Volume) -> Prediction:
        return replace(answer(volume), exam_score=0.123)

    later = replace(ORIGIN, commit="def")
    again = evaluate(changed, heads, folder, origin=later, readings=2, progress=lambda _: None)
    assert (again.origin, again.records) == (first.origin, first.records)
    second = read_records(reading_folder(folder, 2))
    assert second.origin.commit == "def"
    assert [one.exam_score for one in second.records] == [0.123] * 3


def test_a_second_reading_is_near_the_first_and_repeatable() -> None:
    """A disc of 1 cm radius: another outline of the same blood, no blood where there was none."""
    v, u = np.mgrid[:80, :80] - 40
    truth = np.zeros((4, 80, 80), dtype=bool)
    truth[1:3] = np.hypot(v, u) < 20
    volume = Volume(np.zeros(truth.shape, dtype=np.float32), geometry(np.arange(4) * 5.0, spacing_mm=(0.5, 0.5)))
    exam = LabelledExam("discs", "a", "a", volume, truth.astype(np.uint8))
    pixels = exam.pixels
    assert pixels is not None
    second, third = read_again(exam, pixels, 2), read_again(exam, pixels, 3)
    assert np.array_equal(truth, read_again(exam, pixels, 1))
    assert np.array_equal(second, read_again(exam, pixels, 2))
    assert 0.85 < dsc(second, truth) < 0.99
    assert dsc(second, third) < 0.99
    assert not second[[0, 3]].any()


def test_simulated_exams_are_the_same_whichever_are_asked_for() -> None:
    """A resumed evaluation must not turn a bleeding exam into a bleed-free one."""
    source = PhantomSource("A", 2_000_000, 3, matrix=128)
    assert source.exams == ("2000000", "2000001", "2000002")
    assert source.name == "phantom:A:2000000+3@128"
    (alone,) = source.read(["2000002"])
    assert alone.exam == "2000002"
    assert alone.findings[ANY] == 1
    assert alone.pixels is not None
    (free,) = source.read(["2000001"])
    assert free.findings[ANY] == 0
    assert free.hemorrhage_ml == 0
