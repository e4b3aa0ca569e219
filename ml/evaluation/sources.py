"""Labelled exams to be judged on, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ml.data.exams import LabelledExam, patient_key
from ml.data.shards import SIMULATED
from ml.phantom import SimulatedExam
from ml.training.exams import simulate_wanted


class ExamSource(Protocol):
    """Where labelled exams come from."""

    @property
    def name(self) -> str:
        """What is read, so that it can be read again."""

    @property
    def exams(self) -> tuple[str, ...]:
        """Every exam, in order; known before any is read."""

    def read(self, wanted: Sequence[str]) -> Iterator[LabelledExam]:
        """Those exams, in that order, each with a reference standard (`findings[ANY]` is known)."""


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
        for exam in stream:
            yield labelled(exam)


def labelled(exam: SimulatedExam) -> LabelledExam:
    """A simulated exam with its truth; each is a patient of its own."""
    name = str(exam.spec.seed)
    return LabelledExam(SIMULATED, name, patient_key(SIMULATED, name), exam.volume, exam.labels)


def source_named(name: str) -> ExamSource | None:
    """The source of that name, to read exams again; None where only its owner can."""
    found = re.fullmatch(r"phantom:(\w+):(\d+)\+(\d+)@(\d+)", name)
    if found is None:
        return None
    institution, first, count, matrix = found.groups()
    return PhantomSource(institution, int(first), int(count), matrix=int(matrix))
