"""Makes sure that what was sent has arrived: asks for commitment, waits for the report, looks by C-FIND.

SENT -> asked (N-ACTION) -> a report in time -> COMMITTED, sent again, or dead
                         -> no report        -> C-FIND: found -> COMMITTED; not found, or not to be had -> sent again
"""

from __future__ import annotations

import threading

import structlog
from pydicom.uid import generate_uid

from dicom_node import commitments, scu_confirm
from dicom_node.commitment_messages import Reference, Report, Request
from dicom_node.commitments import Known, Unconfirmed
from dicom_node.config import Config
from dicom_node.config_peers import DestinationConfig
from dicom_node.db import Database
from dicom_node.errors import DestinationRefused, DestinationUnavailable
from dicom_node.outbox_loop import Rounds, poll
from dicom_node.statuses import Status

log = structlog.get_logger()


def confirm_until(stop: threading.Event, database: Database, config: Config) -> None:
    """Make sure of what was sent until `stop` is set."""
    rounds = Rounds("confirm", commitments.any_due, lambda name: confirm_with(name, database, config))
    poll(stop, database, rounds, interval_s=config.delivery.poll_interval_s)


def confirm_due(database: Database, config: Config) -> int:
    """One round with every destination. Of how many deliveries the next step was done."""
    with database.reading() as session:
        names = commitments.any_due(session)
    return sum(confirm_with(name, database, config) for name in sorted(names))


def confirm_with(name: str, database: Database, config: Config) -> int:
    """One round with one destination. Of how many deliveries the next step was done."""
    destination = config.destination(name)
    due = commitments.claim_due(database, name, lease_s=config.delivery.lease_s)
    if destination is None or not destination.confirms:
        commitments.let_be(database, due)
        return len(due)
    unasked = [item for item in due if not item.was_asked]
    overdue = [item for item in due if item.was_asked]
    if overdue:
        log.warning("no commitment report in time, looking by C-FIND", destination=name, results=len(overdue))
    if unasked and destination.commitment:
        overdue += _ask(unasked, destination, database, config)
    else:
        overdue += unasked
    if overdue:
        _look(overdue, destination, database, config)
    return len(due)


def take_in(database: Database, config: Config, told: Report, *, peer: str) -> Status:
    """A report of whichever association: into the rows, and what the peer is answered."""
    known = commitments.report(database, told, config=config)
    facts = {"peer": peer, "transaction": told.transaction_uid}
    if known is Known.UNKNOWN:
        log.warning("a commitment report for a transaction that this node never asked for", **facts)
        return Status.INVALID_ARGUMENT_VALUE
    if known is Known.SETTLED:
        log.info("a commitment report came again", **facts)
    else:
        failed = sorted({f"0x{reason:04X}" for _, reason in told.failed})
        log.info("commitment reported", **facts, committed=len(told.committed), failed=len(told.failed), why=failed)
    return Status.SUCCESS


def _ask(
    items: list[Unconfirmed], destination: DestinationConfig, database: Database, config: Config
) -> list[Unconfirmed]:
    """Ask for commitment. Returns what has to be looked for by C-FIND instead, because it refuses to be asked."""
    transaction_uid = generate_uid(prefix=None)
    commitments.begin(
        database,
        destination.name,
        items,
        transaction_uid=transaction_uid,
        timeout_s=config.confirmation.report_timeout_s,
    )
    request = Request(transaction_uid, tuple(Reference(one.sop_class_uid, one.sop_instance_uid) for one in items))
    facts = {"destination": destination.name, "transaction": transaction_uid, "results": len(items)}
    try:
        status = scu_confirm.ask(
            destination,
            config.node,
            request,
            wait_s=config.confirmation.report_wait_s,
            on_report=lambda told: take_in(database, config, told, peer=destination.ae_title),
        )
    except DestinationUnavailable as error:
        log.warning("commitment could not be asked for, trying again", **facts, error=str(error))
        commitments.not_asked(database, transaction_uid, items, error=str(error), config=config)
        return []
    except DestinationRefused as error:
        log.warning("the destination takes no storage commitment, looking by C-FIND", **facts, error=str(error))
        return items
    if status == Status.SUCCESS:
        log.info("commitment asked for", **facts)
        return []
    log.warning("commitment was refused, looking by C-FIND", **facts, status=f"0x{status:04X}")
    return items


def _look(items: list[Unconfirmed], destination: DestinationConfig, database: Database, config: Config) -> None:
    """Look by C-FIND whether they are there."""
    wanted = [
        scu_confirm.Wanted(one.study_instance_uid, one.series_instance_uid, one.sop_instance_uid) for one in items
    ]
    try:
        found = scu_confirm.find(destination, config.node, wanted)
    except DestinationUnavailable as error:
        log.warning("C-FIND failed, looking again later", destination=destination.name, error=str(error))
        commitments.postpone(database, items, error=str(error), config=config)
    except DestinationRefused as error:
        log.warning("no report and no C-FIND, sending again", destination=destination.name, error=str(error))
        commitments.send_again(database, items, error=str(error), config=config)
    else:
        shown, missing = commitments.read_back(database, items, found, config=config)
        log.info("looked by C-FIND", destination=destination.name, found=shown, not_found=missing)
