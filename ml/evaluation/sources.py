"""Labelled exams to be judged on, one after the other: simulated ones, and what a data set's reader gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ml.labels import Subtype
from ml.phantom import SimulatedExam
from ml.training.exams import simulate_wanted
from ml.volume import MaskArray, Volume

LEAST_SUBTYPE_ML = 0.02
"""Less of a subtype than this beside another is not counted as present: the 5th percentile of single SAH foci, the
smallest that experts outlined (reference, section 11). The largest subtype of an exam always counts."""


@dataclass(frozen=True, eq=False)
class LabelledExam:
    """A volume with its reference standard, as far as the set has one."""

    exam: str
    group: str
    volume: Volume
    bleeding: bool
    subtypes: tuple[str, ...] | None = None
    slice_bleeding: tuple[bool, ...] | None = None
    truth: MaskArray | None = None
    """(z, y, x) of the volume."""


class ExamSource(Protocol):
    """Where labelled exams come from."""

    @property
    def name(self) -> str:
        """What is read, so that it can be read again."""

    @property
    def exams(self) -> tuple[str, ...]:
        """Every exam, in order; known before any is read."""

    def read(self, wanted: Sequence[str]) -> Iterator[LabelledExam]:
        """Those exams, in that order."""


@dataclass(frozen=True)
class PhantomSource:
    """Simulated exams of one institution, by turns with blood and without."""

    institution: str
    first_seed: int
    count: int
    matrix: int
    workers: int = 0
    """Processes that simulate ahead; 0 for this one."""

    @property
    def name(self) -> str:
        """`phantom:<institution>:<first seed>+<exams>@<matrix>`."""
        return f"phantom:{self.institution}:{self.first_seed}+{self.count}@{self.matrix}"

    @property
    def exams(self) -> tuple[str, ...]:
        """The seeds."""
        return tuple(str(self.first_seed + index) for index in range(self.count))

    def read(self, wanted: Sequence[str]) -> Iterator[LabelledExam]:
        """Each exam is the same, whichever others are asked for."""
        seeds = [int(one) for one in wanted]
        requests = ((seed, (seed - self.first_seed) % 2 == 0) for seed in seeds)
        stream = simulate_wanted(requests, matrix=self.matrix, workers=self.workers, institution=self.institution)
        for seed, exam in zip(seeds, stream, strict=True):
            yield labelled(exam, str(seed))


def labelled(exam: SimulatedExam, name: str) -> LabelledExam:
    """A simulated exam with its truth; blood that is not visible is none."""
    truth = exam.truth
    return LabelledExam(
        exam=name,
        group=name,
        volume=exam.volume,
        bleeding=bool(truth.any()),
        subtypes=_subtypes(exam),
        slice_bleeding=tuple(bool(one.any()) for one in truth),
        truth=truth,
    )


def _subtypes(exam: SimulatedExam) -> tuple[str, ...]:
    volumes_ml = {one: exam.volume.volume_ml(np.asarray(exam.labels == one)) for one in Subtype}
    largest = max(volumes_ml.values())
    return tuple(
        one.name
        for one, volume_ml in volumes_ml.items()
        if volume_ml > 0 and volume_ml >= min(LEAST_SUBTYPE_ML, largest)
    )
