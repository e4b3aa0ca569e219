"""The head of a DICOM file: preamble and file meta information (PS3.10 section 7.1)."""

from __future__ import annotations

import struct

from dicom_node import __version__

IMPLEMENTATION_CLASS_UID = "2.25.226594183402741186395112861803937842573"
"""This software, whatever its version: made once from a random UUID (PS3.5 section B.2)."""
IMPLEMENTATION_VERSION_NAME = f"ICHNODE_{__version__}"[:16]
HEAD_BYTES = 144
"""Preamble, prefix, and the element with the length of the rest of the file meta information (PS3.10 section 7.1)."""


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
