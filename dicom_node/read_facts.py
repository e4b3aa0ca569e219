"""Reads InstanceFacts from a dataset's bytes as they were received: top-level header only, no pixel is decoded.

A value that is missing or malformed becomes None; only a dataset that cannot be walked at all is an error.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.dataset_walk import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    UNDEFINED_LENGTH,
    NotADataset,
    inflate,
    walk,
)
from dicom_node.facts import InstanceFacts
from dicom_node.part10 import HEAD_BYTES, PREAMBLE_BYTES, begins_with_data, begins_with_meta

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Buffer

SPECIFIC_CHARACTER_SET = 0x00080005
PATIENT_ID = 0x00100020
ISSUER_OF_PATIENT_ID = 0x00100021
ESCAPE = b"\x1b"
"""Begins a switch of the character set (ISO 2022), after which seven-bit bytes need not be ASCII."""
MAX_TEXT = 256
"""Longer text is cut; every attribute read here has at most 64 characters by its VR."""


def _text(value: bytes, encodings: list[str]) -> str | None:
    if value.isascii() and ESCAPE not in value:
        text = value.decode("ascii")
    else:
        try:
            text = decode_bytes(value, encodings, set())
        except (LookupError, ValueError):
            text = value.decode("ascii", "replace")
    return text.replace("\0", " ").strip()[:MAX_TEXT] or None


def _texts(value: bytes, encodings: list[str]) -> tuple[str, ...]:
    text = _text(value, encodings)
    return tuple(part.strip() for part in text.split("\\")) if text else ()


def _first_text(value: bytes, encodings: list[str]) -> str | None:
    parts = _texts(value, encodings)
    return parts[0] or None if parts else None


def _uid(value: bytes, _encodings: list[str]) -> str | None:
    return value.split(b"\\")[0].strip(b"\0 ").decode("ascii", "replace") or None


def _integer(value: bytes, _encodings: list[str]) -> int | None:
    try:
        number = int(value.split(b"\\")[0].strip(b"\0 "))
    except ValueError:
        return None
    return number if -(2**31) <= number < 2**31 else None


def _unsigned_short(value: bytes, _encodings: list[str]) -> int | None:
    return int(struct.unpack_from("<H", value)[0]) if len(value) >= 2 else None


def _is_lossy(value: bytes, _encodings: list[str]) -> bool | None:
    return value.strip(b"\0 ") == b"01" or None


def _decimal(value: bytes, encodings: list[str]) -> float | None:
    numbers = _decimals(value.split(b"\\")[0], encodings)
    return numbers[0] if numbers else None


def _decimals(value: bytes, _encodings: list[str], *, count: int = 1) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(part.strip(b"\0 ")) for part in value.split(b"\\"))
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _vector(count: int) -> Callable[[bytes, list[str]], tuple[float, ...] | None]:
    return lambda value, encodings: _decimals(value, encodings, count=count)


FIELDS: dict[int, tuple[str, Callable[[bytes, list[str]], Any]]] = {
    0x00080008: ("image_type", _texts),
    0x00080016: ("sop_class_uid", _uid),
    0x00080018: ("sop_instance_uid", _uid),
    0x00080060: ("modality", _first_text),
    0x00080070: ("manufacturer", _text),
    0x00081030: ("study_description", _text),
    0x0008103E: ("series_description", _text),
    0x00180010: ("contrast_bolus_agent", _text),
    0x00180015: ("body_part_examined", _first_text),
    0x00180050: ("slice_thickness_mm", _decimal),
    0x00181030: ("protocol_name", _text),
    0x00181210: ("convolution_kernel", _text),
    0x0020000D: ("study_instance_uid", _uid),
    0x0020000E: ("series_instance_uid", _uid),
    0x00200011: ("series_number", _integer),
    0x00200032: ("position_lps", _vector(3)),
    0x00200037: ("orientation_lps", _vector(6)),
    0x00280010: ("rows", _unsigned_short),
    0x00280011: ("columns", _unsigned_short),
    0x00280030: ("pixel_spacing_mm", _vector(2)),
    0x00282110: ("lossy", _is_lossy),
}
OTHER_TAGS = frozenset({SPECIFIC_CHARACTER_SET, PATIENT_ID, ISSUER_OF_PATIENT_ID})
REQUIRED = ("sop_class_uid", "sop_instance_uid", "study_instance_uid", "series_instance_uid")


def read_facts(data: Buffer, transfer_syntax_uid: str, *, start: int = 0) -> InstanceFacts:
    """The facts of the dataset that begins at `start` of `data`.

    Raises NotADataset when the bytes cannot be walked, end too early, or lack one of the four UIDs.
    """
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data, start = inflate(memoryview(data)[start:]), 0
    values = _wanted_values(memoryview(data), transfer_syntax_uid, start)
    encodings = _encodings(values.get(SPECIFIC_CHARACTER_SET, b""))
    facts = {name: convert(values[tag], encodings) for tag, (name, convert) in FIELDS.items() if tag in values}
    for name in REQUIRED:
        if not facts.get(name):
            raise NotADataset(f"{name} is missing")
    return InstanceFacts(
        transfer_syntax_uid=transfer_syntax_uid,
        patient_digest=_patient_digest(values),
        **facts,
    )


def facts_of_file(path: Path) -> InstanceFacts | None:
    """The facts of a DICOM file (PS3.10), or None when it is none. Raises OSError."""
    try:
        with path.open("rb") as file:
            data = map_file(file)
        transfer_syntax_uid, start = read_file_head(data)
        return read_facts(data, transfer_syntax_uid, start=start)
    except NotADataset:
        return None


def map_file(file: BinaryIO) -> mmap.mmap:
    """The file's bytes without reading those that nobody looks at. Raises NotADataset when it is empty.

    Nobody closes the map: it goes with its last view, which an exception's traceback may hold for a while.
    """
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise NotADataset("the file is empty") from error


def read_file_head(data: mmap.mmap | bytes) -> tuple[str, int]:
    """Transfer Syntax UID of a DICOM file and where its dataset begins. Raises NotADataset."""
    begins = bytes(data[:PREAMBLE_BYTES])
    if begins[128:] != b"DICM" and begins_with_data(begins):
        return (ExplicitVRLittleEndian if begins[4:6].isalpha() else ImplicitVRLittleEndian), 0
    first = PREAMBLE_BYTES if begins[128:] == b"DICM" else 0
    if first == 0 and not begins_with_meta(begins):
        raise NotADataset("not a DICOM file: neither a preamble nor a first element")
    rest = first + HEAD_BYTES - PREAMBLE_BYTES
    if len(data) < rest or bytes(data[first : first + 8]) != b"\x02\0\0\0UL\x04\0":
        raise NotADataset("the file meta information does not begin with its group length")
    start = rest + int(struct.unpack_from("<L", data, rest - 4)[0])
    meta = bytes(data[rest:start])
    for element in walk(meta, ExplicitVRLittleEndian):
        if element.tag == 0x00020010:
            return meta[element.offset : element.offset + element.length].rstrip(b"\0 ").decode(
                "ascii", "replace"
            ), start
    raise NotADataset("the file meta information has no Transfer Syntax UID")


def _wanted_values(view: memoryview, transfer_syntax_uid: str, start: int) -> dict[int, bytes]:
    values = {}
    for tag, _, offset, length in walk(view, transfer_syntax_uid, start=start):
        if (tag in FIELDS or tag in OTHER_TAGS) and length != UNDEFINED_LENGTH:
            values[tag] = bytes(view[offset : offset + length])
    return values


def _encodings(specific_character_set: bytes) -> list[str]:
    terms = [term.strip() for term in specific_character_set.decode("ascii", "replace").rstrip("\0 ").split("\\")]
    try:
        return convert_encodings(terms if any(terms) else None)
    except (LookupError, ValueError):
        return ["latin_1"]


def _patient_digest(values: dict[int, bytes]) -> str:
    parts = (values.get(tag, b"").strip(b"\0 ") for tag in (PATIENT_ID, ISSUER_OF_PATIENT_ID))
    return hashlib.sha256(b"\\".join(parts)).hexdigest()
