"""Storage commitment at the listener: the reports that destinations bring on associations of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import commitment_messages as messages
from dicom_node import confirmer
from dicom_node.config import Config
from dicom_node.db import Database
from dicom_node.dimse import EVENT_TYPE_ID, CommandField
from dicom_node.reception import Answer, Request, Service
from dicom_node.statuses import Status

log = structlog.get_logger()

SOP_CLASSES = (messages.PUSH_MODEL,)


def services(database: Database, config: Config) -> Mapping[int, Service]:
    """What the listener serves for `SOP_CLASSES`, by Command Field."""
    return {
        CommandField.N_EVENT_REPORT_RQ: _guarded(lambda request: _report(request, database, config)),
    }


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


def _report(request: Request, database: Database, config: Config) -> Answer:
    """N-EVENT-REPORT: a destination's word on what this node asked it to keep."""
    if request.command.us(EVENT_TYPE_ID) not in (messages.ALL_COMMITTED, messages.FAILURES_EXIST):
        return Answer(Status.NO_SUCH_EVENT_TYPE)
    told = messages.read_report(messages.decode(request.dataset, request.context.transfer_syntax_uid))
    status = confirmer.take_in(database, config, told, peer=request.calling_ae_title)
    return Answer(status, "" if status is Status.SUCCESS else "this node did not ask for that transaction")
