"""Exams on disk as the simulator leaves them, small and quick to make."""

import json
from pathlib import Path

import numpy as np
import pytest

from ml.data.shards import ExamShard
from ml.training.shards import open_shards


def write_exam(folder: Path, seed: int, *, bleeding: bool, size: int = 64, slices: int = 4) -> None:
    """A disc of brain; a bright square of blood in the inner slices of a bleeding one."""
    v, u = np.mgrid[:size, :size] - size / 2
    hu = np.where(np.hypot(v, u) < size * 0.4, 30, -1000).astype(np.int16)
    stack = np.repeat(hu[None], slices, axis=0)
    blood = np.zeros_like(stack, dtype=np.uint8)
    if bleeding:
        blood[1:-1, size // 2 : size // 2 + 10, size // 2 : size // 2 + 10] = 1
        stack[blood == 1] = 70
    target = folder / f"{seed:06}"
    target.mkdir(parents=True)
    np.save(target / "hu.npy", stack)
    np.save(target / "blood.npy", blood)
    neighbours = [[max(z - 1, 0), z, min(z + 1, slices - 1)] for z in range(slices)]
    facts = {"seed": seed, "neighbours": neighbours, "hemorrhage_ml": float(blood.sum())}
    (target / "exam.json").write_text(json.dumps(facts))


@pytest.fixture
def exams(tmp_path: Path) -> list[ExamShard]:
    """Two with blood, two without."""
    for seed in range(4):
        write_exam(tmp_path / "shards", seed, bleeding=seed % 2 == 0)
    return open_shards(tmp_path / "shards", range(4))
