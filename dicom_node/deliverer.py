"""Empties the outbox: one association per destination and round, each answer written to its row at once."""

from __future__ import annotations

import threading
from pathlib import Path

import structlog

from dicom_node import deliveries, scu
from dicom_node.config import Config, DestinationConfig
from dicom_node.db import Database
from dicom_node.deliveries import DueDelivery
from dicom_node.errors import DeliveryError
from dicom_node.outbox_loop import Rounds, poll

log = structlog.get_logger()


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
            deliveries.sent(database, item, status=answer.status or 0, confirm=destination.confirms)
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
    """Empty the outbox again and again until `stop` is set, each destination in a thread of its own."""
    rounds = Rounds("outbox", deliveries.any_due, lambda name: deliver_to(name, database, config, archive_dir))
    poll(stop, database, rounds, interval_s=config.delivery.poll_interval_s)
