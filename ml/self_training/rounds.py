"""Teacher, pseudo-labels, ranking, student; and again with the student as teacher. Every step is found on disk.

teacher/              the run of the baseline, unless a teacher is given
round-1/scores/       what the teacher says of the corpus
round-1/ranking.*     the corpus in order
round-1/student/      the run of the student; it is the teacher of round 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ml.bundle import Bundle
from ml.data.shards import ExamShard
from ml.inference.engines import EngineName
from ml.progress import Stage
from ml.self_training.labelling import score_corpus
from ml.self_training.models import Model, SelfTraining, make_pools
from ml.self_training.ranker import check_ranking, rank, write_ranking
from ml.self_training.scores import ScoreStore
from ml.training.distribution import process_group, share
from ml.training.distribution import rank as process_rank
from ml.training.runs import TrainingRun, train_bundle
from ml.training.targets import Pool


def self_train(
    run: TrainingRun,
    labelled: Sequence[ExamShard],
    corpus: Sequence[ExamShard],
    config: SelfTraining,
    stage: Stage,
    *,
    teacher: Bundle | None = None,
) -> Bundle:
    """The student of the last round; `run.out` holds all of it, and a run that was stopped goes on.

    Under torchrun every process calls this: they train together and share the corpus out.
    """
    with process_group(run.machine.device) as device:
        if teacher is None:
            pools = make_pools(Model.BASELINE, labelled, corpus, None, config)
            own = replace(run, out=run.out / "teacher", name=f"{run.name}-teacher")
            teacher = train_shown(own, pools, stage, "teacher")
        for number in range(1, config.rounds + 1):
            folder = run.out / f"round-{number}"
            store = label(teacher, corpus, folder, config, stage, device=device)
            pools = make_pools(Model.STUDENT, labelled, corpus, store, config)
            own = replace(run, out=folder / "student", name=f"{run.name}-student-{number}")
            teacher = train_shown(own, pools, stage, f"student {number}", start=teacher)
    return teacher


def label(
    teacher: Bundle,
    corpus: Sequence[ExamShard],
    folder: Path,
    config: SelfTraining,
    stage: Stage,
    *,
    device: str = "cpu",
    engine: EngineName = "auto",
) -> ScoreStore:
    """The teacher's scores in `<folder>/scores`, and the ranking beside them.

    Raises:
        DataError: the ranking that is there has another C, or another teacher's scores are.
    """
    check_ranking(folder, config.ranker)
    store = ScoreStore(folder / "scores")
    tell = stage("pseudo-labels", len(share(corpus)))
    score_corpus(teacher, corpus, store, device=device, engine=engine, progress=tell)
    if process_rank() == 0:
        ranking = rank((exam.folder.name, store.slice_logits(exam.folder.name)) for exam in corpus)
        write_ranking(folder, ranking, config.ranker, teacher_digest=teacher.identity.digest)
    return store


def train_shown(
    run: TrainingRun, pools: Sequence[Pool], stage: Stage, name: str, *, start: Bundle | None = None
) -> Bundle:
    """Train under a bar of its own."""
    tell = stage(name, run.span(pools).steps)
    return train_bundle(run, pools, start=start, progress=lambda step, loss: tell(f"loss {loss:.4f}", step))
