"""Tells living listeners from dead ones: each holds a lock on its own file, which the kernel drops when it dies."""

from __future__ import annotations

import fcntl
import urllib.parse
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


class ListenerLock:
    """The lock of one listener, held until `release` or the end of the process."""

    def __init__(self, folder: Path, listener_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = _path(folder, listener_id)
        # It gets its name once it is locked: another listener that starts now would take it for that of a dead one.
        unnamed = self._path.with_suffix(".new")
        self._file: BinaryIO = unnamed.open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unnamed.replace(self._path)

    def release(self, *, in_order: bool) -> None:
        """The listener has ended; when not in order, its successor clears up after it as after a dead one."""
        if in_order:
            self._path.unlink(missing_ok=True)
        self._file.close()


def dead_listeners(folder: Path) -> list[str]:
    """Ids of the listeners that died while they held a lock in `folder`; `forget` them when their rows are closed."""
    dead = []
    for path in folder.glob("*.lock"):
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead.append(urllib.parse.unquote(path.stem))
    return dead


def forget(folder: Path, listener_id: str) -> None:
    """Remove what a dead listener left."""
    _path(folder, listener_id).unlink(missing_ok=True)


def _path(folder: Path, listener_id: str) -> Path:
    return folder / f"{urllib.parse.quote(listener_id, safe='')}.lock"
