"""From predictions and truth to records."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.evaluation.judging import evaluate, judge, match_lesions, reading_folder
from ml.evaluation.metrics import dsc
from ml.evaluation.readings import read_again
from ml.evaluation.records import Origin, read_records
from ml.evaluation.sources import LabelledExam, PhantomSource
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
        truth: MaskArray = volume.hu == 70
        if name == "c":
            volume = Volume(np.where(truth, 30, volume.hu).astype(np.float32), volume.geometry)
            truth = np.zeros_like(truth)
        slices = tuple(bool(one.any()) for one in truth)
        return LabelledExam(name, name, volume, any(slices), ("IPH",) if any(slices) else (), slices, truth)


def test_counts_are_those_of_the_masks(make_volume: MakeVolume) -> None:
    """Image by image; their sums give the DSC of the masks."""
    exam = Heads(make_volume).exam("a")
    prediction = answer(exam.volume)
    record, pixels = judge(prediction, exam, origin=ORIGIN, seconds=1.0)
    assert record.counts is not None
    assert pixels is not None
    counted = 2 * sum(record.counts.reported_true) / (sum(record.counts.reported) + sum(record.counts.truth))
    assert exam.truth is not None
    assert counted == pytest.approx(dsc(prediction.mask, exam.truth))
    assert 0.5 < counted < 1
    assert sum(record.counts.pixels) == exam.truth.size
    assert pixels.histogram.positives.sum() == exam.truth.sum()
    assert pixels.histogram.negatives.sum() == exam.truth.size - exam.truth.sum()
    assert record.truth_ml == pytest.approx(exam.volume.volume_ml(exam.truth))
    assert record.lesions is not None
    assert record.lesions.found == (True,)


def test_an_exam_without_pixel_labels_has_scores_only(make_volume: MakeVolume) -> None:
    """As most of CQ500."""
    exam = replace(Heads(make_volume).exam("a"), truth=None, slice_bleeding=None, subtypes=None)
    record, pixels = judge(answer(exam.volume), exam, origin=ORIGIN, seconds=1.0)
    assert pixels is None
    assert record.counts is None
    assert record.truth_ml is None
    assert record.reported_ml is not None
    assert record.reported_ml > 0


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


def test_a_second_reading_is_near_the_first_and_repeatable() -> None:
    """A disc of 1 cm radius: another outline of the same blood, no blood where there was none."""
    v, u = np.mgrid[:80, :80] - 40
    truth = np.zeros((4, 80, 80), dtype=bool)
    truth[1:3] = np.hypot(v, u) < 20
    volume = Volume(np.zeros(truth.shape, dtype=np.float32), geometry(np.arange(4) * 5.0, spacing_mm=(0.5, 0.5)))
    exam = LabelledExam("a", "a", volume, bleeding=True, truth=truth)
    second, third = read_again(exam, 2), read_again(exam, 3)
    assert second is not None
    assert third is not None
    assert np.array_equal(second, np.asarray(read_again(exam, 2)))
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
    assert alone.bleeding
    assert alone.truth is not None
    assert alone.subtypes
    assert set(alone.subtypes) <= {"EDH", "IPH", "IVH", "SAH", "SDH"}
    (free,) = source.read(["2000001"])
    assert not free.bleeding
    assert free.subtypes == ()
