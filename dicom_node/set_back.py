"""A clock that was set back: what waits for a time of before waits no longer than it may.

A machine starts with the wrong hour and is put right. Without this whatever was to be tried again in a minute, and
whatever a killed process held, would lie until the clock is there once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

import sqlalchemy as sa

from dicom_node.config import Config
from dicom_node.db import Database, now
from dicom_node.states import OPEN_JOB_STATES, DeliveryState
from dicom_node.tables import Delivery, Job, OwedReport

CLOCKS_DIFFER_S = 60.0
"""Between machines that share a database, at most."""


def shorten_waits(database: Database, config: Config) -> int:
    """Put what lies further ahead than the longest wait that this node sets to that wait. How many there were."""
    with database.session() as session:
        changed = [session.execute(statement) for statement in _statements(config)]
        return sum(cast("sa.CursorResult[Any]", one).rowcount for one in changed)


def _statements(config: Config) -> Iterator[sa.Update]:
    delivery, worker, at_work = config.delivery, config.worker, Job.state.in_(OPEN_JOB_STATES)
    yield _shorten(Job, "not_before", worker.retry_longest_s, at_work)
    yield _shorten(Job, "lease_until", worker.lease_s, at_work)
    yield _shorten(Job, "published_at", 0.0, at_work)
    unsent, sent = Delivery.state == DeliveryState.PENDING, Delivery.state == DeliveryState.SENT
    # A DICOMweb server may ask for more patience than config has.
    servers = [destination.name for destination in delivery.destination if destination.url]
    yield _shorten(Delivery, "not_before", delivery.retry_longest_s, unsent, Delivery.destination.not_in(servers))
    yield _shorten(Delivery, "lease_until", delivery.lease_s, unsent)
    unconfirmed = sent, Delivery.confirm_at.is_not(None)
    yield _shorten(Delivery, "lease_until", delivery.lease_s, *unconfirmed)
    longest_s = max(config.confirmation.report_timeout_s, delivery.retry_longest_s)
    yield _shorten(Delivery, "confirm_at", longest_s, *unconfirmed)
    owed = OwedReport.reported_at.is_(None), OwedReport.given_up_at.is_(None)
    yield _shorten(OwedReport, "not_before", max(delivery.retry_longest_s, delivery.lease_s), *owed)
    yield _shorten(OwedReport, "lease_until", delivery.lease_s, *owed)


def _shorten(
    table: type[Job | Delivery | OwedReport], column: str, longest_s: float, *waiting: sa.ColumnElement[bool]
) -> sa.Update:
    too_far = getattr(table, column) > now() + timedelta(seconds=longest_s + CLOCKS_DIFFER_S)
    return sa.update(table).where(*waiting, too_far).values({column: now() + timedelta(seconds=longest_s)})
