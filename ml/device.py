"""Where a network runs and how many processes serve it, when the user leaves it open."""

from __future__ import annotations

import os

import torch


def choose_device(name: str) -> str:
    """A GPU if there is one, else the CPU, for "auto"; "cpu", "cuda" and "cuda:1" stay."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


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
