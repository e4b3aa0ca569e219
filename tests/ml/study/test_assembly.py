"""Records of models that were trained step by step become a study."""

from pathlib import Path

import pytest

from ml.errors import EvaluationError
from ml.evaluation.records import Origin, open_folder
from ml.evaluation.study import ModelRole, SetRole, read_study
from ml.study.assembly import assemble


def record(folder: Path, model: str, set_name: str) -> None:
    """An opened folder of records."""
    origin = Origin(model=model, data="some", exams=("one",), commit="c", command="python -m ml evaluate")
    open_folder(folder / model / set_name, origin)


def test_folders_named_by_their_roles_are_a_study(tmp_path: Path) -> None:
    """Other folders are left alone."""
    for model, set_name in (("baseline", "test"), ("student", "test"), ("student", "test-reading-2"), ("x", "test")):
        record(tmp_path, model, set_name)
    study = assemble(tmp_path, title="Lab", data="Real exams.")
    assert read_study(tmp_path) == study
    assert [one.role for one in study.models] == [ModelRole.BASELINE, ModelRole.STUDENT]
    assert [(one.role, one.reading) for one in study.sets] == [(SetRole.TEST, 1), (SetRole.READING, 2)]


def test_a_folder_without_records_says_how_to_make_them(tmp_path: Path) -> None:
    """With the names that are known."""
    with pytest.raises(EvaluationError, match="slice-oracle"):
        assemble(tmp_path, title="Lab", data="Real exams.")
