"""Files that hold received instances and results, behind one small interface.

    incoming/                           being received; anything older than the process is swept at start
    instances/3f1/<study>/<series>/     <SOP Instance UID>-<16 hex digits of the digest>.dcm
    conflicts/                          same UID, other bytes
    results/ab/                         what the worker made; it writes its files itself (worker.results.files), and
                                        beside them the picture of each job, `picture_path`

The name of a received file holds the digest of its dataset, so none is ever replaced by another content: the same bytes
land on the same name, other bytes beside it. `commit` returns when the file, its name and every new folder are durable.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from dicom_node.errors import ArchiveError, OutOfSpace, UnsafeUid
from dicom_node.part10 import HEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

SAFE_UID = re.compile(r"[0-9][0-9.]{0,63}")
"""Digits and dots, 64 at most, a digit first: safe as a name, and lenient towards the malformed UIDs of the field."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

NO_LINK = frozenset({errno.EEXIST, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES})

COMMITTED = {"instances": (".dcm",), "conflicts": (".dcm",), "results": (".dcm", ".png", ".tmp")}
"""Folders of the archive, and how the names of the files in them end that are, or were to be, somebody's: the last of
results is what a worker had begun to write when it was killed."""
PICTURE_PATH = re.compile(r"results/\w+/overlay-\w+-(\d+)\.png")
READ_BYTES = 1024 * 1024
PLACE_TRIES = 5
"""A study's folder is removed with its last file (`FolderArchive.remove`), perhaps while a new one is about to come."""
MOST_KNOWN_FOLDERS = 10_000
"""Folders of series that are remembered as durable: those of some days, in 3 MB. Each one forgotten costs a sync."""
SYNC_THREADS = 32
"""Folders that may be synced at once; each costs a thread that waits for the disk."""


def check_uid(uid: str) -> str:
    """`uid` itself when it may become part of a path. Raises UnsafeUid."""
    if not SAFE_UID.fullmatch(uid):
        raise UnsafeUid("a UID has digits and dots only, 64 at most (PS3.5 section 9.1)")
    return uid


def picture_path(input_digest: str, job_id: int) -> str:
    """Where a job keeps the picture of its findings."""
    return f"results/{input_digest[:2]}/overlay-{input_digest}-{job_id}.png"


def job_of_picture(path: str) -> int | None:
    """The id of the job that a picture belongs to; None where the path is no picture's."""
    found = PICTURE_PATH.fullmatch(path)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class InstanceKey:
    """What decides where an instance lies."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class StoredFile:
    """A durable file. `path` is relative to the archive; `sha256` and `size_bytes` are of the dataset's bytes."""

    path: str
    sha256: str
    size_bytes: int


class Spool(Protocol):
    """A file that is being received. Ends in `Archive.commit` or in `discard`."""

    size_bytes: int
    """Of the dataset so far, without the file's head."""

    def write(self, piece: Buffer) -> None:
        """Append a piece of the dataset. Raises OutOfSpace, ArchiveError."""

    def reader(self) -> BinaryIO:
        """What was written so far, from the start of the file; the caller closes it."""

    def discard(self) -> None:
        """Leave nothing behind. May be called twice, and after a commit (then it does nothing)."""


class Archive(Protocol):
    """Where files are kept. A local or shared folder today; an object store can follow."""

    def spool(self, head: bytes) -> Spool:
        """Begin a file with `head` (preamble and file meta information). Raises OutOfSpace, ArchiveError."""

    def commit(self, spool: Spool, key: InstanceKey) -> StoredFile:
        """Make the file durable under its name. Raises UnsafeUid, OutOfSpace, ArchiveError."""

    def set_aside(self, stored: StoredFile) -> StoredFile:
        """Move a committed file among the conflicts, durably."""

    def open(self, path: str) -> BinaryIO:
        """Read a committed file. Raises ArchiveError."""

    def exists(self, path: str) -> bool:
        """Whether a committed file is there. Raises ArchiveError when that cannot be found out now."""

    def remove(self, path: str) -> None:
        """Remove a committed file, and folders that it leaves empty; it is no error when it is not there."""

    def free_bytes(self) -> int:
        """Room for more."""

    def committed(self, *, older_than_s: float) -> Iterator[str]:
        """Paths of committed files and of results of at least that age, for reconciliation. Raises ArchiveError."""

    def sweep_incoming(self, *, older_than: float) -> int:
        """Remove what dead processes left half received before `older_than` (Unix time). How many files that were.

        Raises ArchiveError.
        """


class FolderSpool:
    """A file in `incoming/`, hashed while it is written."""

    def __init__(self, path: Path, head: bytes) -> None:
        self.path = path
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()
        with _os_errors():
            self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640)
        try:
            with _os_errors():
                # The kernel drops the lock when this process dies; sweep_incoming takes only what nobody holds.
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _write_all(self._fd, head)
        except ArchiveError:
            self.discard()
            raise

    def write(self, piece: Buffer) -> None:
        """See Spool."""
        with _os_errors():
            _write_all(self._fd, piece)
        self._sha256.update(piece)
        self.size_bytes += memoryview(piece).nbytes

    def reader(self) -> BinaryIO:
        """See Spool."""
        with _os_errors():
            return self.path.open("rb")

    def digest(self) -> str:
        """SHA-256 of the dataset so far, as hex."""
        return self._sha256.hexdigest()

    def sync(self) -> None:
        """Flush to the disk. Raises OSError."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Done: the file has its final name."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """See Spool."""
        if self._fd >= 0:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.close()


class FolderArchive:
    """An archive below one folder, local or shared by NFS."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._known_folders: set[str] = set()
        self._syncing = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="folder-sync")
        with _os_errors():
            for folder in ("incoming", "instances", "conflicts"):
                self._make_folder(folder)

    def spool(self, head: bytes) -> FolderSpool:
        """See Archive."""
        return FolderSpool(self._incoming / f"{uuid.uuid4().hex}.part", head)

    def commit(self, spool: Spool, key: InstanceKey) -> StoredFile:
        """See Archive."""
        if not isinstance(spool, FolderSpool):
            raise TypeError("a spool of another archive")
        folder = instance_folder(key)
        sha256 = spool.digest()
        path = f"{folder}/{check_uid(key.sop_instance_uid)}-{sha256[:16]}.dcm"
        with _os_errors():
            self._place_in(folder, spool, self.root / path)
        return StoredFile(path, sha256, spool.size_bytes)

    def set_aside(self, stored: StoredFile) -> StoredFile:
        """See Archive."""
        path = f"conflicts/{stored.path.rpartition('/')[2]}"
        with _os_errors():
            (self.root / stored.path).replace(self.root / path)
            _sync_folder(self.root / "conflicts")
        return StoredFile(path, stored.sha256, stored.size_bytes)

    def path(self, path: str) -> Path:
        """The absolute path of a committed file."""
        return self.root / path

    def open(self, path: str) -> BinaryIO:
        """See Archive."""
        with _os_errors():
            return self.path(path).open("rb")

    def exists(self, path: str) -> bool:
        """See Archive."""
        with _os_errors():
            return self.path(path).exists()

    def remove(self, path: str) -> None:
        """See Archive."""
        file = self.path(path)
        with _os_errors():
            file.unlink(missing_ok=True)
        # Of its series and its study. One that a new file is just going to lie in is made again by `commit`.
        with suppress(OSError):
            for folder in file.relative_to(self.root).parents[:-3]:
                (self.root / folder).rmdir()

    def free_bytes(self) -> int:
        """See Archive."""
        with _os_errors():
            stat = os.statvfs(self.root)
        return stat.f_bavail * stat.f_frsize

    def committed(self, *, older_than_s: float) -> Iterator[str]:
        """See Archive."""
        limit = time.time() - older_than_s
        with _os_errors():
            for top, endings in COMMITTED.items():
                for folder, _, names in os.walk(self.root / top, onerror=_raise_unless_gone):
                    for file in (Path(folder, name) for name in names if name.endswith(endings)):
                        with suppress(FileNotFoundError):
                            if file.stat().st_mtime <= limit:
                                yield file.relative_to(self.root).as_posix()

    def sweep_incoming(self, *, older_than: float) -> int:
        """See Archive; what a living process holds stays, whichever listener it belongs to."""
        with _os_errors():
            return sum(_remove_unless_held(file, older_than) for file in self._incoming.glob("*.part"))

    def _place_in(self, folder: str, spool: FolderSpool, target: Path) -> None:
        """Make the folder and place the file, again where the folder was removed in between. Raises OSError."""
        for tries_left in reversed(range(PLACE_TRIES)):
            try:
                self._make_folder(folder)
                self._place(spool, target)
            except FileNotFoundError:
                self._known_folders.discard(folder)
                if not tries_left:
                    raise
            else:
                return

    def _make_folder(self, folder: str) -> None:
        """Make `folder` (relative) and its parents, each durable before a file goes in. Raises OSError."""
        if folder in self._known_folders:
            return
        path = self.root / folder
        chain = [path, *(parent for parent in path.parents if parent.is_relative_to(self.root))]
        self.root.parent.mkdir(parents=True, exist_ok=True)
        for one in reversed(chain):
            # Synced even if it is there: whoever made it may not have come so far yet.
            one.mkdir(exist_ok=True)
            _sync_folder(one.parent)
        if len(self._known_folders) >= MOST_KNOWN_FOLDERS:
            self._known_folders.clear()
        self._known_folders.add(folder)

    def _place(self, spool: FolderSpool, target: Path) -> None:
        """Give the file its final name and make both durable. Raises OSError.

        Named before it is synced, file and folder are synced at the same time: one journal commit and one flush of the
        disk serve both (on a busy disk 1 to 3 ms instead of 6 to 7). That is safe because nobody looks at a file before
        its row is committed, and because a link, unlike a rename, never takes the place of a file that may be durable
        already. When one is there (the same bytes, or what a crash left of them), or where hard links are not to be
        had, the file is synced first and then renamed over it.
        """
        try:
            os.link(spool.path, target)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            spool.sync()
            spool.path.replace(target)
            _sync_folder(target.parent)
        else:
            folder_synced = self._syncing.submit(_sync_folder, target.parent)
            spool.sync()
            folder_synced.result()
            spool.path.unlink()
        spool.close()


def instance_folder(key: InstanceKey) -> str:
    """`instances/3f1/<study>/<series>`: 4,096 folders of studies, so that each stays small. Raises UnsafeUid."""
    study, series = check_uid(key.study_instance_uid), check_uid(key.series_instance_uid)
    prefix = hashlib.sha256(study.encode()).hexdigest()[:3]
    return f"instances/{prefix}/{study}/{series}"


def intact(archive: Archive, stored: StoredFile) -> bool:
    """Whether the file is there with the bytes that were acknowledged; it is read whole.

    Raises ArchiveError when that cannot be found out now.
    """
    if not archive.exists(stored.path):
        return False
    sha256, size_bytes = hashlib.sha256(), 0
    with archive.open(stored.path) as file, _os_errors():
        head = file.read(HEAD_BYTES)
        group_bytes = int.from_bytes(head[-4:], "little")
        file.seek(HEAD_BYTES + group_bytes)
        while piece := file.read(READ_BYTES):
            sha256.update(piece)
            size_bytes += len(piece)
    return (sha256.hexdigest(), size_bytes) == (stored.sha256, stored.size_bytes)


def archive_error(error: OSError) -> ArchiveError:
    """The archive's own error for one of the operating system, without the path (it holds UIDs)."""
    name = errno.errorcode.get(error.errno or 0, "OSError")
    kind = OutOfSpace if error.errno in NO_SPACE else ArchiveError
    return kind(f"{name}: {os.strerror(error.errno or 0)}")


def _remove_unless_held(file: Path, older_than: float) -> bool:
    with suppress(FileNotFoundError, BlockingIOError), file.open("rb") as held:
        if os.fstat(held.fileno()).st_mtime < older_than:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
            return True
    return False


def _raise_unless_gone(error: OSError) -> None:
    """A study's folder may be removed while the archive is looked through."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _write_all(fd: int, piece: Buffer) -> None:
    view = memoryview(piece)
    while view.nbytes:
        view = view[os.write(fd, view) :]


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _os_errors() -> Iterator[None]:
    """OSError as the archive's own errors."""
    try:
        yield
    except OSError as error:
        raise archive_error(error) from error
