"""DIMSE statuses that this node answers with, each with its source."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Status (0000,0900) of a response: PS3.7 Annex C and PS3.4 Table B.2-1."""

    SUCCESS = 0x0000
    """The file is durable and its row is committed."""
    PROCESSING_FAILURE = 0x0110
    """PS3.7 C.5.21: an error in this node; it is logged."""
    DUPLICATE_SOP_INSTANCE = 0x0111
    """PS3.7 C.5.8: same UID, other bytes, and the policy is `refuse`."""
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    """PS3.7 C.5.19: an N-ACTION or N-EVENT-REPORT for another instance than the well-known one."""
    NO_SUCH_EVENT_TYPE = 0x0113
    """PS3.7 C.5.18: a report of a type that storage commitment does not have."""
    INVALID_ARGUMENT_VALUE = 0x0115
    """PS3.7 C.5.10: no usable UIDs, or a report of a transaction that this node never asked for."""
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    """PS3.7 C.5.6: the command names another SOP class than its presentation context."""
    NO_SUCH_ACTION_TYPE = 0x0123
    """PS3.7 C.5.24: an N-ACTION of a type that storage commitment does not have."""
    UNRECOGNIZED_OPERATION = 0x0211
    """PS3.7 C.5.23: a DIMSE service that this node does not offer."""
    OUT_OF_RESOURCES = 0xA700
    """PS3.4 B.2.3: no space, or the database cannot take a row now; sending again later may succeed."""
    DATASET_MISMATCH = 0xA900
    """PS3.4 B.2.3: the dataset is of another SOP class or SOP instance than the command says."""
    CANNOT_UNDERSTAND = 0xC000
    """PS3.4 B.2.3: not a dataset, or one without usable UIDs."""
