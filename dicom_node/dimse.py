"""DIMSE command sets: read from and written to Implicit VR Little Endian (PS3.7 section 6.3.1 and Annex E)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

NO_DATASET = 0x0101
MAX_COMMAND_BYTES = 65536
"""A command set is some hundred bytes; a peer that sends more than this is not speaking DIMSE."""

GROUP_LENGTH = 0x0000
AFFECTED_SOP_CLASS_UID = 0x0002
REQUESTED_SOP_CLASS_UID = 0x0003
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_RESPONDED_TO = 0x0120
COMMAND_DATASET_TYPE = 0x0800
STATUS = 0x0900
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000
REQUESTED_SOP_INSTANCE_UID = 0x1001
EVENT_TYPE_ID = 0x1002
ACTION_TYPE_ID = 0x1008


class CommandField(IntEnum):
    """Command Field (0000,0100): PS3.7 Table E.1-1."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    N_ACTION_RQ = 0x0130
    C_CANCEL_RQ = 0x0FFF


class NotACommand(Exception):
    """The bytes are no command set."""


@dataclass(frozen=True)
class Command:
    """A request that a peer sent; `elements` holds every element of group 0000 by its element number.

    The UIDs are the affected ones or, where the service has those instead (N-ACTION), the requested ones.
    """

    field: int
    message_id: int
    has_dataset: bool
    sop_class_uid: str
    sop_instance_uid: str
    elements: dict[int, bytes]

    def us(self, element: int) -> int | None:
        """An unsigned short of the command set, None when it is not there."""
        value = self.elements.get(element, b"")
        return _us(value) if len(value) == 2 else None


def read_command(data: bytes) -> Command:
    """The command set in `data`. Raises NotACommand."""
    elements = _elements(data)
    try:
        field = _us(elements[COMMAND_FIELD])
        has_dataset = _us(elements[COMMAND_DATASET_TYPE]) != NO_DATASET
        message_id = _us(elements[MESSAGE_ID]) if MESSAGE_ID in elements else 0
    except (KeyError, struct.error) as error:
        raise NotACommand("Command Field or Command Data Set Type is missing") from error
    sop_class = elements.get(AFFECTED_SOP_CLASS_UID, elements.get(REQUESTED_SOP_CLASS_UID, b""))
    sop_instance = elements.get(AFFECTED_SOP_INSTANCE_UID, elements.get(REQUESTED_SOP_INSTANCE_UID, b""))
    return Command(
        field=field,
        message_id=message_id,
        has_dataset=has_dataset,
        sop_class_uid=_uid(sop_class),
        sop_instance_uid=_uid(sop_instance),
        elements=elements,
    )


def write_response(request: Command, status: int, *, comment: str = "", has_dataset: bool = False) -> bytes:
    """The command set that answers `request`; `comment` (64 characters of ASCII) says why it failed, without PHI."""
    body = b"".join(
        (
            _element(AFFECTED_SOP_CLASS_UID, _padded(request.sop_class_uid)) if request.sop_class_uid else b"",
            _element(COMMAND_FIELD, struct.pack("<H", request.field | 0x8000)),
            _element(MESSAGE_ID_RESPONDED_TO, struct.pack("<H", request.message_id)),
            _element(COMMAND_DATASET_TYPE, struct.pack("<H", 0 if has_dataset else NO_DATASET)),
            _element(STATUS, struct.pack("<H", status)),
            _element(ERROR_COMMENT, _padded(comment[:64], b" ")) if comment else b"",
            _element(AFFECTED_SOP_INSTANCE_UID, _padded(request.sop_instance_uid)) if request.sop_instance_uid else b"",
        )
    )
    return _element(GROUP_LENGTH, struct.pack("<L", len(body))) + body


def write_event_report(message_id: int, *, sop_class_uid: str, sop_instance_uid: str, event_type: int) -> bytes:
    """The command set of an N-EVENT-REPORT request with a dataset (PS3.7 section 10.3.1.1)."""
    body = b"".join(
        (
            _element(AFFECTED_SOP_CLASS_UID, _padded(sop_class_uid)),
            _element(COMMAND_FIELD, struct.pack("<H", CommandField.N_EVENT_REPORT_RQ)),
            _element(MESSAGE_ID, struct.pack("<H", message_id)),
            _element(COMMAND_DATASET_TYPE, struct.pack("<H", 0)),
            _element(AFFECTED_SOP_INSTANCE_UID, _padded(sop_instance_uid)),
            _element(EVENT_TYPE_ID, struct.pack("<H", event_type)),
        )
    )
    return _element(GROUP_LENGTH, struct.pack("<L", len(body))) + body


def _elements(data: bytes) -> dict[int, bytes]:
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise NotACommand("cut off in an element's header")
        group, element, length = struct.unpack_from("<HHL", data, at)
        at += 8
        if group != 0 or at + length > len(data):
            raise NotACommand("an element outside group 0000, or longer than the command set")
        elements[element] = data[at : at + length]
        at += length
    return elements


def _us(value: bytes) -> int:
    return int(struct.unpack("<H", value)[0])


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def _padded(text: str, pad: bytes = b"\0") -> bytes:
    value = text.encode("ascii", "replace")
    return value + pad if len(value) % 2 else value


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value
