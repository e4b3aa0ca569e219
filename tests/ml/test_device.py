"""How many processes cut patches where nobody says so."""

import os

import pytest
import torch

from ml.device import choose_device, choose_loader_workers
from ml.errors import DeviceError


@pytest.mark.parametrize(("gpus", "there"), [(0, "cpu"), (2, "cpu, cuda, cuda:0, cuda:1")])
def test_a_device_that_is_not_there_is_refused_with_what_there_is(
    gpus: int, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, not by a trace when the first exam was read; what is there stays as it was asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert [choose_device(name) for name in there.split(", ")] == there.split(", ")
    assert choose_device("auto") == ("cuda" if gpus else "cpu")
    for name in ("cuda:2", "gpu", *([] if gpus else ["cuda"])):
        with pytest.raises(DeviceError, match=f"no device {name} on this machine; it finds {there}$"):
            choose_device(name)


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
