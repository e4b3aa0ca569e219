"""A teacher scores every slice of a corpus: in evaluation mode and without augmentation, as Noisy Student does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ml.bundle import Bundle
from ml.data.shards import ExamShard, Grid
from ml.errors import DataError
from ml.inference.engines import Engine, EngineName, make_engine
from ml.inference.preprocessing import to_channels
from ml.self_training.scores import ScoreStore, Teacher
from ml.training.distribution import rank, share, wait_for_all

BATCH = 16


def score_corpus(
    teacher: Bundle,
    exams: Sequence[ExamShard],
    store: ScoreStore,
    *,
    device: str = "cpu",
    engine: EngineName = "auto",
    progress: Callable[[str], None],
) -> None:
    """Score the exams that have no scores yet, or had other slices then; `progress` is told each exam's name.

    Under torchrun, within `process_group`, every process calls this and scores its share.

    Raises:
        DataError: the store has another teacher's scores, or the exams are on another grid than the teacher's.
    """
    grid = Grid.of(teacher.config.preprocessing)
    if rank() == 0:
        store.open(Teacher(teacher.identity.digest, grid))
    check_names(exams)
    wait_for_all()
    run = make_engine(teacher.make_network(), engine, device=device)
    for exam in share(exams):
        name = exam.folder.name
        if exam.grid not in (None, grid):
            raise DataError(f"exam {name} was prepared for another network than the teacher's")
        if not store.has(name) or len(store.slice_logits(name)) != len(exam.neighbours):  # or prepared anew since
            score_exam(run, teacher, exam, store)
        progress(name)
    wait_for_all()


def score_exam(run: Engine, teacher: Bundle, exam: ExamShard, store: ScoreStore) -> None:
    """Score one exam's slices with an engine of the teacher's network."""
    probs, logits = [], []
    for first in range(0, len(exam.neighbours), BATCH):
        stacks = exam.hu[exam.neighbours[first : first + BATCH]].astype(np.float32)
        outputs = run(to_channels(stacks, teacher.config.preprocessing))
        probs.append(outputs.prob)
        logits.append(outputs.class_logits)
    store.write(exam.folder.name, np.concatenate(logits), np.concatenate(probs))


def check_names(exams: Sequence[ExamShard]) -> None:
    """Raises DataError where two exams of a corpus have one name: their scores would be one file."""
    names = [exam.folder.name for exam in exams]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two exams of the corpus are named {twice}; give data sets whose names differ")
