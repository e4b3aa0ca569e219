"""Empties the outbox: one association per destination and round, each answer written to its row at once."""

from __future__ import annotations

import threading
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import deliveries, scu
from dicom_node.config import Config, DestinationConfig
from dicom_node.db import Database
from dicom_node.deliveries import DueDelivery
from dicom_node.errors import DeliveryError

log = structlog.get_logger()

AFTER_FAULT_S = 1.0
LAST_ROUND_S = 5.0
"""How long the end waits for associations that are open; what they were sending is sent again after its lease."""


def deliver_due(database: Database, config: Config, archive_dir: Path) -> int:
    """Send what is due, destination by destination. Returns how many deliveries were tried."""
    with database.reading() as session:
        names = deliveries.any_due(session)
    return sum(deliver_to(name, database, config, archive_dir) for name in sorted(names))


def deliver_to(name: str, database: Database, config: Config, archive_dir: Path) -> int:
    """Send what is due for one destination. Returns how many deliveries were tried."""
    destination = config.destination(name)
    due = deliveries.claim_due(database, name, lease_s=config.delivery.lease_s)
    if destination is None:
        error = f"config has no [[delivery.destination]] called {name!r}"
        _all_failed(database, config, due, DeliveryError(error))
    elif due:
        _deliver(database, config, archive_dir, destination, due)
    return len(due)


def _deliver(
    database: Database, config: Config, archive_dir: Path, destination: DestinationConfig, due: list[DueDelivery]
) -> None:
    by_id = {item.id: item for item in due}

    def answered(answer: scu.Answer) -> None:
        item = by_id.pop(answer.key)
        if answer.sent:
            deliveries.sent(database, item, status=answer.status or 0)
            log.info("result delivered", delivery=item.id, destination=destination.name, attempts=item.attempts)
            return
        _failed(database, config, item, answer.error, status=answer.status, retryable=answer.retryable)

    files = []
    for item in due:
        try:
            files.append(scu.outgoing(item.id, archive_dir / item.path))
        except (DeliveryError, OSError) as error:
            # A file that is gone may come back (a shared folder was away); one that is no DICOM will not change.
            text = f"result file: {type(error).__name__}"
            again = isinstance(error, OSError)
            _failed(database, config, by_id.pop(item.id), text, status=None, retryable=again)
    try:
        scu.send(destination, config.node, files, answered)
    except DeliveryError as error:
        _all_failed(database, config, list(by_id.values()), error)


def _all_failed(database: Database, config: Config, due: list[DueDelivery], error: DeliveryError) -> None:
    for item in due:
        _failed(database, config, item, str(error), status=None, retryable=error.retryable)


def _failed(
    database: Database, config: Config, item: DueDelivery, error: str, *, status: int | None, retryable: bool
) -> None:
    log.warning("delivery failed", delivery=item.id, attempts=item.attempts, error=error, will_retry=retryable)
    deliveries.not_sent(database, item, error=error, status=status, retryable=retryable, config=config.delivery)


def deliver_until(stop: threading.Event, database: Database, config: Config, archive_dir: Path) -> None:
    """Poll the outbox until `stop` is set, each destination in a thread of its own: a slow one delays no other."""
    busy: dict[str, threading.Thread] = {}
    while not stop.wait(config.delivery.poll_interval_s):
        try:
            with database.reading() as session:
                names = deliveries.any_due(session)
        except SQLAlchemyError as error:
            log.error("database unreachable, delivering again soon", error=type(error).__name__)
            stop.wait(AFTER_FAULT_S)
            continue
        busy = {name: thread for name, thread in busy.items() if thread.is_alive()}
        for name in sorted(names - busy.keys()):
            arguments = (stop, name, database, config, archive_dir)
            busy[name] = threading.Thread(target=_deliver_guarded, args=arguments, name=f"outbox-{name}", daemon=True)
            busy[name].start()
    for thread in busy.values():
        thread.join(timeout=LAST_ROUND_S)


def _deliver_guarded(stop: threading.Event, name: str, database: Database, config: Config, archive_dir: Path) -> None:
    """One round for one destination; a fault ends the round and not the outbox. Its deliveries' leases run out."""
    try:
        deliver_to(name, database, config, archive_dir)
    except SQLAlchemyError as error:
        log.error("database unreachable, delivering again soon", destination=name, error=type(error).__name__)
        stop.wait(AFTER_FAULT_S)
    except Exception:  # a fault of this code or of a library must not stop all delivering
        log.exception("delivering failed", destination=name)
        stop.wait(AFTER_FAULT_S)
