"""Files and folders that are whole or not there."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".tmp"
"""Ends the name of what is not whole yet, or never became so: its writer was killed."""
STALE_S = 3600.0
"""Nothing takes that long to write."""


def write_atomically(path: Path, content: bytes) -> None:
    """Durably: temporary file, fsync, rename. The folder must exist; of several writers at once the last one counts.

    Raises:
        OSError: it could not be written; what was there is untouched, and nothing else is left.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path, *, mark: str) -> Iterator[Path]:
    """A folder to write into, which then gets the name `path`; the folder above is made where there is none.

    A folder of that name that has the file `mark` is whole, and stays: of several writers at once the first one counts,
    as somebody may read it already. One without it is replaced.

    Raises:
        OSError: it could not be written; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY}")
    temporary.mkdir()
    try:
        yield temporary
        if not (path / mark).is_file():
            shutil.rmtree(path, ignore_errors=True)
            _rename(temporary, path, mark)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Take out of a folder what writers left in it that were killed over an hour ago; later ones may still be at it."""
    for left in folder.glob(f"*{TEMPORARY}"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _rename(temporary: Path, path: Path, mark: str) -> None:
    try:
        temporary.rename(path)
    except OSError:
        if not (path / mark).is_file():
            raise
