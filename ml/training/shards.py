"""Simulated exams on disk, as the network sees them: one small folder of memory-mapped arrays per exam.

    000123/hu.npy         int16 (z, v, u) HU on the network's grid
    000123/blood.npy      uint8 (z, v, u) 1 where at least half a pixel is blood
    000123/exam.json      seed, neighbours of each slice, hemorrhage in mL; written last: without it there is no exam

Exams are made by worker processes and kept between runs; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml.config import Preprocessing
from ml.inference.preprocessing import prepare
from ml.phantom import draw_spec, simulate

HALF_COVERED = 0.5


@dataclass(frozen=True, eq=False)
class ExamShard:
    """One exam on disk; arrays are mapped, not read."""

    folder: Path
    seed: int
    neighbours: npt.NDArray[np.intp]
    """(n, 3) slice indices: below, itself, above."""
    hemorrhage_ml: float

    @cached_property
    def hu(self) -> npt.NDArray[np.int16]:
        """(z, v, u)."""
        array: npt.NDArray[np.int16] = np.load(self.folder / "hu.npy", mmap_mode="r")
        return array

    @cached_property
    def blood(self) -> npt.NDArray[np.uint8]:
        """(z, v, u) 0 or 1."""
        array: npt.NDArray[np.uint8] = np.load(self.folder / "blood.npy", mmap_mode="r")
        return array

    @cached_property
    def positive_slices(self) -> npt.NDArray[np.intp]:
        """Indices into `neighbours` of the slices with blood."""
        has_blood = np.array([one.any() for one in self.blood])
        return np.flatnonzero(has_blood[self.neighbours[:, 1]])


def open_shards(folder: Path, seeds: Iterable[int]) -> list[ExamShard]:
    """The exams of the given seeds, in that order; every one must be there."""
    return [_open(folder / f"{seed:06}") for seed in seeds]


def make_shards(
    folder: Path, seeds: Sequence[int], config: Preprocessing, *, workers: int, matrix: int
) -> Iterator[int]:
    """Simulate the exams that are not there yet, yielding each seed when it is on disk.

    An error in a worker process is raised here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not (folder / f"{seed:06}" / "exam.json").is_file()]
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
    prepared = prepare(exam.volume, config)
    truth = prepared.orientation.apply(exam.truth.astype(np.float32))
    # Of a thin-slice exam only the slices that some patch can show are kept, as slabs of network thickness.
    kept, neighbours = np.unique(prepared.sampling.neighbours, return_inverse=True)
    blood = np.stack([prepared.rows @ one @ prepared.columns.T for one in truth[kept]]) >= HALF_COVERED
    target = folder / f"{seed:06}"
    temporary = folder / f"{seed:06}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    np.save(temporary / "hu.npy", np.clip(np.rint(prepared.hu_zvu[kept]), -1024, 3071).astype(np.int16))
    np.save(temporary / "blood.npy", blood.astype(np.uint8))
    facts = {
        "seed": seed,
        "neighbours": neighbours.reshape(prepared.sampling.neighbours.shape).tolist(),
        "hemorrhage_ml": float(exam.hemorrhage_ml),
    }
    (temporary / "exam.json").write_text(json.dumps(facts))
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return seed


def _open(folder: Path) -> ExamShard:
    facts = json.loads((folder / "exam.json").read_text())
    return ExamShard(folder, facts["seed"], np.array(facts["neighbours"]), facts["hemorrhage_ml"])
