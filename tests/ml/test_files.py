"""Files are whole or not there, whoever writes at the same time and whatever breaks."""

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from ml.files import write_atomically

WRITERS, TIMES = 4, 200


def write_often(path: Path, letter: bytes) -> None:
    """One of several writers of one file."""
    for _ in range(TIMES):
        write_atomically(path, letter * 5000)


def test_processes_that_write_one_file_at_once_leave_one_of_their_contents(tmp_path: Path) -> None:
    """None of them fails over another one's temporary file."""
    path = tmp_path / "study.json"
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=write_often, args=(path, bytes([97 + number]))) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert path.read_bytes() in {bytes([97 + number]) * 5000 for number in range(WRITERS)}
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the file is to be made durable."""
    path = tmp_path / "record.json"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
