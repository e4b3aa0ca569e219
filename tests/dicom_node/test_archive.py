"""Files: named by checked UIDs and digest, durable, never in the place of another content."""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.archive import PLACE_TRIES, FolderArchive, InstanceKey, check_uid, instance_folder
from dicom_node.errors import ArchiveError, OutOfSpace, UnsafeUid
from tests.dicom_node.filing import put

KEY = InstanceKey("1.2.3", "1.2.3.4", "1.2.3.4.5")
HEAD = b"head"


@pytest.fixture
def archive(tmp_path: Path) -> FolderArchive:
    """An empty archive."""
    return FolderArchive(tmp_path / "archive")


def test_a_committed_file_holds_head_and_dataset(archive: FolderArchive) -> None:
    """Digest and size are of the dataset alone; the path is below the study's and series' folders."""
    stored = put(archive, KEY, head=HEAD, pieces=[b"data", b"set"])
    with archive.open(stored.path) as file:
        assert file.read() == b"headdataset"
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(b"dataset").hexdigest(), 7)
    assert stored.path == f"{instance_folder(KEY)}/1.2.3.4.5-{stored.sha256[:16]}.dcm"
    assert list((archive.root / "incoming").iterdir()) == []


def test_other_bytes_under_the_same_uid_lie_beside(archive: FolderArchive) -> None:
    """No content takes the place of another one."""
    first = put(archive, KEY, head=HEAD, pieces=[b"one"])
    second = put(archive, KEY, head=HEAD, pieces=[b"two"])
    assert first.path != second.path
    assert archive.path(first.path).read_bytes() == b"headone"


def test_the_same_bytes_again(archive: FolderArchive) -> None:
    """Same name, still there, nothing left in incoming: also when a crash left the first file cut off."""
    first = put(archive, KEY, head=HEAD, pieces=[b"one"])
    archive.path(first.path).write_bytes(b"he")
    assert put(archive, KEY, head=HEAD, pieces=[b"one"]) == first
    assert archive.path(first.path).read_bytes() == b"headone"
    assert list((archive.root / "incoming").iterdir()) == []


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none, as on some shared folders"])
def test_a_file_and_its_name_are_synced_before_commit_returns(
    archive: FolderArchive, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    """The file, its folder once it holds the name, and every folder that is new in its parent; however slow that is."""
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        holds_it = path.is_dir() and any(path.glob("*.dcm"))
        time.sleep(0.05)
        fsync(fd)
        synced.append((path.as_posix(), holds_it))

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", note)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    stored = put(archive, KEY, head=HEAD, pieces=[b"one"])
    folder = archive.path(stored.path).parent
    parents = (folder.parent, folder.parent.parent, archive.root / "instances")
    assert {(str(path), False) for path in parents} <= set(synced)
    assert sum(path.startswith(str(archive.root / "incoming")) for path, _ in synced) == 1
    assert [holds_it for path, holds_it in synced if path == str(folder)] == [True]
    assert archive.path(stored.path).read_bytes() == b"headone"
    assert list((archive.root / "incoming").iterdir()) == []
    archive.set_aside(stored)
    assert synced[-1] == (str(archive.root / "conflicts"), True)


def test_a_disk_that_takes_a_part_of_a_piece_has_not_taken_it(archive: FolderArchive) -> None:
    """The kernel writes what fits and says how much that was: the rest must come to an error, never be left out."""
    spool = archive.spool(HEAD)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutOfSpace):
            spool.write(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        spool.discard()


def test_a_discarded_spool_leaves_nothing(archive: FolderArchive) -> None:
    """No file, no open one; twice is as good as once, and after a commit it does nothing."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    spool = archive.spool(HEAD)
    spool.write(b"one")
    spool.discard()
    spool.discard()
    assert list((archive.root / "incoming").iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    committed = archive.spool(HEAD)
    stored = archive.commit(committed, KEY)
    committed.discard()
    assert archive.exists(stored.path)


def test_a_folder_that_was_removed_is_made_again(archive: FolderArchive) -> None:
    """Those of a study go with its last file, although the archive remembers that it made them."""
    stored, other = (put(archive, KEY, head=HEAD, pieces=[piece]) for piece in (b"one", b"two"))
    study = archive.path(stored.path).parents[1]
    archive.remove(stored.path)
    assert archive.exists(other.path)
    archive.remove(other.path)
    assert (study.exists(), study.parent.exists()) == (False, True)
    assert archive.exists(put(archive, KEY, head=HEAD, pieces=[b"one"]).path)


def test_a_folder_that_keeps_vanishing_is_an_error(archive: FolderArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed between its making and the file's coming, a few times in a row is made up for; not for ever."""
    real, gone = FolderArchive._place, iter(range(PLACE_TRIES - 1))

    def placed(self: FolderArchive, spool: Any, target: Path) -> None:
        if next(gone, None) is not None:
            target.parent.rmdir()
        real(self, spool, target)

    monkeypatch.setattr(FolderArchive, "_place", placed)
    assert archive.exists(put(archive, KEY, head=HEAD, pieces=[b"one"]).path)
    gone = iter(range(PLACE_TRIES))
    with pytest.raises(ArchiveError, match="ENOENT"):
        put(archive, InstanceKey("1.2.9", "1.2.9.1", "1.2.9.1.1"), head=HEAD, pieces=[b"one"])


def test_folders_are_not_remembered_without_end(archive: FolderArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener runs for months; what it forgot is made durable once more."""
    monkeypatch.setattr("dicom_node.archive.MOST_KNOWN_FOLDERS", 5)
    for series in [*range(20), 0]:
        stored = put(archive, InstanceKey("1.2", f"1.2.{series}", "1.2.3"), head=HEAD, pieces=[b"one"])
        assert archive.exists(stored.path)
    assert len(archive._known_folders) <= 5


def test_set_aside(archive: FolderArchive) -> None:
    """A conflicting file moves among the conflicts."""
    stored = put(archive, KEY, head=HEAD, pieces=[b"one"])
    aside = archive.set_aside(stored)
    assert aside.path.startswith("conflicts/")
    assert (archive.exists(stored.path), archive.exists(aside.path)) == (False, True)
    assert sorted(archive.committed(older_than_s=0)) == [aside.path]


def test_looking_through_while_folders_go(archive: FolderArchive) -> None:
    """Retention removes the folder of a series that was just about to be looked into: the look goes on."""
    keys = [InstanceKey("1.2.3", f"1.2.3.{series}", f"1.2.3.{series}.1") for series in range(3)]
    paths = {put(archive, key, head=HEAD, pieces=[b"one"]).path for key in keys}
    looking = archive.committed(older_than_s=0)
    first = next(looking)
    for path in paths - {first}:
        archive.remove(path)
    assert list(looking) == []


def test_looking_where_nothing_can_be_seen(archive: FolderArchive) -> None:
    """A fault of the disk is the archive's own error, which its callers wait out."""
    (archive.root / "conflicts" / "loop.dcm").symlink_to("loop.dcm")
    with pytest.raises(ArchiveError, match="ELOOP"):
        list(archive.committed(older_than_s=0))
    with pytest.raises(ArchiveError, match="ENAMETOOLONG"):
        archive.exists("1" * 300)


@pytest.mark.parametrize(
    "uid", ["", ".", "..", "../x", "1/2", "1.2\0", "1.2\n", "1" * 65, "a.b", ".1", "1.2 ", "\u0661.2", "-1"]
)
def test_unsafe_uids_never_reach_a_path(archive: FolderArchive, uid: str) -> None:
    """In any of the three places."""
    for key in (InstanceKey(uid, "1", "1"), InstanceKey("1", uid, "1"), InstanceKey("1", "1", uid)):
        spool = archive.spool(HEAD)
        with pytest.raises(UnsafeUid):
            archive.commit(spool, key)
        spool.discard()
    assert [path for path in archive.root.rglob("*") if path.is_file()] == []


@given(st.text(max_size=70))
def test_a_checked_uid_is_one_plain_name(uid: str) -> None:
    """Whatever passes is digits and dots and no name with a meaning."""
    try:
        check_uid(uid)
    except UnsafeUid:
        return
    assert set(uid) <= set("0123456789.")
    assert Path(uid).name == uid
    assert len(uid) <= 64


def test_sweeping_spares_what_is_being_received(archive: FolderArchive) -> None:
    """A dead process's file goes; a living one's, whichever process it is, stays; so does one that is newer."""
    dead, held = archive.root / "incoming" / "dead.part", archive.root / "incoming" / "held.part"
    dead.write_bytes(b"x")
    held.write_bytes(b"x")
    mine = archive.spool(HEAD)
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert archive.sweep_incoming(older_than=time.time() - 60) == 0
        assert archive.sweep_incoming(older_than=time.time() + 60) == 1
    assert (dead.exists(), held.exists(), mine.path.exists()) == (False, True, True)


def test_no_space_is_told_apart(archive: FolderArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC and EDQUOT are OutOfSpace, anything else ArchiveError; no message holds a path."""

    def fail(code: int) -> None:
        def write(*_: object) -> int:
            raise OSError(code, os.strerror(code), "/a/path/1.2.3")

        monkeypatch.setattr(os, "write", write)

    for code, kind in ((28, OutOfSpace), (122, OutOfSpace), (5, ArchiveError)):
        fail(code)
        with pytest.raises(kind) as caught:
            archive.spool(HEAD)
        assert type(caught.value) is kind
        assert "/a/path" not in str(caught.value)
    monkeypatch.undo()
    assert list((archive.root / "incoming").iterdir()) == []


def test_a_missing_file_is_an_archive_error(archive: FolderArchive) -> None:
    """Not a bare OSError."""
    with pytest.raises(ArchiveError):
        archive.open("instances/none.dcm")
    archive.remove("instances/none.dcm")


def test_free_bytes_are_those_that_can_still_be_written(archive: FolderArchive) -> None:
    """Before they run out, C-STORE is answered with 0xA700."""
    assert archive.free_bytes() == pytest.approx(shutil.disk_usage(archive.root).free, rel=0.05)
