"""A study on disk: which models answered which sets, and what each is for. `python -m ml tables` reads it.

    study.json                the study, its models and its sets
    <model>/<set>/            records of one model on one set (`ml.evaluation.records`)

Whoever trains the models writes study.json; a model or set that is named there and has no records yet is "not run"
in the tables, with the reason that the study gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ml.errors import EvaluationError
from ml.evaluation.records import SAFE_NAME, RecordSet, read_records
from ml.files import write_atomically


class ModelRole(StrEnum):
    """What a model stands for in the paper's tables (sections 2.3, 3.3, 3.4)."""

    BASELINE = "baseline"
    """Labelled data only; the teacher."""
    STUDENT = "student"
    """SS in the paper: labelled and pseudo-labelled data."""
    SLICE_ORACLE = "slice-oracle"
    PIXEL_ORACLE = "pixel-oracle"
    QURE = "qure"
    """Published scores, no bundle."""
    RANKED_ONCE = "ranked-once"
    """The ranker's side of Table 3: one teacher-student round. Where it is not named, the student stands for it."""
    NO_RANKER = "no-ranker"
    CONTRAST_NONE = "contrast-none"
    CONTRAST_POWER = "contrast-power"
    CONTRAST_LOG = "contrast-log"
    CONTRAST_ALL = "contrast-all"
    ABLATION = "ablation"
    """Any other variant, described by `factor` and `value`: C, K, scale augmentation, rounds, EMA ..."""


class SetRole(StrEnum):
    """What a set stands for."""

    TEST = "test"
    """Out of distribution; CQ500 in the paper."""
    READING = "reading"
    """The test set with another reading of its pixel labels (paper 2.5); `reading` is 2 or 3."""
    VALIDATION = "validation"
    IN_DISTRIBUTION = "in-distribution"
    """Where the labelled data come from. The paper has none; without it nobody can say what was lost on the way."""


@dataclass(frozen=True)
class StudyModel:
    """A row of a table."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    """Of its folder."""
    role: ModelRole
    title: str
    factor: str = ""
    value: str = ""
    not_run: str = ""
    """Why there are no records, where that was decided."""


@dataclass(frozen=True)
class StudySet:
    """A set of exams."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    role: SetRole
    title: str
    reading: int = 1


@dataclass(frozen=True)
class Study:
    """All that `tables` needs to know before it reads records."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    title: str
    data: str
    """One sentence: real or simulated, and at what scale. Printed above every table."""
    command: str
    commit: str
    machine: str
    models: tuple[StudyModel, ...]
    sets: tuple[StudySet, ...]
    seconds: float | None = None
    """Of the whole study, once it is done or was stopped; None while it runs, and for good once it was killed."""
    shared: bool = False
    """Whether processes shared its trainings: nobody knows then how long it took."""

    def records(self, folder: Path, model: str, set_name: str) -> RecordSet:
        """Raises EvaluationError where there are none."""
        return read_records(record_folder(folder, model, set_name))


_STUDY = TypeAdapter(Study)


def record_folder(study_folder: Path, model: str, set_name: str) -> Path:
    """Where the records of a model on a set are."""
    return study_folder / model / set_name


def write_study(folder: Path, study: Study) -> None:
    """Write study.json; raises EvaluationError for names that no folder can have or that occur twice."""
    for names in ([one.name for one in study.models], [one.name for one in study.sets]):
        unsafe = [name for name in names if not SAFE_NAME.fullmatch(name)]
        if unsafe or len(set(names)) < len(names):
            raise EvaluationError(f"names of models and sets must be distinct folder names: {', '.join(names)}")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "study.json", _STUDY.dump_json(study, indent=1) + b"\n")


def read_study(folder: Path) -> Study:
    """Raises EvaluationError where the folder is no study."""
    try:
        return _STUDY.validate_json((folder / "study.json").read_bytes())
    except FileNotFoundError as error:
        raise EvaluationError(f"{folder.name} is not a study: it has no study.json") from error
    except ValidationError as error:
        raise EvaluationError(f"study.json of {folder.name} is damaged or of another version: {error}") from error
