"""Empties the outbox: one conversation per destination and round, each answer written to its row at once."""

from __future__ import annotations

import threading
from pathlib import Path

import structlog

from dicom_node import deliveries
from dicom_node.config import Config
from dicom_node.config_peers import DestinationConfig
from dicom_node.db import Database
from dicom_node.deliveries import DueDelivery
from dicom_node.errors import DeliveryError
from dicom_node.outbox_loop import Rounds, poll
from dicom_node.transport import Answer, later, never, outgoing
from dicom_node.transports import transport_of

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

    def answered(answer: Answer) -> None:
        item = by_id.pop(answer.key)
        if answer.sent:
            deliveries.sent(database, item, status=answer.status or "", confirm=destination.confirms)
            log.info(
                "result delivered", delivery=item.id, destination=destination.name, form=item.form,
                attempts=item.attempts,
            )  # fmt: skip
            return
        for withdrawn in _failed(database, config, item, answer):
            by_id.pop(withdrawn, None)

    files = []
    for item in due:
        try:
            files.append(outgoing(item.id, archive_dir / item.path))
        except (DeliveryError, OSError) as error:
            # A file that is gone may come back (a shared folder was away); one that is no DICOM will not change.
            text = f"result file: {type(error).__name__}"
            judged = later(item.id, None, text) if isinstance(error, OSError) else never(item.id, None, text)
            _failed(database, config, by_id.pop(item.id), judged)
    try:
        transport_of(destination).send(destination, config.node, files, answered, wanted=lambda key: key in by_id)
    except DeliveryError as error:
        _all_failed(database, config, list(by_id.values()), error)


def _all_failed(database: Database, config: Config, due: list[DueDelivery], error: DeliveryError) -> None:
    judged = later if error.retryable else never
    for item in due:
        _failed(database, config, item, judged(item.id, None, str(error)))


def _failed(database: Database, config: Config, item: DueDelivery, answer: Answer) -> frozenset[int]:
    """Write it down. Returns the deliveries that must not be sent any more, because another form goes instead."""
    fallback = deliveries.not_sent(database, item, answer, config.delivery)
    facts = {"delivery": item.id, "form": item.form, "attempts": item.attempts, "error": answer.error}
    if fallback is None:
        log.warning("delivery failed", **facts, will_retry=answer.retryable)
        return frozenset()
    log.warning("form refused, another goes instead", **facts, instead=fallback.form)
    return fallback.withdrawn


def deliver_until(stop: threading.Event, database: Database, config: Config, archive_dir: Path) -> None:
    """Empty the outbox again and again until `stop` is set, each destination in a thread of its own."""
    rounds = Rounds("outbox", deliveries.any_due, lambda name: deliver_to(name, database, config, archive_dir))
    poll(stop, database, rounds, interval_s=config.delivery.poll_interval_s)
