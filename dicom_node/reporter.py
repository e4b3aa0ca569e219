"""Tells peers that asked for commitment what this node keeps, on associations of its own, until they have heard it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import structlog

from dicom_node import owed_reports, scu_confirm
from dicom_node.archive import Archive
from dicom_node.commitment_messages import Report
from dicom_node.config import Config
from dicom_node.config_peers import DestinationConfig
from dicom_node.db import Database
from dicom_node.errors import DeliveryError, DestinationUnavailable
from dicom_node.judgement import TRANSIENT
from dicom_node.outbox_loop import Rounds, poll
from dicom_node.owed_reports import Owed
from dicom_node.statuses import Status

log = structlog.get_logger()


def report_until(stop: threading.Event, database: Database, config: Config, archive: Archive) -> None:
    """Tell peers what they are owed until `stop` is set."""
    rounds = Rounds("reports", owed_reports.any_due, lambda name: report_to(name, database, config, archive))
    poll(stop, database, rounds, interval_s=config.delivery.poll_interval_s)


def report_due(database: Database, config: Config, archive: Archive) -> int:
    """One round for every peer. How many reports were tried."""
    with database.reading() as session:
        names = owed_reports.any_due(session)
    return sum(report_to(name, database, config, archive) for name in sorted(names))


def report_to(calling_ae_title: str, database: Database, config: Config, archive: Archive) -> int:
    """One round for one peer. How many reports were tried."""
    due = owed_reports.claim_due(database, calling_ae_title, lease_s=config.delivery.lease_s)
    peer = config.peer(calling_ae_title)
    destination = peer.destination if peer else None
    try:
        if destination is None:
            sentence = f"no [[listener.peer]] with ae_title = {calling_ae_title!r} has host and port"
            raise DestinationUnavailable(f"{sentence}: its report cannot be brought to it")
        _tell(due, destination, database, config, archive)
    except DeliveryError as error:
        for owed in due:
            _later(owed, database, config, str(error), retryable=error.retryable)
    return len(due)


def _tell(
    due: list[Owed], destination: DestinationConfig, database: Database, config: Config, archive: Archive
) -> None:
    """All that a peer is owed, over one association. Raises DestinationUnavailable, DestinationRefused.

    Files are read before, which takes long; promised is what is in a report when the peer is there to hear it.
    """
    found = [owed_reports.look(database, archive, owed.request) for owed in due]
    reports: list[Report] = []

    def promised() -> Iterator[Report]:
        for one in found:
            reports.append(owed_reports.promise(database, one))
            yield reports[-1]

    told = scu_confirm.tell(destination, config.node, promised())
    for owed, status in zip(due, told, strict=True):
        _note(owed, reports[-1], status, destination, database, config)


def _note(
    owed: Owed,
    report: Report,
    status: int | None,
    destination: DestinationConfig,
    database: Database,
    config: Config,
) -> None:
    """What the peer's answer means."""
    if status == Status.SUCCESS:
        owed_reports.reported(database, owed, report)
        log.info(
            "commitment reported",
            peer=destination.name,
            transaction=report.transaction_uid,
            committed=len(report.committed),
            failed=len(report.failed),
        )
        return
    answer = "no answer to the report" if status is None else f"the report was answered with 0x{status:04X}"
    again = status is None or any(status in codes for codes in TRANSIENT)
    _later(owed, database, config, answer, retryable=again)


def _later(owed: Owed, database: Database, config: Config, error: str, *, retryable: bool) -> None:
    again = owed_reports.not_reported(database, owed, error=error, retryable=retryable, config=config.delivery)
    if again is not None:
        log.warning("commitment not reported", transaction=owed.request.transaction_uid, error=error, will_retry=again)
