"""A prediction beside the truth becomes a record; a set of them, exam by exam, a folder of records."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ml.config import OperatingPoint
from ml.data.exams import LabelledExam
from ml.errors import EvaluationError
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
from ml.evaluation.sources import ExamSource
from ml.inference.lesions import components
from ml.labels import ANY, BLEED, IGNORE, UNKNOWN, Subtype
from ml.prediction import BundleIdentity, Prediction
from ml.provenance import present_command, present_commit
from ml.volume import Geometry, MaskArray, Volume

Answer = Callable[[Volume], Prediction]
Progress = Callable[[str], None]

LEAST_SUBTYPE_ML = 0.02
"""Less of a subtype than this beside another is not counted as present: the 5th percentile of single SAH foci, the
smallest that experts outlined (see `ml.phantom.draw_bleeds`). The largest subtype of an exam always counts."""


def evaluate(
    answer: Answer, source: ExamSource, folder: Path, *, origin: Origin, readings: int = 1, progress: Progress
) -> RecordSet:
    """Judge every exam of the source that has no record in the folder yet; `progress` is told each exam's name.

    Readings beyond the first are simulated (`ml.evaluation.readings`) and go to `<folder>-reading-2` and so on, from
    the same predictions.
    Raises EvaluationError where the folder holds another bundle's answers, or the source has no exam.
    """
    if not source.exams:
        raise EvaluationError(f"{source.name} has no exam of which it is known whether it bleeds")
    folders = {number: reading_folder(folder, number) for number in range(1, readings + 1)}
    missing = {number: set(open_folder(one, replace(origin, reading=number))) for number, one in folders.items()}
    wanted = [exam for exam in source.exams if any(exam in one for one in missing.values())]
    for finished in set(source.exams) - set(wanted):
        progress(finished)
    for exam in source.read(wanted):
        began = time.monotonic()
        prediction = answer(exam.volume)
        seconds = time.monotonic() - began
        for number, one in folders.items():
            if exam.exam in missing[number]:  # what is finished is of the commit that its origin names
                record, pixels = judge(prediction, exam, origin=replace(origin, reading=number), seconds=seconds)
                write_record(one, record, pixels)
        progress(exam.exam)
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
    """One exam's record, and its pixels where it has pixel labels; pixels that nobody labelled count nowhere.

    Raises EvaluationError for an exam of which nobody said whether it bleeds.
    """
    if exam.findings[ANY] == UNKNOWN:
        raise EvaluationError(f"exam {exam.exam} has no reference standard: leave it out of the set")
    record = ExamRecord(
        exam=exam.exam,
        group=exam.patient,
        bleeding=bool(exam.findings[ANY] == 1),
        exam_score=prediction.exam_score,
        exam_called=prediction.exam_positive,
        subtypes=_subtypes(exam),
        slice_scores=tuple(float(one) for one in prediction.slice_scores),
        slice_bleeding=tuple(None if one == UNKNOWN else bool(one) for one in exam.slice_findings[:, ANY]),
        reported_ml=exam.volume.volume_ml(prediction.mask),
        seconds=round(seconds, 3),
    )
    if exam.pixels is None or origin.pixel_prob is None:
        return record, None
    truth = read_again(exam, exam.pixels, origin.reading)
    known = exam.pixels != IGNORE
    over = (prediction.prob >= np.float32(origin.pixel_prob)) & known
    reported = prediction.mask & known
    record = replace(
        record,
        truth_ml=exam.volume.volume_ml(truth),
        counts=_count_images(known, truth, over, reported),
        lesions=match_lesions(truth, reported, exam.volume.geometry),
    )
    masks = {"truth": truth, "over_threshold": over, "reported": reported}
    return record, ExamPixels(*count_pixels(prediction.prob, truth, known), masks)


def _subtypes(exam: LabelledExam) -> tuple[str, ...] | None:
    """Those present; None where that is not known of every one."""
    told = exam.told[1:]
    if exam.pixels is None or (told != UNKNOWN).all():
        told = exam.findings[1:]
        if (told == UNKNOWN).any():
            return None
        return tuple(subtype.name for subtype, one in zip(Subtype, told, strict=True) if one == 1)
    if (exam.pixels == BLEED).any():
        return None
    volumes_ml = {one: exam.volume.volume_ml(exam.pixels == one) for one in Subtype}
    least_ml = min(LEAST_SUBTYPE_ML, max(volumes_ml.values()))
    return tuple(one.name for one, volume_ml in volumes_ml.items() if volume_ml > 0 and volume_ml >= least_ml)


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


def _count_images(known: MaskArray, truth: MaskArray, over: MaskArray, reported: MaskArray) -> ImageCounts:
    def count(mask: MaskArray) -> tuple[int, ...]:
        return tuple(int(one) for one in mask.sum(axis=(1, 2)))

    return ImageCounts(
        pixels=count(known),
        truth=count(truth),
        over_threshold=count(over),
        over_threshold_true=count(over & truth),
        reported=count(reported),
        reported_true=count(reported & truth),
    )
