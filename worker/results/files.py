"""A result as bytes and as a file: Part 10, Explicit VR Little Endian, the same bytes for the same dataset."""

from __future__ import annotations

import hashlib
import os
import secrets
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmread, dcmwrite

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset
    from pydicom.dataset import FileDataset


def encode(ds: Dataset) -> bytes:
    """The Part 10 file of a dataset (PS3.10 section 7)."""
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def through_bytes(ds: Dataset) -> FileDataset:
    """The dataset as a receiver would read it: plain, from its own bytes."""
    return dcmread(BytesIO(encode(ds)))


def save(ds: Dataset, path: Path) -> str:
    """Writes the Part 10 file and returns its SHA-256 in hex."""
    content = encode(ds)
    write_whole(content, path)
    return hashlib.sha256(content).hexdigest()


def write_whole(content: bytes, path: Path) -> None:
    """Writes a file whole or not at all: temporary file, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{secrets.token_hex(8)}-{path.name}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
