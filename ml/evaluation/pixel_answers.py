"""The figures of one model on the exams of a set that have pixel labels: lesions, DSC, average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from ml.errors import EvaluationError
from ml.evaluation import metrics
from ml.evaluation.bootstrap import Interval, draw_weights, percentile_interval, ratio_replicates
from ml.evaluation.pixels import COARSE, Bounded, PixelHistogram, average_precision, average_precisions
from ml.evaluation.records import ExamRecord, RecordSet

FloatArray = npt.NDArray[np.float64]

MERGED_BINS = 400
"""Of replicates of average precision: bins with equal shares of the blood, so that one replicate is one product. What
merging costs (under 1 / 400) is taken off every replicate alike."""
PATIENTS = "95 % percentiles of 1000 replicates by patient"


@dataclass(frozen=True)
class Measure:
    """A figure with its interval and what it was computed from."""

    value: float
    interval: Interval | None
    count: str
    """Of what: `80 exams, 40 with blood`."""
    method: str = PATIENTS


class PixelAnswers:
    """Lesions and pixels. Raises EvaluationError where no exam has pixel labels."""

    def __init__(self, records: RecordSet) -> None:
        self.records = records
        self.exams: Sequence[ExamRecord] = [exam for exam in records.records if exam.counts is not None]
        if not self.exams:
            raise EvaluationError("the set has no pixel labels")

    @cached_property
    def false_lesions_per_exam(self) -> Measure:
        """Reported lesions that touch no blood, per exam of the set."""
        return self._false_lesions([True] * len(self.exams))

    @cached_property
    def false_lesions_per_free_exam(self) -> Measure:
        """The same over exams without blood, where each of them is a false alarm."""
        return self._false_lesions([not exam.bleeding for exam in self.exams])

    def _false_lesions(self, kept: Sequence[bool]) -> Measure:
        counts = [len(exam.lesions.false_ml) if exam.lesions else 0 for exam in self.exams]
        inside = np.array(kept, dtype=np.float64)
        false = np.array(counts) * inside
        value = float(false.sum() / inside.sum()) if inside.any() else float("nan")
        replicates = ratio_replicates(self.weights, false, inside)
        return Measure(value, percentile_interval(replicates), f"{int(inside.sum())} exams")

    def lesion_sensitivity(self, low: float, high: float) -> Measure:
        """Share of true lesions of low <= mL < high that the reported mask touches."""
        found, there = [], []
        for exam in self.exams:
            lesions = exam.lesions
            pairs = list(zip(lesions.truth_ml, lesions.found, strict=True)) if lesions else []
            inside = [hit for volume_ml, hit in pairs if low <= volume_ml < high]
            found.append(sum(inside))
            there.append(len(inside))
        replicates = ratio_replicates(self.weights, found, there)
        value = sum(found) / sum(there) if sum(there) else float("nan")
        return Measure(value, percentile_interval(replicates), f"{sum(there)} lesions")

    @cached_property
    def weights(self) -> FloatArray:
        """(replicates, n) patients drawn."""
        return shared_weights(tuple(exam.group for exam in self.exams))

    @cached_property
    def image_weights(self) -> FloatArray:
        """(replicates, images) images drawn, as in the paper's section 2.4."""
        return shared_weights(tuple(str(number) for number in range(len(self.image_counts))))

    @cached_property
    def image_counts(self) -> FloatArray:
        """(images, 3) pixels of truth, over the threshold, and both."""
        counts = [exam.counts for exam in self.exams if exam.counts is not None]
        return np.concatenate(
            [np.stack([one.truth, one.over_threshold, one.over_threshold_true], axis=1) for one in counts]
        ).astype(np.float64)

    @cached_property
    def exam_counts(self) -> FloatArray:
        """(n, 3)."""
        return np.stack([part.sum(axis=0) for part in np.split(self.image_counts, self._first_images)])

    @cached_property
    def _first_images(self) -> npt.NDArray[np.intp]:
        lengths = [len(exam.counts.truth) for exam in self.exams if exam.counts is not None]
        return np.cumsum(lengths)[:-1]

    @cached_property
    def dsc(self) -> Measure:
        """Pooled over all pixels of the set at the bundle's pixel threshold (`metrics.DscFigures`)."""
        value = float(pooled_dsc(np.ones((1, len(self.image_counts))), self.image_counts)[0])
        return Measure(value, percentile_interval(pooled_dsc(self.weights, self.exam_counts)), self._count)

    @cached_property
    def dsc_of_exams(self) -> FloatArray:
        """(n,) NaN for bleed-free exams."""
        dscs = metrics.dsc_of_counts(*self.exam_counts.T)
        return np.asarray(np.where(self.exam_counts[:, 0] > 0, dscs, np.nan), dtype=np.float64)

    def dsc_figures(self, *, reported: bool) -> metrics.DscFigures:
        """All three figures, of the map at its threshold or of the reported mask."""
        triples = []
        for exam in self.exams:
            one = exam.counts
            if one is not None:
                found = (one.reported, one.reported_true) if reported else (one.over_threshold, one.over_threshold_true)
                triples.append((one.truth, *found))
        return metrics.dsc_figures(triples)

    @cached_property
    def histogram(self) -> PixelHistogram:
        """Of every labelled pixel."""
        total = PixelHistogram.empty()
        for exam in self.exams:
            total += self.records.pixels(exam).histogram
        return total

    @cached_property
    def exact_average_precision(self) -> Bounded:
        """With the bounds that counting leaves."""
        return average_precision(self.histogram)

    @cached_property
    def _merged_images(self) -> tuple[FloatArray, FloatArray]:
        """(images, MERGED_BINS) pixels with and without blood."""
        coarse = np.add.reduceat(self.histogram.positives, np.arange(0, len(self.histogram.positives), COARSE))
        share = np.cumsum(coarse[::-1])[::-1] / max(1, coarse.sum())
        place = np.minimum((share * MERGED_BINS).astype(np.intp), MERGED_BINS - 1)
        starts = np.flatnonzero(np.concatenate([[True], np.diff(place) != 0]))
        parts = [self.records.pixels(exam) for exam in self.exams]
        positives, negatives = (
            np.concatenate([np.add.reduceat(one, starts, axis=1) for one in histograms]).astype(np.float64)
            for histograms in ([one.image_positives for one in parts], [one.image_negatives for one in parts])
        )
        return positives, negatives

    def average_precision_replicates(self, weights: FloatArray) -> FloatArray:
        """(replicates,) for weights of exams, or of images."""
        positives, negatives = self._merged_images
        if weights.shape[1] != len(positives):
            positives, negatives = (
                np.stack([part.sum(axis=0) for part in np.split(one, self._first_images)])
                for one in (positives, negatives)
            )
        merged = average_precisions(positives.sum(axis=0, keepdims=True), negatives.sum(axis=0, keepdims=True))[0]
        lost = self.exact_average_precision.value - merged
        return np.asarray(average_precisions(weights @ positives, weights @ negatives) + lost, dtype=np.float64)

    @cached_property
    def average_precision(self) -> Measure:
        """Over every labelled pixel."""
        replicates = self.average_precision_replicates(self.weights)
        return Measure(self.exact_average_precision.value, percentile_interval(replicates), self._count)

    @property
    def _count(self) -> str:
        with_blood = int((self.image_counts[:, 0] > 0).sum())
        return f"{len(self.exams)} exams, {len(self.image_counts)} images, {with_blood} with blood"


@lru_cache(maxsize=16)
def shared_weights(groups: tuple[str, ...]) -> FloatArray:
    """The replicates of these patients: the same for every model."""
    return draw_weights(groups)


def pooled_dsc(weights: FloatArray, counts: FloatArray) -> FloatArray:
    """(replicates,) DSC of weighted (n, 3) counts of truth, found and both."""
    return ratio_replicates(weights, 2 * counts[:, 2], counts[:, 0] + counts[:, 1])
