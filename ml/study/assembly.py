"""A study of models that were trained step by step: study.json for records that lie in folders named by their roles."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ml.errors import EvaluationError
from ml.evaluation.study import ModelRole, SetRole, Study, StudyModel, StudySet, write_study
from ml.provenance import present_command, present_commit

TITLES = {
    ModelRole.BASELINE: "Baseline",
    ModelRole.STUDENT: "SS (ours)",
    ModelRole.SLICE_ORACLE: "Image slice oracle",
    ModelRole.PIXEL_ORACLE: "Pixel oracle",
    ModelRole.QURE: "Qure.ai",
    ModelRole.NO_RANKER: "No ranker",
    ModelRole.RANKED_ONCE: "With ranker",
    ModelRole.CONTRAST_NONE: "No contrast change",
    ModelRole.CONTRAST_POWER: "Power law",
    ModelRole.CONTRAST_LOG: "Log",
    ModelRole.CONTRAST_ALL: "All",
}
PLAIN_SETS = (SetRole.TEST, SetRole.VALIDATION, SetRole.IN_DISTRIBUTION)
READINGS = (2, 3)


def assemble(folder: Path, *, title: str, data: str) -> Study:
    """Write study.json for `<role>/<set>/` as `python -m ml evaluate --out` left them; returns it.

    Raises:
        EvaluationError: there are no records in folders of such names.
    """
    models = [role for role in TITLES if list((folder / role).glob("*/origin.json"))]
    sets = [StudySet(role, role, f"{title}: {role}") for role in PLAIN_SETS if _is_used(folder, models, role)]
    for number in READINGS:
        name = f"{SetRole.TEST}-reading-{number}"
        if _is_used(folder, models, name):
            sets.append(StudySet(name, SetRole.READING, f"{title}: reading {number}", reading=number))
    if not models or not sets:
        raise EvaluationError(
            f"{folder.name} has no records: run `python -m ml evaluate BUNDLE DATA --out {folder.name}/baseline/test` "
            f"and the like; models are {', '.join(TITLES)}, sets {', '.join(PLAIN_SETS)}"
        )
    study = Study(
        title=title,
        data=data,
        command=present_command(),
        commit=present_commit(),
        machine=f"{os.cpu_count()} CPU cores ({platform.machine()})",
        models=tuple(StudyModel(role, role, TITLES[role]) for role in models),
        sets=tuple(sets),
    )
    write_study(folder, study)
    return study


def _is_used(folder: Path, models: list[ModelRole], name: str) -> bool:
    return any((folder / model / name / "origin.json").is_file() for model in models)
