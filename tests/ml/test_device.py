"""How many processes cut patches where nobody says so."""

import os

import pytest

from ml.device import choose_loader_workers


@pytest.mark.parametrize(
    ("asked", "device", "cores", "processes", "expected"),
    [
        (None, "cpu", 16, None, 1),
        (None, "cuda", 16, None, 14),
        (None, "cuda:1", 16, None, 14),
        (None, "cuda", 16, "4", 2),
        (None, "cuda", 2, None, 1),
        (0, "cuda", 16, None, 0),
        (3, "cpu", 2, None, 3),
    ],
)
def test_a_gpu_has_the_cores_that_are_left(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, device: str, cores: int, processes: str | None, expected: int
) -> None:
    """Those of one process of several that torchrun started are its share; what is asked for counts."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert choose_loader_workers(asked, device) == expected
