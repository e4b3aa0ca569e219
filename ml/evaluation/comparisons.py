"""Two models on the same exams: the test of the paper's section 2.4, and beside it what patients and DeLong say."""

from __future__ import annotations

from dataclasses import dataclass

from ml.evaluation import bootstrap
from ml.evaluation.answers import Answers
from ml.evaluation.bootstrap import Comparison, Interval, compare, percentile_interval
from ml.evaluation.delong import DelongTest, delong_test
from ml.evaluation.pixel_answers import FloatArray, pooled_dsc, shared_weights


@dataclass(frozen=True)
class Compared:
    """A difference of one figure."""

    drawn: Comparison
    """Exams (exam AUC) or images (DSC, average precision) drawn, as section 2.4 does."""
    by_patient: Interval
    """Patients drawn with all their exams and images. Images of one exam resemble each other, so that drawing images
    one by one makes a difference look more certain than it is."""
    delong: DelongTest | None
    """Of the exam AUC."""
    count: str


def compare_exam_auc(one: Answers, other: Answers) -> Compared:
    """`one` minus `other`; both must have answered the same exams."""
    by_exam = shared_weights(tuple(exam.exam for exam in one.exams))
    differences = bootstrap.auc_replicates(by_exam, one.scores, one.bleeding) - bootstrap.auc_replicates(
        by_exam, other.scores, other.bleeding
    )
    return Compared(
        compare(one.exam_auc.value - other.exam_auc.value, differences),
        percentile_interval(one.exam_auc_replicates - other.exam_auc_replicates),
        delong_test(one.scores, other.scores, one.bleeding),
        one.exam_auc.count,
    )


def compare_dsc(one: Answers, other: Answers) -> Compared:
    """The pooled DSC of `one` minus that of `other`."""
    return Compared(
        compare(one.pixels.dsc.value - other.pixels.dsc.value, _dsc(one, images=True) - _dsc(other, images=True)),
        percentile_interval(_dsc(one, images=False) - _dsc(other, images=False)),
        None,
        one.pixels.dsc.count,
    )


def compare_average_precision(one: Answers, other: Answers) -> Compared:
    """Over every labelled pixel, `one` minus `other`."""
    differences, by_patient = (
        one.pixels.average_precision_replicates(weights) - other.pixels.average_precision_replicates(weights)
        for weights in (one.pixels.image_weights, one.pixels.weights)
    )
    return Compared(
        compare(one.pixels.average_precision.value - other.pixels.average_precision.value, differences),
        percentile_interval(by_patient),
        None,
        one.pixels.average_precision.count,
    )


def _dsc(answers: Answers, *, images: bool) -> FloatArray:
    if images:
        return pooled_dsc(answers.pixels.image_weights, answers.pixels.image_counts)
    return pooled_dsc(answers.pixels.weights, answers.pixels.exam_counts)
