"""A dataset into the archive, as intake does it."""

from __future__ import annotations

from collections.abc import Iterable

from dicom_node.archive import Archive, InstanceKey, StoredFile


def put(archive: Archive, key: InstanceKey, *, head: bytes, pieces: Iterable[bytes]) -> StoredFile:
    """The file of these pieces, durable. Raises UnsafeUid, OutOfSpace, ArchiveError; then nothing is left of it."""
    spool = archive.spool(head)
    try:
        for piece in pieces:
            spool.write(piece)
        return archive.commit(spool, key)
    finally:
        spool.discard()
