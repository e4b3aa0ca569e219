"""DICOM files as they lie on disks.

A file begins with 128 bytes that mean nothing, "DICM" and the file meta information (PS3.10 section 7.1). Conversion
scripts and old archives leave out the first two, or all three; then a file begins with the first element it has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

FIRST_IN_META = frozenset([b"UL", b"OB", b"UI"])
"""VRs of the elements that file meta information can begin with; it is in Explicit VR Little Endian."""
NO_OBJECTS = frozenset(["DICOMDIR", "THUMBS.DB", "DESKTOP.INI"])
FIRST_IN_DATA = range(0x0019)
"""Elements of group 0008 that a data set can begin with: from the group length to the SOP Instance UID."""


def is_no_object(path: Path) -> bool:
    """By name: the index of a CD, in small letters too where Linux mounts it, or what macOS ("._1.dcm") and Windows
    leave.
    """
    return path.name.upper() in NO_OBJECTS or path.name.startswith(".")


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """To read; the OSErrors of disk and network drive say of which file."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        if is_of_the_disk(error):
            error.filename = str(path)
        raise


def is_of_the_disk(error: Exception) -> bool:
    """Whether disk or network drive did not give the file, and another try may succeed.

    What pydicom and decoders raise on broken bytes may be an OSError too, but has no number.
    """
    return isinstance(error, OSError) and error.errno is not None


def begins_like_dicom(path: Path) -> bool:
    """By content alone. Raises OSError."""
    with open_file(path) as file:
        start = file.read(132)
    return start[128:] == b"DICM" or _begins_with_an_element(start)


def read_dataset(file: BinaryIO, **options: Any) -> FileDataset:
    """`pydicom.dcmread`, of files without preamble too; their transfer syntax is the one they turn out to be in.

    Raises InvalidDicomError, and whatever pydicom raises on broken bytes.
    """
    start = file.read(132)
    file.seek(0)
    if start[128:] == b"DICM":
        return pydicom.dcmread(file, **options)
    if not _begins_with_an_element(start):
        raise InvalidDicomError("no DICOM: neither a preamble nor a first element")
    ds = pydicom.dcmread(file, force=True, **options)
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, _ = ds.original_encoding
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return ds


def _begins_with_an_element(start: bytes) -> bool:
    if len(start) < 8:
        return False
    group, element = struct.unpack_from("<HH", start)
    return (group == 0x0002 and start[4:6] in FIRST_IN_META) or (group == 0x0008 and element in FIRST_IN_DATA)
