"""The datasets of storage commitment (PS3.4 Annex J): what is asked in an N-ACTION, reported in an N-EVENT-REPORT.

    SCU  --N-ACTION: transaction UID, instances-->  SCP
    SCU  <--N-EVENT-REPORT: the same UID, instances it keeps, instances it does not keep and why--  SCP

The report comes on the same association or, at any later time, on a new one that the SCP opens (with the roles
reversed). This node speaks both sides: for its results as SCU, for what senders gave it as SCP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

USABLE_UID = re.compile(r"[0-9][0-9.]{0,63}")
"""As lenient as the archive: the field has UIDs with leading zeros, and a request refused for one is never settled."""
PUSH_MODEL = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP Class."""
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its well-known SOP Instance."""
REQUEST_COMMITMENT = 1
"""Action Type ID (PS3.4 Table J.3-1)."""
ALL_COMMITTED, FAILURES_EXIST = 1, 2
"""Event Type IDs (PS3.4 Table J.3-2)."""


class FailureReason(IntEnum):
    """Failure Reason (0008,1197): PS3.3 C.14.1.1."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION_UID = 0x0131
    RESOURCE_LIMITATION = 0x0213


@dataclass(frozen=True)
class Reference:
    """An instance, as commitment names it."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Request:
    """Action Information: PS3.4 Table J.3-1."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Report:
    """Event Information: PS3.4 Table J.3-2. Instances that were asked for and are in neither part are still open."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...] = ()
    """With the Failure Reason, which need not be one of `FailureReason`."""

    @property
    def event_type(self) -> int:
        """Event Type ID."""
        return FAILURES_EXIST if self.failed else ALL_COMMITTED


class NotCommitment(Exception):
    """The dataset is none of storage commitment; the sentence says why, without any value of it."""


def request_dataset(request: Request) -> Dataset:
    """What goes out in an N-ACTION."""
    dataset = Dataset()
    dataset.TransactionUID = request.transaction_uid
    dataset.ReferencedSOPSequence = [_item(reference) for reference in request.references]
    return dataset


def report_dataset(report: Report) -> Dataset:
    """What goes out in an N-EVENT-REPORT; an empty sequence is left out (its type is 1C)."""
    dataset = Dataset()
    dataset.TransactionUID = report.transaction_uid
    if report.committed:
        dataset.ReferencedSOPSequence = [_item(reference) for reference in report.committed]
    if report.failed:
        dataset.FailedSOPSequence = [_item(reference) for reference, _ in report.failed]
        for item, (_, reason) in zip(dataset.FailedSOPSequence, report.failed, strict=True):
            item.FailureReason = reason
    return dataset


def read_request(dataset: Dataset) -> Request:
    """What came in an N-ACTION. Raises NotCommitment."""
    references = tuple(_reference(item) for item in _items(dataset, "ReferencedSOPSequence"))
    if not references:
        raise NotCommitment("no Referenced SOP Sequence")
    return Request(_transaction_uid(dataset), references)


def read_report(dataset: Dataset) -> Report:
    """What came in an N-EVENT-REPORT. Raises NotCommitment."""
    return Report(
        _transaction_uid(dataset),
        tuple(_reference(item) for item in _items(dataset, "ReferencedSOPSequence")),
        tuple((_reference(item), _reason(item)) for item in _items(dataset, "FailedSOPSequence")),
    )


def decode(data: bytes, transfer_syntax_uid: str) -> Dataset:
    """A dataset as it came. Raises NotCommitment."""
    syntax = UID(transfer_syntax_uid)
    try:
        dataset = read_dataset(BytesIO(data), syntax.is_implicit_VR, syntax.is_little_endian)
        dataset.walk(lambda *_: None)  # decodes every value now, where it can be caught
    # pydicom raises whatever its reading code runs into.
    except Exception as error:
        raise NotCommitment("the dataset cannot be decoded") from error
    return dataset


def encode(dataset: Dataset, transfer_syntax_uid: str) -> bytes:
    """The dataset's bytes for the wire (an uncompressed transfer syntax)."""
    buffer = DicomBytesIO()
    syntax = UID(transfer_syntax_uid)
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


def _items(dataset: Dataset, keyword: str) -> Iterable[Dataset]:
    items = dataset.get(keyword) or ()
    if items and not isinstance(items, Sequence):
        raise NotCommitment(f"its {keyword} is no sequence")
    return items


def _reference(item: Dataset) -> Reference:
    uids = item.get("ReferencedSOPClassUID"), item.get("ReferencedSOPInstanceUID")
    if not all(uids):
        raise NotCommitment("a reference without class or instance UID")
    return Reference(str(uids[0]), str(uids[1]))


def _reason(item: Dataset) -> int:
    """Failure Reason; what is none says no more than that it failed."""
    reason = item.get("FailureReason")
    return int(reason) if isinstance(reason, int) and 0 < reason <= 0xFFFF else FailureReason.PROCESSING_FAILURE


def _transaction_uid(dataset: Dataset) -> str:
    uid = str(dataset.get("TransactionUID") or "")
    if not USABLE_UID.fullmatch(uid):
        raise NotCommitment("no usable Transaction UID")
    return uid
