"""Simulated exams as a stream, made by worker processes ahead of their use, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from itertools import islice

from ml.data.parallel import start_processes
from ml.phantom import SimulatedExam, draw_spec, simulate

AHEAD = 2
"""Exams that wait per worker process: a thin-slice exam has 300 MB."""


def simulate_exams(
    seeds: Iterable[int], *, matrix: int, workers: int, alternate: bool = False, institution: str = "any"
) -> Iterator[SimulatedExam]:
    """The exams of the seeds at an institution, in order; `alternate`: with blood, without, with ... by turns."""
    wanted = ((seed, index % 2 == 0 if alternate else None) for index, seed in enumerate(seeds))
    return simulate_wanted(wanted, matrix=matrix, workers=workers, institution=institution)


def simulate_wanted(
    wanted: Iterable[tuple[int, bool | None]], *, matrix: int, workers: int, institution: str
) -> Iterator[SimulatedExam]:
    """One exam for each (seed, whether there is blood; None leaves it to the seed), in order."""
    wanted = iter(wanted)
    if workers == 0:
        for seed, bleed in wanted:
            yield simulate_exam(seed, bleed, matrix, institution)
        return
    with start_processes(workers) as pool:
        waiting: deque[Future[SimulatedExam]] = deque(
            pool.submit(simulate_exam, seed, bleed, matrix, institution)
            for seed, bleed in islice(wanted, AHEAD * workers)
        )
        while waiting:
            exam = waiting.popleft().result()
            for seed, bleed in islice(wanted, 1):
                waiting.append(pool.submit(simulate_exam, seed, bleed, matrix, institution))
            yield exam


def simulate_exam(seed: int, bleed: bool | None, matrix: int, institution: str) -> SimulatedExam:  # noqa: FBT001 (for a pool)
    """One exam; `bleed` None leaves to the seed whether there is blood."""
    return simulate(draw_spec(seed, institution=institution, bleed=bleed), matrix=matrix)
