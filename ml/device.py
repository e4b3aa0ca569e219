"""Where a network runs, when the user leaves it open."""

from __future__ import annotations

import torch


def choose_device(name: str) -> str:
    """A GPU if there is one, else the CPU, for "auto"; "cpu", "cuda" and "cuda:1" stay."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
