"""Pseudo-labels as training targets: soft scores under a rule for each slice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType

import numpy as np

from ml.data.shards import ExamShard
from ml.labels import ANY, IGNORE
from ml.self_training.ranker import Rule, Rules
from ml.self_training.scores import STEPS, ScoreStore, U8Array
from ml.training.targets import Indices


@dataclass(frozen=True)
class PixelThresholds:
    """K (paper section 2.2): pixels above one are positive, below the other negative, between ignored."""

    positive: float = 0.7
    negative: float = 0.3

    def apply(self, kept: U8Array) -> U8Array:
        """Kept scores to 0, 1 or IGNORE."""
        target = np.full_like(kept, IGNORE)
        target[kept > self.positive * STEPS] = 1
        target[kept < self.negative * STEPS] = 0
        return target


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """See `ml.training.targets.Targets`."""

    store: ScoreStore
    rules: Rules
    thresholds: PixelThresholds

    @property
    def name(self) -> str:
        """See Targets: by teacher, K, and the rules of all slices."""
        rules = blake2b(digest_size=8)
        for exam, rule in self.rules.items():
            rules.update(exam.encode() + rule.tobytes())
        k = f"{self.thresholds.positive:g} to {self.thresholds.negative:g}"
        return f"pseudo-labels of {self.store.teacher_digest()[:16]} at {k} under {rules.hexdigest()}"

    def pixels(self, exam: ExamShard, index: int) -> U8Array:
        """See Targets."""
        if self.rules[exam.folder.name][index] == Rule.NEGATIVE:
            return np.zeros(exam.hu.shape[1:], dtype=np.uint8)
        return self.thresholds.apply(self.store.pixels(exam.folder.name, index))

    def image_label(self, exam: ExamShard, index: int) -> float | None:  # noqa: ARG002 (see Targets)
        """See Targets: it follows from the pixels."""
        return None

    def positive_slices(self, exam: ExamShard) -> Indices:
        """See Targets."""
        soft = self.rules[exam.folder.name] == Rule.SOFT
        if not soft.any():
            return np.zeros(0, dtype=np.intp)
        return np.flatnonzero(soft & (self.store.peaks(exam.folder.name) > self.thresholds.positive * STEPS))

    def used_slices(self, exam: ExamShard) -> Indices:
        """See Targets."""
        return np.flatnonzero(self.rules[exam.folder.name] != Rule.LEFT_OUT)


def soft_everywhere(exams: Iterable[ExamShard]) -> Rules:
    """Without the ranker (paper section 3.4): the teacher's pixels of every slice, false positives and all."""
    return MappingProxyType(
        {exam.folder.name: np.full(len(exam.neighbours), Rule.SOFT, dtype=np.uint8) for exam in exams}
    )


def soft_where_positive(exams: Iterable[ExamShard]) -> Rules:
    """The pixel oracle (paper section 2.3): the reference label of each image suppresses false positives.

    Images without a reference label are left out.
    """
    rules = {}
    for exam in exams:
        told = exam.slice_findings[:, ANY]
        rule = np.where(told == 1, Rule.SOFT, np.where(told == 0, Rule.NEGATIVE, Rule.LEFT_OUT))
        rules[exam.folder.name] = rule.astype(np.uint8)
    return MappingProxyType(rules)
