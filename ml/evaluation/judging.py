"""A prediction beside the truth becomes a record; a set of them, exam by exam, a folder of records."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ml.config import OperatingPoint
from ml.evaluation.pixels import count_pixels
from ml.evaluation.readings import read_again
from ml.evaluation.records import (
    ExamPixels,
    ExamRecord,
    ImageCounts,
    LesionMatches,
    Origin,
    RecordSet,
    open_folder,
    read_records,
    write_record,
)
from ml.evaluation.sources import ExamSource, LabelledExam
from ml.inference.lesions import components
from ml.prediction import BundleIdentity, Prediction
from ml.provenance import present_command, present_commit
from ml.volume import Geometry, MaskArray, Volume

Answer = Callable[[Volume], Prediction]
Progress = Callable[[str], None]


def evaluate(
    answer: Answer, source: ExamSource, folder: Path, *, origin: Origin, readings: int = 1, progress: Progress
) -> RecordSet:
    """Judge every exam of the source that has no record in the folder yet; `progress` is told each exam's name.

    Readings beyond the first are simulated (`ml.evaluation.readings`) and go to `<folder>-reading-2` and so on, from
    the same predictions.
    Raises EvaluationError where the folder holds another bundle's answers.
    """
    folders = {number: reading_folder(folder, number) for number in range(1, readings + 1)}
    missing = set[str]()
    for number, one in folders.items():
        missing |= set(open_folder(one, replace(origin, reading=number)))
    wanted = [exam for exam in source.exams if exam in missing]
    for exam in source.exams:
        if exam not in missing:
            progress(exam)
    for labelled in source.read(wanted):
        began = time.monotonic()
        prediction = answer(labelled.volume)
        seconds = time.monotonic() - began
        for number, one in folders.items():
            truth = labelled.truth if number == 1 else read_again(labelled, number)
            write_record(one, *judge(prediction, replace(labelled, truth=truth), origin=origin, seconds=seconds))
        progress(labelled.exam)
    return read_records(folder)


def make_origin(model: str, source: ExamSource, bundle: BundleIdentity, point: OperatingPoint) -> Origin:
    """The origin of a bundle's answers on a source, made by this command at this commit."""
    return Origin(
        model=model,
        data=source.name,
        exams=source.exams,
        commit=present_commit(),
        command=present_command(),
        bundle=f"{bundle.name} {bundle.version}",
        digest=bundle.digest,
        pixel_prob=point.pixel_prob,
        exam_threshold=point.exam_score,
        least_lesion_ml=point.least_lesion_ml,
    )


def reading_folder(folder: Path, reading: int) -> Path:
    """Where the records of the n-th reading of a set are."""
    return folder if reading == 1 else folder.with_name(f"{folder.name}-reading-{reading}")


def judge(
    prediction: Prediction, exam: LabelledExam, *, origin: Origin, seconds: float
) -> tuple[ExamRecord, ExamPixels | None]:
    """One exam's record, and its pixels where it has pixel labels."""
    geometry = exam.volume.geometry
    record = ExamRecord(
        exam=exam.exam,
        group=exam.group,
        bleeding=exam.bleeding,
        exam_score=prediction.exam_score,
        exam_called=prediction.exam_positive,
        subtypes=exam.subtypes,
        slice_scores=tuple(float(one) for one in prediction.slice_scores),
        slice_bleeding=exam.slice_bleeding,
        reported_ml=exam.volume.volume_ml(prediction.mask),
        seconds=round(seconds, 3),
    )
    if exam.truth is None or origin.pixel_prob is None:
        return record, None
    over = prediction.prob >= np.float32(origin.pixel_prob)
    masks = {"truth": exam.truth, "over_threshold": over, "reported": prediction.mask}
    record = replace(
        record,
        truth_ml=exam.volume.volume_ml(exam.truth),
        counts=_count_images(exam.truth, over, prediction.mask),
        lesions=match_lesions(exam.truth, prediction.mask, geometry),
    )
    return record, ExamPixels(*count_pixels(prediction.prob, exam.truth), masks)


def match_lesions(truth: MaskArray, reported: MaskArray, geometry: Geometry) -> LesionMatches:
    """True lesions that the reported mask touches, and reported ones that touch no true one."""
    true_labels, true_ml = components(truth, geometry)
    labels, volumes_ml = components(reported, geometry)
    touched, touching = set(np.unique(true_labels[reported])), set(np.unique(labels[truth]))
    return LesionMatches(
        truth_ml=tuple(float(one) for one in true_ml),
        found=tuple(label in touched for label in range(1, len(true_ml) + 1)),
        false_ml=tuple(float(one) for label, one in enumerate(volumes_ml, start=1) if label not in touching),
    )


def _count_images(truth: MaskArray, over: MaskArray, reported: MaskArray) -> ImageCounts:
    def count(mask: MaskArray) -> tuple[int, ...]:
        return tuple(int(one) for one in mask.sum(axis=(1, 2)))

    pixels = truth.shape[1] * truth.shape[2]
    return ImageCounts(
        pixels=(pixels,) * len(truth),
        truth=count(truth),
        over_threshold=count(over),
        over_threshold_true=count(over & truth),
        reported=count(reported),
        reported_true=count(reported & truth),
    )
