"""Files and folders that are whole or not there."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

TEMPORARY = ".tmp"
"""Ends the name of what is not whole yet, or never became so: its writer was killed."""
LOCK = ".lock"
"""In a folder that one process at a time may work in; it stays there, empty."""
STALE_S = 3600.0
"""Nothing takes that long to write."""
DAMAGED_ARRAYS = (
    *(ValueError, OSError, KeyError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
"""What NumPy raises of a damaged .npz, by where in the file the damage is."""


def write_atomically(path: Path, content: bytes) -> None:
    """Durably, its name too: temporary file, fsync, rename. The folder must exist.

    Of several writers at once the last one counts.

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
    sync(path.parent)


@contextmanager
def whole_folder(path: Path, is_whole: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder of files to write into, which then gets the name `path`; the folder above is made where there is none.

    A folder of that name that is whole stays: of several writers at once the first one counts, as somebody may read it
    already. One that is not is replaced.

    Raises:
        OSError: it could not be written; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY}")
    temporary.mkdir()
    try:
        yield temporary
        if not is_whole(path):
            for file in (*temporary.iterdir(), temporary):
                sync(file)
            while not _take_name(temporary, path, is_whole):
                pass
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Make what was written to a file, or the names in a folder, outlive a loss of power. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Whether no other process is within this context for the same folder, which is made where there is none.

    It holds until this process leaves the context or dies, however it dies: a POSIX record lock on a file, which
    processes that are forked meanwhile do not inherit. Where the file system has no locks, or no room for an empty
    file, everybody is alone.
    """
    with ExitStack() as until_the_end:
        alone = True
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            file = until_the_end.enter_context((folder / LOCK).open("a"))
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: another process has it
                alone = False
        yield alone


def remove_stale(folder: Path) -> None:
    """Take out of a folder what writers left in it that were killed over an hour ago; later ones may still be at it."""
    for left in folder.glob(f"*{TEMPORARY}"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _take_name(temporary: Path, path: Path, is_whole: Callable[[Path], bool]) -> bool:
    """Whether there is a whole folder of that name now; else what half of one was there is gone. Raises OSError."""
    try:
        temporary.rename(path)
    except OSError:
        if not (path.is_dir() and temporary.is_dir()):
            raise
    else:
        return True
    if is_whole(path):
        return True
    aside = temporary / "aside"
    with suppress(FileNotFoundError):  # another writer took it away
        path.rename(aside)
        if is_whole(aside):  # another writer has finished it meanwhile
            with suppress(OSError):
                aside.rename(path)
        shutil.rmtree(aside, ignore_errors=True)
    return False
