"""The clock was hours ahead and is put right: nothing waits for those hours, and nothing loses its turn by it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from dicom_node import broker, jobs, owed_reports
from dicom_node.commitment_messages import Reference, Request
from dicom_node.db import now
from dicom_node.set_back import CLOCKS_DIFFER_S, shorten_waits
from dicom_node.states import DeliveryState, JobState
from dicom_node.sweeper import Sweeper
from dicom_node.tables import Delivery, Job, OwedReport
from tests.dicom_node.house import House

AHEAD = timedelta(hours=3)
PACS = '[[delivery.destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 9\n'
WEB = '[[delivery.destination]]\nname = "web"\nurl = "http://127.0.0.1:9/dicom-web"\n'
Make = Callable[..., House]


def waits(house: House, table: type[Any], column: str) -> list[float]:
    """Seconds until the times in that column."""
    moments: list[datetime] = [getattr(row, column) for row in house.all(table)]
    return [(moment - now()).total_seconds() for moment in moments]


@pytest.mark.parametrize(("column", "longest_s"), [("not_before", 600.0), ("lease_until", 30.0), ("published_at", 0.0)])
@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
def test_a_job_waits_no_longer_than_it_may(house: House, column: str, longest_s: float, state: JobState) -> None:
    """Its next attempt, the lease of a worker that is gone, a message that was lost."""
    house.job()
    house.change(Job, **{"state": state, column: now() + AHEAD})
    assert shorten_waits(house.database, house.config) == 1
    assert waits(house, Job, column)[0] == pytest.approx(longest_s, abs=30.0)
    assert shorten_waits(house.database, house.config) == 0


@pytest.mark.parametrize(
    ("state", "column", "longest_s"),
    [
        (DeliveryState.PENDING, "not_before", 900.0),
        (DeliveryState.PENDING, "lease_until", 120.0),
        (DeliveryState.SENT, "lease_until", 120.0),
        (DeliveryState.SENT, "confirm_at", 900.0),
    ],
)
def test_a_delivery_waits_no_longer_than_it_may(
    make_house: Make, state: DeliveryState, column: str, longest_s: float
) -> None:
    """Its next try, what a killed deliverer held, the next step of making sure."""
    house = make_house(PACS)
    house.finish(house.claimed())
    house.change(Delivery, **{"state": state, "confirm_at": now(), column: now() + AHEAD})
    assert shorten_waits(house.database, house.config) == 2
    assert waits(house, Delivery, column) == [pytest.approx(longest_s, abs=30.0)] * 2


@pytest.mark.parametrize(("column", "longest_s"), [("not_before", 900.0), ("lease_until", 120.0)])
def test_a_report_that_is_owed_waits_no_longer_than_it_may(house: House, column: str, longest_s: float) -> None:
    """Its sender keeps the images until then."""
    owed_reports.owe(house.database, "CT1", Request("2.25.9", (Reference("1.2", "1.2.3"),)), hold_s=1.0)
    house.change(OwedReport, **{column: now() + AHEAD})
    assert shorten_waits(house.database, house.config) == 1
    assert waits(house, OwedReport, column)[0] == pytest.approx(longest_s, abs=30.0)


def test_what_waits_as_long_as_it_may_is_left_alone(make_house: Make) -> None:
    """Clocks of two machines differ a little; and a DICOMweb server may ask for a day."""
    house = make_house(PACS + WEB)
    house.finish(house.claimed())
    worker, delivery = house.config.worker, house.config.delivery
    other_clock = now() + timedelta(seconds=CLOCKS_DIFFER_S - 30)
    house.change(
        Job,
        state=JobState.RUNNING,
        not_before=other_clock + timedelta(seconds=worker.retry_longest_s),
        lease_until=other_clock + timedelta(seconds=worker.lease_s),
        published_at=other_clock,
    )
    house.change(Delivery, not_before=other_clock + timedelta(seconds=delivery.retry_longest_s))
    assert shorten_waits(house.database, house.config) == 0
    house.change(Delivery, not_before=now() + AHEAD)
    shorten_waits(house.database, house.config)
    further = {row.destination: row.not_before > now() + AHEAD / 2 for row in house.all(Delivery)}
    assert further == {"pacs": False, "web": True}


def test_what_is_over_stays_as_it_was(make_house: Make) -> None:
    """Times of ended jobs and deliveries are history."""
    house = make_house(PACS)
    house.finish(house.claimed())
    house.change(Job, published_at=now() + AHEAD)
    house.change(Delivery, state=DeliveryState.DEAD, not_before=now() + AHEAD)
    assert shorten_waits(house.database, house.config) == 0


def test_the_sweep_sees_to_it(make_house: Make) -> None:
    """At its start; the job of a worker that is gone is queued again once the lease that it may have is over."""
    house = make_house(PACS + "[worker]\nlease_s = 1.5\n")
    job = house.claimed()
    house.change(Job, lease_until=now() + AHEAD)
    Sweeper(house.database, house.config, broker.make_celery(house.config.broker)).sweep()
    (left_s,) = waits(house, Job, "lease_until")
    house.change(Job, lease_until=now() + timedelta(seconds=left_s - 2))
    assert jobs.requeue_expired(house.database, house.config.worker) == [job.id]
