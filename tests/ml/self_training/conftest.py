"""A corpus on disk and a teacher with random weights for it."""

from dataclasses import replace
from pathlib import Path

import pytest

from ml.bundle import Bundle, BundleConfig
from ml.data.shards import ExamShard, open_folder
from tests.ml.training.conftest import write_exam


@pytest.fixture
def corpus(tmp_path: Path) -> list[ExamShard]:
    """Six exams of four slices; every other one has blood in its inner slices."""
    for seed in range(6):
        write_exam(tmp_path / "corpus", seed, bleeding=seed % 2 == 0)
    return open_folder(tmp_path / "corpus")


@pytest.fixture
def labelled(tmp_path: Path) -> list[ExamShard]:
    """Four exams, two with blood."""
    for seed in range(4):
        write_exam(tmp_path / "labelled", seed, bleeding=seed % 2 == 0)
    return open_folder(tmp_path / "labelled")


@pytest.fixture
def teacher(tiny_bundle: Bundle) -> Bundle:
    """Says anything between 0 and 1."""
    return tiny_bundle


@pytest.fixture
def other_teacher(tiny_bundle: Bundle, tiny_config: BundleConfig) -> Bundle:
    """With another digest."""
    return replace(tiny_bundle, identity=replace(tiny_bundle.identity, digest="1" * 64))
