"""What is known of the slices of a corpus: drawn labels, labels of whole images, or (ml.self_training) pseudo-labels.

Slices are counted as an exam's `neighbours` are: index `i` is the slice with its two neighbours in row `i`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ml.data.shards import ExamShard
from ml.labels import ANY, IGNORE

U8Array = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]


class Targets(Protocol):
    """Answers for any slice of the corpus it was made for."""

    @property
    def name(self) -> str:
        """In words: what gives other answers for the same exams has another name."""

    def pixels(self, exam: ExamShard, index: int) -> U8Array:
        """(v, u) 0, 1 or IGNORE."""

    def image_label(self, exam: ExamShard, index: int) -> float | None:
        """1 or 0 for the whole image; None: a patch is positive where any of its pixels is (paper section 2.2)."""

    def positive_slices(self, exam: ExamShard) -> Indices:
        """Those with a positive pixel, or with a positive image label."""

    def used_slices(self, exam: ExamShard) -> Indices:
        """Those to learn from; the others are never drawn."""


class DrawnLabels:
    """Labels of an expert or a simulator for every pixel."""

    name = "drawn labels"

    def pixels(self, exam: ExamShard, index: int) -> U8Array:
        """See Targets."""
        drawn: U8Array = exam.blood[exam.neighbours[index][1]]
        return drawn

    def image_label(self, exam: ExamShard, index: int) -> float | None:  # noqa: ARG002 (see Targets)
        """See Targets: it follows from the pixels."""
        return None

    def positive_slices(self, exam: ExamShard) -> Indices:
        """See Targets."""
        return exam.positive_slices

    def used_slices(self, exam: ExamShard) -> Indices:
        """See Targets: all."""
        return np.arange(len(exam.neighbours))


class ImageLabels:
    """A label for each whole image and none for its pixels, as the curators of RSNA 2019 drew them."""

    name = "labels of images"

    def pixels(self, exam: ExamShard, index: int) -> U8Array:  # noqa: ARG002 (see Targets)
        """See Targets: nothing is known, so the segmentation branch learns nothing here."""
        return np.full(exam.hu.shape[1:], IGNORE, dtype=np.uint8)

    def image_label(self, exam: ExamShard, index: int) -> float | None:
        """See Targets."""
        return float(exam.slice_findings[index, ANY] == 1)

    def positive_slices(self, exam: ExamShard) -> Indices:
        """See Targets."""
        return np.flatnonzero(exam.slice_findings[:, ANY] == 1)

    def used_slices(self, exam: ExamShard) -> Indices:
        """See Targets: those with a label."""
        return np.flatnonzero(exam.slice_findings[:, ANY] >= 0)


@dataclass(frozen=True, eq=False)
class Pool:
    """Slices to draw from."""

    exams: Sequence[ExamShard]
    """One that is here several times is drawn as many times as often."""
    targets: Targets
    whole: bool = False
    """The whole image is the patch (the image-slice oracle, paper section 2.3)."""

    @property
    def name(self) -> str:
        """Pools of one name teach the same."""
        exams = blake2b("\n".join(f"{exam.dataset}/{exam.exam}" for exam in self.exams).encode(), digest_size=8)
        whole = ", whole images" if self.whole else ""
        return f"{len(self.exams)} exams ({exams.hexdigest()}), {self.targets.name}{whole}"

    def slices(self) -> tuple[Indices, Indices]:
        """(which exam, which slice) of every slice that is used, in the order of the exams: 16 bytes per slice."""
        used = [self.targets.used_slices(exam) for exam in self.exams]
        return np.repeat(np.arange(len(used)), [len(one) for one in used]), np.concatenate(used)


LABELS = DrawnLabels()
