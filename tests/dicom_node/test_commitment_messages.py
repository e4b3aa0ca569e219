"""Datasets of storage commitment as peers with bad manners write them: what can be read is taken, the rest refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node import commitment_messages as messages
from dicom_node.commitment_messages import FailureReason, NotCommitment, Reference, Report

KEPT, LOST = Reference("1.2.840.10008.5.1.4.1.1.66.4", "2.25.1"), Reference("1.2.840.10008.5.1.4.1.1.88.34", "2.25.2")
FAILURE_REASON, REFERENCED, FAILED = 0x00081197, 0x00081199, 0x00081198


def told(reason: int = 0x0112) -> Dataset:
    """A report as it should be."""
    return messages.report_dataset(Report("2.25.9", (KEPT,), ((LOST, reason),)))


def read(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Report:
    """As it comes in from the wire."""
    return messages.read_report(messages.decode(messages.encode(dataset, syntax), syntax))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_report_is_read_as_it_was_written(syntax: str) -> None:
    """With a reason that the standard does not know."""
    assert read(told(0xC123), syntax) == Report("2.25.9", (KEPT,), ((LOST, 0xC123),))


@pytest.mark.parametrize(
    ("vr", "value"),
    [("US", [0x0112, 0x0110]), ("SH", "no such object"), ("US", None), ("LO", ["a", "b"]), ("SL", -1), ("FD", 1.5)],
)
def test_a_reason_that_is_none_counts_as_a_processing_failure(vr: str, value: object) -> None:
    """What matters is that the destination does not keep it."""
    dataset = told()
    dataset.FailedSOPSequence[0][FAILURE_REASON] = DataElement(FAILURE_REASON, vr, value)
    assert read(dataset) == Report("2.25.9", (KEPT,), ((LOST, FailureReason.PROCESSING_FAILURE),))


@pytest.mark.parametrize("tag", [REFERENCED, FAILED])
@pytest.mark.parametrize(("vr", "value"), [("UI", "2.25.1"), ("LO", "none"), ("US", 3)])
def test_a_list_that_is_no_sequence_is_refused(tag: int, vr: str, value: object) -> None:
    """The destination is told so, and asked by C-FIND in the end."""
    dataset = told()
    dataset[tag] = DataElement(tag, vr, value)
    with pytest.raises(NotCommitment, match="no sequence"):
        read(dataset)


def _no_class(dataset: Dataset) -> None:
    del dataset.ReferencedSOPSequence[0].ReferencedSOPClassUID


def _two_transactions(dataset: Dataset) -> None:
    dataset.TransactionUID = ["2.25.9", "2.25.10"]


@pytest.mark.parametrize("spoil", [_no_class, _two_transactions])
def test_what_names_no_transaction_or_instance_is_refused(spoil: Callable[[Dataset], None]) -> None:
    """Nothing of it can be told apart from what was asked."""
    dataset = told()
    spoil(dataset)
    with pytest.raises(NotCommitment):
        read(dataset)
