"""Steps through the top level of an encoded dataset without decoding it (PS3.5 sections 7.1 and 7.5, Annex A).

Some microseconds an element, no copy of what is skipped, and an answer to the one question a receiver must ask:
do these bytes end where they say they end?
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_DELIMITER = 0xFFFEE00D
SEQUENCE_DELIMITER = 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00009
PIXEL_DATA_TAGS = frozenset({PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA})

SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # PS3.5 Table 7.1-2: 16-bit length
)
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # PS3.5 Table 7.1-1: 32-bit length
MAX_DEPTH = 64
MAX_INFLATED_BYTES = 2 * 1024**3
"""A deflated dataset that grows beyond this is refused: it is a mistake or an attack."""
_INFLATE_STEP_BYTES = 1024 * 1024


class NotADataset(Exception):
    """The bytes are no dataset of that transfer syntax, or end too early."""


class Element(NamedTuple):
    """Where a top-level element lies: its value is `data[offset:offset + length]`."""

    tag: int
    vr: bytes
    """Empty in Implicit VR."""
    offset: int
    length: int
    """0xFFFFFFFF when undefined."""


def walk(data: Buffer, transfer_syntax_uid: str, *, start: int = 0) -> Iterator[Element]:
    """The top-level elements of `data` from `start`, in file order, pixel data last.

    Raises NotADataset when an element is malformed or reaches beyond the end. What follows the pixel data (padding) is
    not looked at. The dataset must be inflated already.
    """
    view = memoryview(data)
    end, at = len(view), start
    explicit = transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN
    while at < end:
        if not any(view[at : at + 8]):
            if any(view[at:end]):  # looked at once: what follows may be long
                raise NotADataset("zeros where an element must be")
            return  # zero padding
        element, value = _header(view, at, end, explicit=explicit)
        tag, length = element.tag, element.length
        if length != UNDEFINED_LENGTH:
            at = value + length
            if at > end:
                raise NotADataset("an element reaches beyond the end of the dataset")
        elif tag in PIXEL_DATA_TAGS:
            at = _skip_fragments(view, value, end)
        else:
            at = _skip_sequence(view, value, end, explicit=explicit and element.vr != b"UN", depth=0)
        yield element
        if tag == PIXEL_DATA:
            return


def inflate(data: Buffer) -> bytes:
    """The dataset of Deflated Explicit VR Little Endian (PS3.5 section A.5). Raises NotADataset."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces, size = [], 0
    pending: Buffer = data
    try:
        while not inflater.eof:
            piece = inflater.decompress(pending, _INFLATE_STEP_BYTES)
            pending = inflater.unconsumed_tail
            size += len(piece)
            if size > MAX_INFLATED_BYTES:
                raise NotADataset("the deflated dataset is too large")
            if not piece and not pending:
                break
            pieces.append(piece)
    except zlib.error as error:
        raise NotADataset("not a deflated dataset") from error
    if not inflater.eof:
        raise NotADataset("the deflated dataset is cut off")
    return b"".join(pieces)


def _header(view: memoryview, at: int, end: int, *, explicit: bool) -> tuple[Element, int]:
    """The element at `at` and where its value begins."""
    if at + 8 > end:
        raise NotADataset("cut off in an element's header")
    group, number, length = struct.unpack_from("<HHL", view, at)
    tag = group << 16 | number
    if not explicit or group == 0xFFFE:
        return Element(tag, b"", at + 8, length), at + 8
    vr = bytes(view[at + 4 : at + 6])
    if vr in SHORT_VRS:
        length = view[at + 6] | view[at + 7] << 8
        return Element(tag, vr, at + 8, length), at + 8
    if vr in LONG_VRS or (vr.isalpha() and vr.isupper()):
        if at + 12 > end:
            raise NotADataset("cut off in an element's header")
        (length,) = struct.unpack_from("<L", view, at + 8)
        return Element(tag, vr, at + 12, length), at + 12
    raise NotADataset("no value representation where one must be")


def _skip_sequence(view: memoryview, at: int, end: int, *, explicit: bool, depth: int) -> int:
    """Where the sequence of undefined length whose items begin at `at` ends."""
    if depth > MAX_DEPTH:
        raise NotADataset("sequences nested too deeply")
    while True:
        element, at = _header(view, at, end, explicit=False)
        if element.tag == SEQUENCE_DELIMITER:
            return at
        if element.tag != ITEM:
            raise NotADataset("something other than an item in a sequence")
        if element.length != UNDEFINED_LENGTH:
            at += element.length
            if at > end:
                raise NotADataset("an item reaches beyond the end of the dataset")
        else:
            at = _skip_item(view, at, end, explicit=explicit, depth=depth)


def _skip_item(view: memoryview, at: int, end: int, *, explicit: bool, depth: int) -> int:
    """Where the item of undefined length whose elements begin at `at` ends."""
    while True:
        element, at = _header(view, at, end, explicit=explicit)
        if element.tag == ITEM_DELIMITER:
            return at
        if element.length != UNDEFINED_LENGTH:
            at += element.length
            if at > end:
                raise NotADataset("an element reaches beyond the end of the dataset")
        else:
            at = _skip_sequence(view, at, end, explicit=explicit and element.vr != b"UN", depth=depth + 1)


def _skip_fragments(view: memoryview, at: int, end: int) -> int:
    """Where encapsulated pixel data (PS3.5 section A.4) ends."""
    while True:
        element, at = _header(view, at, end, explicit=False)
        if element.tag == SEQUENCE_DELIMITER:
            return at
        if element.tag != ITEM or element.length == UNDEFINED_LENGTH:
            raise NotADataset("something other than a fragment in the pixel data")
        at += element.length
        if at > end:
            raise NotADataset("a fragment reaches beyond the end of the dataset")
