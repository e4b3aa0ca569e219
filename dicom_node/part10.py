"""The head of a DICOM file: preamble and file meta information (PS3.10 section 7.1).

This node writes both. Files that people give it may lack the preamble, or both: conversion scripts and old archives
leave them out, and such a file begins with the first element it has.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node import __version__

IMPLEMENTATION_CLASS_UID = "2.25.226594183402741186395112861803937842573"
"""This software, whatever its version: made once from a random UUID (PS3.5 section B.2)."""
IMPLEMENTATION_VERSION_NAME = f"ICHNODE_{__version__}"[:16]
HEAD_BYTES = 144
"""Preamble, prefix, and the element with the length of the rest of the file meta information (PS3.10 section 7.1)."""
PREAMBLE_BYTES = 132
"""With the prefix."""
FIRST_IN_META = frozenset([b"UL", b"OB", b"UI"])
"""VRs of the elements that file meta information can begin with; it is in Explicit VR Little Endian."""
FIRST_IN_DATA = range(0x0019)
"""Elements of group 0008 that a data set can begin with: from the group length to the SOP Instance UID."""


def read_file(path: Path, **options: Any) -> FileDataset:
    """`pydicom.dcmread`, of files without preamble too; their transfer syntax is the one they turn out to be in.

    Raises OSError, InvalidDicomError, and whatever pydicom raises on broken bytes.
    """
    with path.open("rb") as file:
        start = file.read(PREAMBLE_BYTES)
    if start[128:] == b"DICM":
        return pydicom.dcmread(path, **options)
    if not (begins_with_meta(start) or begins_with_data(start)):
        raise InvalidDicomError("no DICOM: neither a preamble nor a first element")
    ds = pydicom.dcmread(path, force=True, **options)
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, _ = ds.original_encoding
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return ds


def begins_with_meta(start: bytes) -> bool:
    """Whether file meta information begins here."""
    return len(start) >= 8 and _tag(start)[0] == 0x0002 and start[4:6] in FIRST_IN_META


def begins_with_data(start: bytes) -> bool:
    """Whether these may be the first bytes of a data set."""
    return len(start) >= 8 and _tag(start)[0] == 0x0008 and _tag(start)[1] in FIRST_IN_DATA


def _tag(start: bytes) -> tuple[int, int]:
    group, element = struct.unpack_from("<HH", start)
    return group, element


def file_head(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str) -> bytes:
    """The bytes that go before a dataset to make it a DICOM file; the dataset follows as it was received."""
    elements = b"".join(
        (
            struct.pack("<HH2sHL", 2, 0x0001, b"OB", 0, 2) + b"\0\1",
            _uid(0x0002, sop_class_uid),
            _uid(0x0003, sop_instance_uid),
            _uid(0x0010, transfer_syntax_uid),
            _uid(0x0012, IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", _even(IMPLEMENTATION_VERSION_NAME, b" ")),
            _short(0x0016, b"AE", _even(source_ae_title, b" ")),
        )
    )
    return b"\0" * 128 + b"DICM" + _short(0x0000, b"UL", struct.pack("<L", len(elements))) + elements


def _uid(element: int, uid: str) -> bytes:
    return _short(element, b"UI", _even(uid, b"\0"))


def _even(text: str, pad: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + pad if len(value) % 2 else value


def _short(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
