"""Where a network runs and how many processes serve it, when the user leaves it open."""

from __future__ import annotations

import os

import torch

from ml.errors import DeviceError


def choose_device(name: str) -> str:
    """A GPU if there is one, else the CPU, for "auto"; "cpu", "cuda" and "cuda:1" stay.

    Raises DeviceError for what is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if gpus else "cpu"
    there = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{number}" for number in range(gpus))]
    if name not in there:
        raise DeviceError(f"PyTorch finds no device {name} on this machine; it finds {', '.join(there)}")
    return name


def choose_loader_workers(asked: int | None, device: str) -> int:
    """Processes that make patches for a training on `device`, where nobody asked for a number.

    One for a CPU, whose time they take from the network's; for a GPU, which patches are cut for by many
    (bench/training.py), all cores but two, or as many of this process' share where torchrun started several.
    """
    if asked is not None:
        return asked
    if device == "cpu":
        return 1
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 2)
