"""The receiving of one DIMSE request's dataset: into the archive for C-STORE, into memory for everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from dicom_node.dimse import STATUS, Command
from dicom_node.errors import ArchiveError
from dicom_node.intake import Outcome, StoreRequest
from dicom_node.negotiation import Context
from dicom_node.part10 import file_head
from dicom_node.statuses import Status
from dicom_node.upper_layer import AbortReason, ProtocolError

if TYPE_CHECKING:
    from dicom_node.admission import Admission
    from dicom_node.archive import Archive, Spool
    from dicom_node.config_sections import ListenerConfig
    from dicom_node.intake import Intake
    from dicom_node.intake_rows import AssociationRecord

log = structlog.get_logger()

MAX_DATASET_BYTES = 16 * 1024 * 1024
"""Of requests other than C-STORE: a storage commitment of ten thousand instances is some 2 MiB."""


@dataclass(frozen=True)
class Event:
    """An N-EVENT-REPORT that this node has for a peer."""

    sop_class_uid: str
    sop_instance_uid: str
    event_type: int
    dataset: bytes


class Notice(Protocol):
    """Something that the peer is to be told after the answer, on the same association if it keeps that open."""

    def event(self) -> Event | None:
        """What to tell it now; None when there is nothing (any more). May be called again before it is sent."""

    def answered(self, status: int) -> None:
        """What the peer answered."""

    def abandon(self) -> None:
        """The association ended before the peer answered: somebody else must tell it."""


@dataclass(frozen=True)
class Answer:
    """What goes back for a request."""

    status: int
    comment: str = ""
    dataset: bytes = b""
    notice: Notice | None = None


@dataclass(frozen=True)
class Request:
    """A whole request other than C-STORE, with who sent it."""

    command: Command
    dataset: bytes
    """Encoded; empty without one."""
    context: Context
    calling_ae_title: str
    peer_address: str


Service = Callable[[Request], Answer]
"""Serves one DIMSE request."""


@dataclass(frozen=True)
class Services:
    """What every association of a listener works with."""

    config: ListenerConfig
    admission: Admission
    archive: Archive
    intake: Intake
    others: Mapping[int, Service] = field(default_factory=dict)
    """DIMSE services beside C-STORE and C-ECHO, by Command Field."""
    other_sop_classes: tuple[str, ...] = ()
    """What the other services are offered for."""


class Reception(Protocol):
    """One request whose dataset is coming in."""

    command: Command

    def write(self, piece: memoryview) -> None:
        """The next piece of the dataset, valid during the call only."""

    def finish(self) -> Answer | None:
        """The dataset is whole (or there is none): serve the request. None when nothing is to be answered."""

    def abandon(self) -> None:
        """The association broke: leave nothing behind."""


class DatasetReception:
    """Keeps the dataset in memory and hands it to a service."""

    def __init__(self, command: Command, context: Context, record: AssociationRecord, service: Service) -> None:
        self.command = command
        self._context = context
        self._record = record
        self._service = service
        self._dataset = bytearray()

    def write(self, piece: memoryview) -> None:
        """See Reception."""
        if len(self._dataset) + len(piece) > MAX_DATASET_BYTES:
            raise ProtocolError("a dataset of absurd length", AbortReason.INVALID_PARAMETER)
        self._dataset += piece

    def finish(self) -> Answer:
        """See Reception."""
        record = self._record
        request = Request(
            self.command, bytes(self._dataset), self._context, record.calling_ae_title, record.peer_address
        )
        return self._service(request)

    def abandon(self) -> None:
        """See Reception."""
        self._dataset.clear()


class ResponseReception:
    """A peer's response to a notice. Its status is all that matters; a dataset is read and thrown away."""

    def __init__(self, command: Command, notice: Notice) -> None:
        self.command = command
        self._notice = notice

    def write(self, piece: memoryview) -> None:
        """See Reception."""

    def finish(self) -> None:
        """See Reception."""
        status = self.command.us(STATUS)
        if status is None:
            raise ProtocolError("a response without status", AbortReason.INVALID_PARAMETER)
        self._notice.answered(status)

    def abandon(self) -> None:
        """See Reception."""
        self._notice.abandon()


class StoreReception:
    """C-STORE: streams the dataset into the archive and lets intake decide.

    A request that fails early is still read to its end, since the answer can only follow the dataset.
    """

    def __init__(self, command: Command, context: Context, record: AssociationRecord, services: Services) -> None:
        self.command = command
        self._context = context
        self._record = record
        self._services = services
        self._spool: Spool | None = None
        self._head_bytes = 0
        self._size_bytes = 0
        self._failed = self._refuse()
        if self._failed is None:
            self._open()

    def write(self, piece: memoryview) -> None:
        """See Reception."""
        self._size_bytes += len(piece)
        if self._spool is not None:
            if self._size_bytes > self._services.config.max_object_bytes:
                self._fail(Outcome(Status.OUT_OF_RESOURCES, "the object is larger than this node takes"))
                return
            try:
                self._spool.write(piece)
            except ArchiveError as error:
                self._fail(Outcome(Status.OUT_OF_RESOURCES, str(error)))
        elif self._size_bytes > 2 * self._services.config.max_object_bytes:
            raise ProtocolError("a dataset without end", AbortReason.INVALID_PARAMETER)

    def finish(self) -> Answer:
        """See Reception."""
        outcome = self._failed
        if self._spool is not None:
            request = StoreRequest(
                self.command.sop_class_uid,
                self.command.sop_instance_uid,
                self._context.transfer_syntax_uid,
                self._head_bytes,
            )
            outcome = self._services.intake.store(self._spool, request, self._record)
        outcome = outcome or Outcome(Status.PROCESSING_FAILURE)
        if outcome.status is Status.SUCCESS:
            self._record.stored_count += 1
        else:
            self._record.refused_count += 1
            log.warning(
                "store refused",
                peer=self._record.peer_address,
                calling_ae_title=self._record.calling_ae_title,
                status=f"0x{outcome.status:04X}",
                why=outcome.comment,
            )
        return Answer(outcome.status, outcome.comment)

    def abandon(self) -> None:
        """See Reception."""
        if self._spool is not None:
            self._spool.discard()

    def _refuse(self) -> Outcome | None:
        """What can be said before the dataset has come."""
        if self.command.sop_class_uid != self._context.sop_class_uid:
            return Outcome(Status.SOP_CLASS_NOT_SUPPORTED, "not the SOP class of the presentation context")
        if not self.command.has_dataset:
            return Outcome(Status.CANNOT_UNDERSTAND, "a C-STORE without a dataset")
        if not self._services.admission.has_space():
            return Outcome(Status.OUT_OF_RESOURCES, "free space is below the watermark")
        return None

    def _open(self) -> None:
        head = file_head(
            sop_class_uid=self.command.sop_class_uid,
            sop_instance_uid=self.command.sop_instance_uid,
            transfer_syntax_uid=self._context.transfer_syntax_uid,
            source_ae_title=self._record.calling_ae_title,
        )
        self._head_bytes = len(head)
        try:
            self._spool = self._services.archive.spool(head)
        except ArchiveError as error:
            self._failed = Outcome(Status.OUT_OF_RESOURCES, str(error))

    def _fail(self, outcome: Outcome) -> None:
        self._failed = outcome
        self.abandon()
        self._spool = None
