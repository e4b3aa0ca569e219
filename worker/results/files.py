"""A result as bytes and as a file: Part 10, Explicit VR Little Endian, the same bytes for the same dataset."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmread, dcmwrite

from ml.files import sync, write_atomically

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
    """Writes a file whole or not at all, in a folder that is made when it is not there."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        sync(path.parent.parent)
    write_atomically(path, content)
