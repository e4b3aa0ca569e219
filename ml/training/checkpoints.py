"""Atomic, complete checkpoints: weights, averaged weights, optimiser, loss scale, step and random state."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ml.errors import TrainingError
from ml.training.journal import AFTER_FULL_DISK


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Temporary file, fsync, rename; the one before stays as `<name>.previous`.

    Raises:
        TrainingError: it could not be written; what was there is untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's writer turns what the file says into a RuntimeError
        temporary.unlink(missing_ok=True)
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise TrainingError(f"the checkpoint cannot be written ({why}); {AFTER_FULL_DISK}") from error
    if path.exists():
        path.replace(path.with_name(path.name + ".previous"))
    temporary.replace(path)


def kept_checkpoints(path: Path) -> list[Path]:
    """The files with a state, the last one first: only the one before where a run was killed between two names."""
    return [one for one in (path, path.with_name(path.name + ".previous")) if one.exists()]


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last complete checkpoint, or None before the first. A damaged one that is newer is set aside as
    `<name>.damaged`, so that the next one that is saved does not take the place of the complete one.

    Raises:
        TrainingError: there are checkpoints, but none can be read.
    """
    candidates = kept_checkpoints(path)
    for candidate in candidates:
        try:
            state: dict[str, Any] = torch.load(candidate, map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001, S112 (broken bytes are unpickled into a dozen types of errors)
            continue
        if candidate != path:
            with suppress(FileNotFoundError):  # there is none, or another process of this run was faster
                path.replace(path.with_name(path.name + ".damaged"))
        return state
    if candidates:
        raise TrainingError(f"no checkpoint in {path.parent.name} can be read; delete the folder to start again")
    return None
