"""Work spread over processes, a bounded number of tasks at a time: memory does not grow with their number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from threadpoolctl import threadpool_limits

from ml.errors import DataError

AHEAD = 2
"""Tasks per process that are handed out at a time: one under way, one waiting."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_processes(
    work: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, name: Callable[[Task], str] = str
) -> Iterator[Result]:
    """The results in the order in which they come; tasks are drawn as there is room. 0 workers: in this process.

    Raises:
        DataError: a process died; the message names the tasks (by `name`) that it may have died of.
    """
    waiting = iter(tasks)
    if workers == 0:
        yield from map(work, waiting)
        return
    pool = start_processes(workers)
    running: dict[Future[Result], Task] = {}
    try:
        running = {pool.submit(work, task): task for task in islice(waiting, AHEAD * workers)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
                del running[future]
                running |= {pool.submit(work, task): task for task in islice(waiting, 1)}
    except BrokenProcessPool as error:
        names = ", ".join(sorted(name(task) for task in running.values()))
        raise DataError(
            f"a worker process died (killed for want of memory?) on one of: {names}. What is finished stays; "
            "run the same command again, with fewer --workers if it dies again"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def start_processes(workers: int) -> ProcessPoolExecutor:
    """A pool of processes that compute with one thread each.

    BLAS begins with as many threads as there are processors, in every process: with two of them on two processors
    simulated exams took 1.5 times as long.
    """
    return ProcessPoolExecutor(max_workers=workers, initializer=_compute_with_one_thread)


def _compute_with_one_thread() -> None:
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # of what loads later
    threadpool_limits(1)  # of what a forked process has already
