"""Storage commitment at the listener: peers that ask this node to keep instances, and destinations that report.

N-ACTION        a peer asks: its row is committed, then 0x0000; told on the same association if it stays, else by
the reporter on a new one
N-EVENT-REPORT  a destination tells what it keeps of this node's results, on an association that it opened
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import commitment_messages as messages
from dicom_node import confirmer, owed_reports
from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.db import Database
from dicom_node.dimse import ACTION_TYPE_ID, EVENT_TYPE_ID, CommandField
from dicom_node.reception import Answer, Event, Request, Service
from dicom_node.statuses import Status

log = structlog.get_logger()

SOP_CLASSES = (messages.PUSH_MODEL,)


def services(database: Database, archive: Archive, config: Config) -> Mapping[int, Service]:
    """What the listener serves for `SOP_CLASSES`, by Command Field."""
    return {
        CommandField.N_ACTION_RQ: _guarded(lambda request: _ask(request, database, archive, config)),
        CommandField.N_EVENT_REPORT_RQ: _guarded(lambda request: _report(request, database, config)),
    }


class TheReport:
    """A Notice: the report that a peer is owed, for the association on which it asked."""

    def __init__(
        self, owed_id: int, database: Database, archive: Archive, config: Config, *, transfer_syntax_uid: str
    ) -> None:
        self._owed_id = owed_id
        self._database = database
        self._archive = archive
        self._lease_s = config.delivery.lease_s
        self._transfer_syntax_uid = transfer_syntax_uid
        self._owed: owed_reports.Owed | None = None
        self._report: messages.Report | None = None

    def event(self) -> Event | None:
        """See Notice."""
        try:
            self._owed = self._owed or owed_reports.claim(self._database, self._owed_id, lease_s=self._lease_s)
            if self._owed is None:
                return None
            self._report = owed_reports.judge(self._database, self._archive, self._owed.request)
        except SQLAlchemyError as error:
            log.error("database unreachable, the report waits for it", error=type(error).__name__)
            return None
        dataset = messages.encode(messages.report_dataset(self._report), self._transfer_syntax_uid)
        return Event(messages.PUSH_MODEL, messages.PUSH_MODEL_INSTANCE, self._report.event_type, dataset)

    def answered(self, status: int) -> None:
        """See Notice."""
        if self._owed is None or self._report is None or status != Status.SUCCESS:
            log.warning("a commitment report was not taken", status=f"0x{status:04X}")
            self.abandon()
            return
        try:
            owed_reports.reported(self._database, self._owed, self._report)
        except SQLAlchemyError as error:  # its lease runs out, and the peer hears it twice
            log.error("database unreachable, the peer will be told again", error=type(error).__name__)

    def abandon(self) -> None:
        """See Notice."""
        try:
            owed_reports.release(self._database, self._owed, self._owed_id)
        except SQLAlchemyError as error:  # its time comes by itself
            log.error("database unreachable, the peer will be told later", error=type(error).__name__)


def _guarded(serve: Callable[[Request], Answer]) -> Service:
    """A database that is away is an answer, not the end of the association: the peer tries again."""

    def guarded(request: Request) -> Answer:
        try:
            return _misdirected(request) or serve(request)
        except SQLAlchemyError as error:
            log.error("database unreachable, commitment is answered 0x0110", error=type(error).__name__)
            return Answer(Status.PROCESSING_FAILURE, "the database is not reachable")
        except messages.NotCommitment as error:
            log.warning("a storage commitment message that cannot be used", peer=request.peer_address, why=str(error))
            return Answer(Status.INVALID_ARGUMENT_VALUE, str(error))

    return guarded


def _misdirected(request: Request) -> Answer | None:
    """What can be said without looking at the dataset."""
    if messages.PUSH_MODEL not in (request.command.sop_class_uid, request.context.sop_class_uid):
        return Answer(Status.UNRECOGNIZED_OPERATION)
    if request.command.sop_class_uid != request.context.sop_class_uid:
        return Answer(Status.SOP_CLASS_NOT_SUPPORTED, "not the SOP class of the presentation context")
    if request.command.sop_instance_uid != messages.PUSH_MODEL_INSTANCE:
        return Answer(Status.NO_SUCH_OBJECT_INSTANCE, "not the well-known instance of storage commitment")
    return None


def _ask(request: Request, database: Database, archive: Archive, config: Config) -> Answer:
    """N-ACTION: a peer asks this node to keep what it sent."""
    if request.command.us(ACTION_TYPE_ID) != messages.REQUEST_COMMITMENT:
        return Answer(Status.NO_SUCH_ACTION_TYPE)
    syntax = request.context.transfer_syntax_uid
    asked = messages.read_request(messages.decode(request.dataset, syntax))
    # Only when the asking association has had its turn, or has ended, a new one is opened.
    owed_id = owed_reports.owe(database, request.calling_ae_title, asked, hold_s=config.delivery.lease_s)
    if owed_id is None:
        return Answer(Status.INVALID_ARGUMENT_VALUE, "the transaction UID is in use for other instances")
    log.info(
        "commitment asked for by a peer",
        peer=request.peer_address,
        calling_ae_title=request.calling_ae_title,
        transaction=asked.transaction_uid,
        instances=len(asked.references),
    )
    return Answer(Status.SUCCESS, notice=TheReport(owed_id, database, archive, config, transfer_syntax_uid=syntax))


def _report(request: Request, database: Database, config: Config) -> Answer:
    """N-EVENT-REPORT: a destination's word on what this node asked it to keep."""
    if request.command.us(EVENT_TYPE_ID) not in (messages.ALL_COMMITTED, messages.FAILURES_EXIST):
        return Answer(Status.NO_SUCH_EVENT_TYPE)
    told = messages.read_report(messages.decode(request.dataset, request.context.transfer_syntax_uid))
    status = confirmer.take_in(database, config, told, peer=request.calling_ae_title)
    return Answer(status, "" if status is Status.SUCCESS else "this node did not ask for that transaction")
