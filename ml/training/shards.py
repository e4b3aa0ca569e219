"""Simulated exams as shards (`ml.data.shards`), made by worker processes and kept between runs.

A run that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from ml.config import Preprocessing
from ml.data.exams import LabelledExam, patient_key
from ml.data.shards import ExamShard, is_written, open_exam, write_exam
from ml.phantom import draw_spec, simulate

SIMULATED = "simulated"
"""The data set's name of simulated exams; each is a patient of its own."""

__all__ = ["ExamShard", "make_shards", "open_shards"]


def open_shards(folder: Path, seeds: Iterable[int]) -> list[ExamShard]:
    """The exams of the given seeds, in that order; every one must be there."""
    return [open_exam(folder / _name(seed)) for seed in seeds]


def make_shards(
    folder: Path, seeds: Sequence[int], config: Preprocessing, *, workers: int, matrix: int
) -> Iterator[int]:
    """Simulate the exams that are not there yet, yielding each seed when it is on disk.

    An error in a worker process is raised here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not is_written(folder / _name(seed), config)]
    yield from (seed for seed in seeds if seed not in set(missing))
    if workers == 0:
        for seed in missing:
            yield make_shard(folder, seed, config, matrix)
        return
    with ProcessPoolExecutor(max_workers=workers) as pool:
        pending = [pool.submit(make_shard, folder, seed, config, matrix) for seed in missing]
        for done in as_completed(pending):
            yield done.result()


def make_shard(folder: Path, seed: int, config: Preprocessing, matrix: int) -> int:
    """Simulate one exam and write it; returns its seed."""
    exam = simulate(draw_spec(seed), matrix=matrix)
    name = _name(seed)
    patient = patient_key(SIMULATED, name)
    write_exam(folder / name, LabelledExam(SIMULATED, name, patient, exam.volume, exam.labels), config)
    return seed


def _name(seed: int) -> str:
    return f"{seed:06}"
