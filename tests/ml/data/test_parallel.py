"""Processes with a bounded number of tasks, and what is said when one dies."""

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from ml.data.parallel import AHEAD, map_in_processes
from ml.errors import DataError


def double(number: int) -> int:
    """Runs in a process."""
    return 2 * number


def die_of_seven(number: int) -> int:
    """As the kernel kills a process that takes too much memory."""
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def count_threads(_: int) -> list[int]:
    """Runs in a process: of each library that computes with several."""
    np.ones((4, 4)) @ np.ones((4, 4))
    return [library["num_threads"] for library in threadpool_info()]


def test_a_process_computes_with_one_thread() -> None:
    """As many threads as processors in every process would wait for each other; ours keeps its own."""
    before = count_threads(0)
    assert before
    for threads in map_in_processes(count_threads, range(2), workers=2):
        assert threads
        assert set(threads) == {1}
    assert count_threads(0) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_tasks_are_drawn_as_there_is_room(workers: int) -> None:
    """However many there are, no more than AHEAD for each process are handed out before a result is taken."""
    drawn = 0

    def tasks() -> Iterator[int]:
        nonlocal drawn
        for number in range(200):
            drawn += 1
            yield number

    results = []
    for taken, result in enumerate(map_in_processes(double, tasks(), workers=workers)):
        results.append(result)
        assert drawn - taken <= max(1, AHEAD * workers)
    assert sorted(results) == [2 * number for number in range(200)]


def test_a_killed_process_is_an_error_that_names_its_tasks() -> None:
    """Not a hang, and not a bare BrokenProcessPool."""
    with pytest.raises(DataError, match=r"exam 7.*run the same command again"):
        list(map_in_processes(die_of_seven, range(20), workers=1, name=lambda number: f"exam {number}"))
