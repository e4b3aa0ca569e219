"""A study's folder as tables ask for it: the answers of a model on a set, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml.evaluation.answers import Answers, attempt
from ml.evaluation.pixel_answers import Measure
from ml.evaluation.records import ExamRecord, Origin
from ml.evaluation.sources import ExamSource
from ml.evaluation.study import ModelRole, SetRole, Study, StudyModel, StudySet, read_study, record_folder
from ml.evaluation.tables import NOT_RUN, Cell, figure, words

MAIN = (ModelRole.BASELINE, ModelRole.STUDENT, ModelRole.SLICE_ORACLE, ModelRole.PIXEL_ORACLE, ModelRole.QURE)
TITLES = {
    ModelRole.BASELINE: "Baseline",
    ModelRole.STUDENT: "Semi-supervised (student)",
    ModelRole.SLICE_ORACLE: "Image slice oracle",
    ModelRole.PIXEL_ORACLE: "Pixel oracle",
    ModelRole.QURE: "Qure.ai (published scores)",
    ModelRole.NO_RANKER: "No ranker",
    ModelRole.RANKED_ONCE: "With ranker",
    ModelRole.CONTRAST_NONE: "None",
    ModelRole.CONTRAST_POWER: "Power law, gamma = U(0.85, 1.1)",
    ModelRole.CONTRAST_LOG: "Logarithm, g = U(0.7, 1.1)",
    ModelRole.CONTRAST_ALL: "One third each",
}


@dataclass(frozen=True, eq=False)
class Place:
    """Where a cell's figures come from: a model on a set, or the reason why there are none."""

    answers: Answers | None
    key: str
    reason: str

    def cell(self, compute: Callable[[Answers], Measure]) -> Cell:
        """The figure, "not run" or why it cannot be had."""
        answers = self.answers
        if answers is None:
            return words(f"{NOT_RUN}: {self.reason}")
        return figure(attempt(lambda: compute(answers)), self.key)


class Report:
    """A study's folder, read as far as tables ask for it."""

    def __init__(self, folder: Path, known: Sequence[ExamSource] = ()) -> None:
        """Raises EvaluationError where the folder is no study. `known`: where images for figures may be read."""
        self.folder = folder
        self.known = known
        self.study: Study = read_study(folder)
        self.traces: dict[str, Origin] = {}
        self._places: dict[tuple[str, str], Place] = {}

    def model(self, role: ModelRole) -> StudyModel | None:
        """The first of that role; for the ranker's side of Table 3 the student where nothing else is named."""
        found = next((one for one in self.study.models if one.role is role), None)
        if found is None and role is ModelRole.RANKED_ONCE:
            return self.model(ModelRole.STUDENT)
        return found

    def set(self, role: SetRole, reading: int = 1) -> StudySet | None:
        """The set of that role."""
        return next((one for one in self.study.sets if one.role is role and one.reading == reading), None)

    def place(self, model: StudyModel | ModelRole, role: SetRole = SetRole.TEST, reading: int = 1) -> Place:
        """A model on a set, read once. An unfinished set is not run: half of it is another set."""
        one = self.model(model) if isinstance(model, ModelRole) else model
        where = self.set(role, reading)
        if one is None or where is None:
            return Place(None, "", "the study has no such model" if one is None else "the study has no such set")
        if (one.name, where.name) not in self._places:
            self._places[one.name, where.name] = self._read(one, where)
        return self._places[one.name, where.name]

    def _read(self, model: StudyModel, where: StudySet) -> Place:
        key = f"{model.name}/{where.name}"
        if not (record_folder(self.folder, model.name, where.name) / "origin.json").exists():
            return Place(None, key, model.not_run or f"there are no records in {key}")
        records = self.study.records(self.folder, model.name, where.name)
        if records.missing:
            return Place(None, key, f"{len(records.records)} of {len(records.origin.exams)} exams of {key} are done")
        self.traces[key] = records.origin
        return Place(Answers(records), key, "")


def paired(one: Place, other: Place) -> tuple[Answers, Answers] | str:
    """Both models' answers on the same exams, or why they cannot be compared."""
    if one.answers is None or other.answers is None:
        return f"{NOT_RUN}: {one.reason or other.reason}"
    if one.answers.records.origin.exams != other.answers.records.origin.exams:
        return f"{one.key} and {other.key} have different exams"
    if not all(map(_same_truth, one.answers.exams, other.answers.exams)):
        return f"{one.key} and {other.key} have exams of the same names with different labels"
    return one.answers, other.answers


def _same_truth(one: ExamRecord, other: ExamRecord) -> bool:
    """As far as both have it: simulated exams of another institution or matrix have the same names."""
    if one.bleeding != other.bleeding or one.counts is None or other.counts is None:
        return one.bleeding == other.bleeding
    return (one.counts.pixels, one.counts.truth) == (other.counts.pixels, other.counts.truth)
