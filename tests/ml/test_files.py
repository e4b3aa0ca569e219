"""Files are whole or not there, whoever writes at the same time and whatever breaks."""

import errno
import fcntl
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ml import files
from ml.files import alone_in, remove_stale, whole_folder, write_atomically

WRITERS, TIMES = 4, 200


def write_often(path: Path, letter: bytes) -> None:
    """One of several writers of one file."""
    for _ in range(TIMES):
        write_atomically(path, letter * 5000)


def write_at_once(write: Callable[[Path, bytes], None], path: Path) -> None:
    """Several processes, each with a letter of its own; none of them fails."""
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=write, args=(path, bytes([97 + number]))) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS


def test_processes_that_write_one_file_at_once_leave_one_of_their_contents(tmp_path: Path) -> None:
    """None of them fails over another one's temporary file."""
    path = tmp_path / "study.json"
    write_at_once(write_often, path)
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


def stay_alone(folder: Path, told: Connection, *, fork: bool) -> None:
    """Hold a folder until killed, perhaps with a child that outlives this process."""
    with alone_in(folder) as alone:
        if fork and os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        told.send(alone)
        time.sleep(60)


@pytest.mark.parametrize("fork", [False, True])
def test_one_process_at_a_time_works_in_a_folder(tmp_path: Path, fork: bool) -> None:
    """Until it is gone, by whatever death; a child that it leaves behind holds nothing."""
    context = multiprocessing.get_context("forkserver")
    mine, its = context.Pipe()
    other = context.Process(target=stay_alone, args=(tmp_path / "run", its), kwargs={"fork": fork})
    other.start()
    assert mine.recv()
    with alone_in(tmp_path / "run") as alone:
        assert not alone
    with alone_in(tmp_path / "another") as alone:
        assert alone
    other.kill()
    other.join()
    with alone_in(tmp_path / "run") as alone:
        assert alone


def test_where_there_are_no_locks_everybody_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems."""

    def lacking(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", lacking)
    with alone_in(tmp_path) as alone:
        assert alone


def has_facts(folder: Path) -> bool:
    """What these tests call whole."""
    return (folder / "facts").is_file()


def write_folder(path: Path, letter: bytes) -> None:
    """One of several writers of one folder, each with files of its own letter."""
    for number in range(TIMES):
        with whole_folder(path / str(number), has_facts) as new:
            for name in ("pixels", "facts"):
                (new / name).write_bytes(letter * 500)


def test_of_processes_that_write_one_folder_at_once_the_first_one_counts(tmp_path: Path) -> None:
    """None of them fails, no folder has files of two, and nothing else is left."""
    write_at_once(write_folder, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {str(number) for number in range(TIMES)}
    for folder in tmp_path.iterdir():
        assert len({path.read_bytes() for path in folder.iterdir()}) == 1
        assert len(list(folder.iterdir())) == 2


def test_a_folder_that_is_taken_away_ends_with_an_error(tmp_path: Path) -> None:
    """And not in trying for ever, where half of one has the name that it was to get."""
    folder = tmp_path / "exam"
    folder.mkdir()
    with pytest.raises(FileNotFoundError):
        files._take_name(tmp_path / "gone", folder, has_facts)


def test_a_folder_that_cannot_be_finished_leaves_what_was_there(tmp_path: Path) -> None:
    """Half of one, which the next writer replaces; and a whole one, which nobody does."""
    folder = tmp_path / "exam"
    folder.mkdir()
    (folder / "pixels").write_bytes(b"half")
    with pytest.raises(OSError, match="full"), whole_folder(folder, has_facts):
        raise OSError("full")
    assert [path.name for path in tmp_path.rglob("*")] == ["exam", "pixels"]
    for content in (b"first", b"second"):
        with whole_folder(folder, has_facts) as new:
            (new / "facts").write_bytes(content)
    assert [path.name for path in tmp_path.rglob("*")] == ["exam", "facts"]
    assert (folder / "facts").read_bytes() == b"first"


def test_only_what_was_left_long_ago_is_stale(tmp_path: Path) -> None:
    """Another machine may be writing now."""
    for name in ("old.0.tmp", "new.1.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / f"file.{name}").write_bytes(b"half")
    os.utime(tmp_path / "old.0.tmp", (0, 0))
    os.utime(tmp_path / "file.old.0.tmp", (0, 0))
    (tmp_path / "whole").mkdir()
    remove_stale(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"new.1.tmp", "file.new.1.tmp", "whole"}
