"""The models of a study: what each is trained on, from where it starts, and on which sets it is judged."""

from __future__ import annotations

from dataclasses import dataclass

from ml.evaluation.study import ModelRole, SetRole, StudyModel
from ml.self_training.models import Model
from ml.training.augmentation import Contrast

ALL_SETS = (SetRole.TEST, SetRole.VALIDATION, SetRole.IN_DISTRIBUTION)


@dataclass(frozen=True)
class Entry:
    """A row of some table."""

    row: StudyModel
    model: Model
    from_teacher: bool
    """Starts from the baseline's weights (paper section 2.2); else from random ones."""
    contrasts: tuple[Contrast, ...] = ("none", "power", "log")
    sets: tuple[SetRole, ...] = ALL_SETS
    same_as: str | None = None
    """Name of the model whose bundle it is; nothing is trained."""


def _row(role: ModelRole, title: str, *, factor: str = "", value: str = "", name: str | None = None) -> StudyModel:
    return StudyModel(name or role, role, title, factor=factor, value=value)


def _contrast(role: ModelRole, title: str, contrast: Contrast) -> Entry:
    """A row of Table 2: the baseline under one rule of contrast alone (paper section 3.3)."""
    return Entry(
        _row(role, title), Model.BASELINE, from_teacher=False, contrasts=(contrast,), sets=(SetRole.VALIDATION,)
    )


TEACHER = Entry(_row(ModelRole.BASELINE, "Baseline"), Model.BASELINE, from_teacher=False)
"""Trained first: it labels the corpus, and the others start from it."""

ENTRIES = (
    TEACHER,
    Entry(_row(ModelRole.STUDENT, "SS (ours)"), Model.STUDENT, from_teacher=True),
    Entry(_row(ModelRole.NO_RANKER, "No ranker"), Model.NO_RANKER, from_teacher=True),
    Entry(_row(ModelRole.SLICE_ORACLE, "Image slice oracle"), Model.SLICE_ORACLE, from_teacher=True),
    Entry(_row(ModelRole.PIXEL_ORACLE, "Pixel oracle"), Model.PIXEL_ORACLE, from_teacher=True),
    Entry(
        _row(
            ModelRole.ABLATION,
            "Baseline trained on",
            factor="training without the corpus",
            value="as long as teacher and student together",
            name="baseline-longer",
        ),
        Model.BASELINE,
        from_teacher=True,
    ),
    _contrast(ModelRole.CONTRAST_NONE, "Baseline", "none"),
    _contrast(ModelRole.CONTRAST_POWER, "Power law", "power"),
    _contrast(ModelRole.CONTRAST_LOG, "Log", "log"),
    Entry(
        _row(ModelRole.CONTRAST_ALL, "All"),
        Model.BASELINE,
        from_teacher=False,
        sets=(SetRole.VALIDATION,),
        same_as=ModelRole.BASELINE,
    ),
)
"""In the order in which they are trained. "Baseline trained on" is not in the paper: a student that starts from its
teacher has been trained twice as long, and only this row tells whether it is that or the corpus that helps."""
