"""A DICOM sender made of bytes, independent of every library: it can say what no decent sender says."""

from __future__ import annotations

import socket
import struct
from typing import Self

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
TIMEOUT_S = 20.0


class RawPeer:
    """A connection to 127.0.0.1; `associate` opens an association with one context per (SOP class, transfer syntax)."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Raw bytes."""
        self.socket.sendall(data)

    def associate(
        self,
        *contexts: tuple[str, str],
        calling: str = "RAW",
        called: str = "ICHNODE",
        version: int = 1,
        application: str = "1.2.840.10008.3.1.1.1",
        max_pdu: int = 16384,
    ) -> tuple[int, bytes]:
        """Context ids are 1, 3, 5 and so on. Type and body of the answer: 2 accepted, 3 rejected, 7 aborted."""
        items = _item(0x10, application.encode())
        for number, (sop_class, syntax) in enumerate(contexts or ((CT, EXPLICIT),)):
            syntaxes = _item(0x30, sop_class.encode()) + _item(0x40, syntax.encode())
            items += _item(0x20, bytes([2 * number + 1, 0, 0, 0]) + syntaxes)
        items += _item(0x50, _item(0x51, struct.pack(">L", max_pdu)) + _item(0x52, b"1.2.3.4"))
        titles = called.ljust(16).encode() + calling.ljust(16).encode()
        body = struct.pack(">HH", version, 0) + titles + b"\0" * 32 + items
        self.send(struct.pack(">BBL", 1, 0, len(body)) + body)
        return self.pdu()

    def pdu(self) -> tuple[int, bytes]:
        """Type and body of the next PDU. Raises EOFError when the peer closed."""
        kind, _, length = struct.unpack(">BBL", self._exactly(6))
        return int(kind), self._exactly(length)

    def response(self) -> dict[int, bytes]:
        """The elements of the next command set, by element number."""
        kind, body = self.pdu()
        assert kind == 4, f"PDU {kind} instead of a response: {body!r}"
        data, at, elements = body[6:], 0, {}
        while at < len(data):
            _, element, length = struct.unpack_from("<HHL", data, at)
            elements[element] = data[at + 8 : at + 8 + length]
            at += 8 + length
        return elements

    def status(self) -> int:
        """The status of the next response."""
        return int(struct.unpack("<H", self.response()[0x0900])[0])

    def store(self, dataset: bytes, uid: str, *, sop_class: str = CT, context: int = 1, pdv_bytes: int = 16000) -> int:
        """A whole C-STORE. Its status."""
        self.send(command_pdu(0x0001, sop_class=sop_class, uid=uid, context=context))
        self.dataset(dataset, context=context, pdv_bytes=pdv_bytes)
        return self.status()

    def dataset(self, dataset: bytes, *, context: int = 1, pdv_bytes: int = 16000, whole: bool = True) -> None:
        """P-DATA with the dataset; unless `whole`, the last piece is not marked as the last."""
        for start in range(0, max(len(dataset), 1), pdv_bytes):
            is_last = whole and start + pdv_bytes >= len(dataset)
            self.send(pdv(dataset[start : start + pdv_bytes], context=context, control=2 if is_last else 0))

    def echo(self) -> int:
        """C-ECHO on context 1. Its status."""
        self.send(command_pdu(0x0030, sop_class=VERIFICATION, uid="", has_dataset=False))
        return self.status()

    def release(self) -> int:
        """A-RELEASE. Type of the answer, 6 when all is well."""
        self.send(struct.pack(">BBLL", 5, 0, 4, 0))
        return self.pdu()[0]

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


def pdv(data: bytes, *, context: int = 1, control: int) -> bytes:
    """One P-DATA-TF with one presentation data value."""
    return struct.pack(">BBLLBB", 4, 0, len(data) + 6, len(data) + 2, context, control) + data


def command_pdu(field: int, *, sop_class: str, uid: str, context: int = 1, has_dataset: bool = True) -> bytes:
    """A P-DATA-TF with a request's command set."""
    elements = _element(0x0002, _even(sop_class)) + _element(0x0100, struct.pack("<H", field))
    elements += _element(0x0110, struct.pack("<H", 7)) + _element(0x0700, struct.pack("<H", 0))
    elements += _element(0x0800, struct.pack("<H", 0 if has_dataset else 0x0101))
    elements += _element(0x1000, _even(uid)) if uid else b""
    return pdv(_element(0, struct.pack("<L", len(elements))) + elements, context=context, control=3)


def ct_dataset(
    uid: str, *, sop_class: str = CT, study: str = "1.2.3", series: str = "1.2.3.4", pixels: bytes = bytes(512)
) -> bytes:
    """A small CT in Explicit VR Little Endian, byte by byte."""
    elements = [
        (0x0008, 0x0016, b"UI", _even(sop_class)),
        (0x0008, 0x0018, b"UI", _even(uid)),
        (0x0008, 0x0060, b"CS", b"CT"),
        (0x0010, 0x0010, b"PN", b"Secret^Person "),
        (0x0010, 0x0020, b"LO", b"ID-SECRET "),
        (0x0020, 0x000D, b"UI", _even(study)),
        (0x0020, 0x000E, b"UI", _even(series)),
    ]
    head = b"".join(struct.pack("<HH2sH", g, e, vr, len(v)) + v for g, e, vr, v in elements if v)
    return head + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, len(pixels)) + pixels


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _even(text: str) -> bytes:
    value = text.encode()
    return value + b"\0" if len(value) % 2 else value


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value
