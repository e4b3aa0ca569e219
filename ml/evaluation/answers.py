"""The figures of one model on one set, each with its interval, computed when they are asked for.

Intervals are 95 % percentiles of 1000 replicates in which patients are drawn (`ml.evaluation.bootstrap`), thresholds
and all figures being found anew in each. Two models on the same exams share the replicates, so their differences are
paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ml.errors import EvaluationError
from ml.evaluation import bootstrap, metrics
from ml.evaluation.bootstrap import percentile_interval, ratio_replicates
from ml.evaluation.pixel_answers import Measure, PixelAnswers, shared_weights
from ml.evaluation.records import ExamRecord, RecordSet

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Answers:
    """One model on one set. Figures that the set has no labels for raise EvaluationError."""

    def __init__(self, records: RecordSet) -> None:
        self.records = records
        self.exams: Sequence[ExamRecord] = records.records
        if not self.exams:
            raise EvaluationError(f"{records.folder.name} has no finished exam")

    @cached_property
    def scores(self) -> FloatArray:
        """(n,) exam scores."""
        return np.array([exam.exam_score for exam in self.exams])

    @cached_property
    def bleeding(self) -> BoolArray:
        """(n,) the reference standard."""
        return np.array([exam.bleeding for exam in self.exams], dtype=np.bool_)

    @cached_property
    def weights(self) -> FloatArray:
        """(replicates, n) patients drawn."""
        return shared_weights(tuple(exam.group for exam in self.exams))

    @cached_property
    def exam_auc_replicates(self) -> FloatArray:
        """(replicates,)."""
        return bootstrap.auc_replicates(self.weights, self.scores, self.bleeding)

    @cached_property
    def exam_auc(self) -> Measure:
        """Of the whole set."""
        value = metrics.auc(self.scores, self.bleeding)
        return Measure(value, percentile_interval(self.exam_auc_replicates), self._exam_count(self.bleeding))

    def exam_auc_among(self, positives: BoolArray) -> Measure:
        """Of some exams with blood against all without."""
        kept = positives | ~self.bleeding
        count = self._exam_count(self.bleeding[kept])
        if not positives.any() or self.bleeding.all():
            return Measure(float("nan"), None, count)
        replicates = bootstrap.auc_replicates(self.weights[:, kept], self.scores[kept], self.bleeding[kept])
        return Measure(metrics.auc(self.scores[kept], self.bleeding[kept]), percentile_interval(replicates), count)

    def isolated(self, subtype: str) -> BoolArray:
        """(n,) exams with that subtype and no other (paper, supplemental table)."""
        if any(exam.subtypes is None and exam.bleeding for exam in self.exams):
            raise EvaluationError("the set does not tell the subtypes of every exam")
        return np.array([exam.subtypes == (subtype,) for exam in self.exams], dtype=np.bool_)

    def within_ml(self, low: float, high: float) -> BoolArray:
        """(n,) exams with blood of low <= mL < high."""
        if any(exam.truth_ml is None and exam.bleeding for exam in self.exams):
            raise EvaluationError("the set has no pixel labels for every exam, so no volumes")
        return np.array([exam.bleeding and low <= (exam.truth_ml or 0.0) < high for exam in self.exams], dtype=np.bool_)

    def specificity_at(self, sensitivity: float) -> Measure:
        """At the threshold of this set with at least that sensitivity."""
        self._require_both()
        value = metrics.specificity_at(sensitivity, self.scores, self.bleeding)
        replicates = bootstrap.specificity_replicates(self.weights, self.scores, self.bleeding, sensitivity=sensitivity)
        return Measure(value, percentile_interval(replicates), self._exam_count(self.bleeding))

    def sensitivity_at(self, specificity: float) -> Measure:
        """At the threshold of this set with at least that specificity."""
        self._require_both()
        value = metrics.sensitivity_at(specificity, self.scores, self.bleeding)
        # Seen from the other side: bleed-free exams are looked for, and a low score speaks for one.
        replicates = bootstrap.specificity_replicates(
            self.weights, -self.scores, ~self.bleeding, sensitivity=specificity
        )
        return Measure(value, percentile_interval(replicates), self._exam_count(self.bleeding))

    @cached_property
    def called(self) -> BoolArray:
        """(n,) positive at the bundle's own operating point."""
        if any(exam.exam_called is None for exam in self.exams):
            raise EvaluationError("only scores were published, without an operating point")
        return np.array([exam.exam_called for exam in self.exams], dtype=np.bool_)

    @cached_property
    def sensitivity(self) -> Measure:
        """Of the bundle's operating point."""
        return self.sensitivity_among(self.bleeding)

    def sensitivity_among(self, positives: BoolArray) -> Measure:
        """Share of some exams with blood that is called."""
        return self._share(self.called & positives, positives, f"{int(positives.sum())} exams with blood")

    @cached_property
    def specificity(self) -> Measure:
        """Of the bundle's operating point."""
        free = ~self.bleeding
        return self._share(~self.called & free, free, f"{int(free.sum())} exams without blood")

    def predictive_values(self, prevalence: float) -> tuple[Measure, Measure]:
        """(PPV, NPV) of the bundle's operating point where a share `prevalence` of exams bleeds."""
        free = ~self.bleeding
        found = ratio_replicates(self.weights, self.called & self.bleeding, self.bleeding)
        spared = ratio_replicates(self.weights, ~self.called & free, free)
        pairs = np.array(
            [metrics.predictive_values(one, two, prevalence) for one, two in zip(found, spared, strict=True)]
        )
        values = metrics.predictive_values(self.sensitivity.value, self.specificity.value, prevalence)
        count = self._exam_count(self.bleeding)
        ppv, npv = (
            Measure(value, percentile_interval(replicates), count)
            for value, replicates in zip(values, pairs.T, strict=True)
        )
        return ppv, npv

    @cached_property
    def brier(self) -> Measure:
        """Of the exam score as a probability."""
        squares = (self.scores - self.bleeding) ** 2
        replicates = ratio_replicates(self.weights, squares, np.ones(len(squares)))
        value = metrics.brier(self.scores, self.bleeding)
        return Measure(value, percentile_interval(replicates), self._exam_count(self.bleeding))

    @cached_property
    def reliability(self) -> tuple[metrics.ReliabilityRow, ...]:
        """Of the exam score, in ten bins."""
        return metrics.reliability(self.scores, self.bleeding)

    @cached_property
    def slice_auc(self) -> Measure:
        """Over all slices that somebody judged; patients are drawn, not slices."""
        scores, flags = [], []
        for exam in self.exams:
            known = [
                (score, flag)
                for score, flag in zip(exam.slice_scores, exam.slice_bleeding, strict=True)
                if flag is not None
            ]
            scores.append([score for score, _ in known])
            flags.append([flag for _, flag in known])
        every = np.concatenate([*map(np.asarray, flags)]).astype(np.bool_)
        if every.size == 0 or every.all() or not every.any():
            raise EvaluationError("the set has no labels of slices")
        value = metrics.auc(np.concatenate([*map(np.asarray, scores)]), every)
        replicates = bootstrap.slice_auc_replicates(self.weights, scores, flags)
        return Measure(value, percentile_interval(replicates), f"{every.size} slices, {int(every.sum())} with blood")

    @cached_property
    def pixels(self) -> PixelAnswers:
        """Of the exams with pixel labels; raises EvaluationError where there is none."""
        return PixelAnswers(self.records)

    @staticmethod
    def _exam_count(bleeding: BoolArray) -> str:
        return f"{bleeding.size} exams, {int(bleeding.sum())} with blood"

    def _share(self, part: BoolArray, whole: BoolArray, count: str) -> Measure:
        value = float(part.sum() / whole.sum()) if whole.any() else float("nan")
        return Measure(value, percentile_interval(ratio_replicates(self.weights, part, whole)), count)

    def _require_both(self) -> None:
        if self.bleeding.all() or not self.bleeding.any():
            raise EvaluationError("an operating point needs exams with and without blood")


def attempt(figure: Callable[[], Measure]) -> Measure | str:
    """The figure, or why the set cannot give it."""
    try:
        return figure()
    except EvaluationError as error:
        return str(error)
