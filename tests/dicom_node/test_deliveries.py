"""The outbox's rows: routing, leases, retries, dead letters, replaced results; on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from dicom_node import deliveries
from dicom_node.config import DeliveryConfig
from dicom_node.db import now
from dicom_node.deliveries import DueDelivery
from dicom_node.states import DeliveryState
from dicom_node.tables import Delivery
from dicom_node.transport import later, never
from tests.dicom_node.house import House, head_ct

DESTINATION = '[[delivery.destination]]\nname = "{0}"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 9\n'
PACS = DESTINATION.format("pacs")


@pytest.fixture
def sending(make_house: Callable[..., House]) -> House:
    """A house with a SEG and an SR for one destination."""
    house = make_house(PACS)
    house.finish(house.claimed())
    return house


def claim(house: House, *, lease_s: float = 60.0) -> list[DueDelivery]:
    """What is due now."""
    return deliveries.claim_due(house.database, "pacs", lease_s=lease_s)


def states(house: House) -> list[DeliveryState]:
    """Of all deliveries."""
    return [delivery.state for delivery in house.all(Delivery)]


def fail(house: House, due: DueDelivery, *, retryable: bool = True) -> None:
    """It could not be sent."""
    answer = (later if retryable else never)(due.id, "0xA700", "no")
    assert deliveries.not_sent(house.database, due, answer, house.config.delivery) is None


def test_a_delivery_is_leased_to_one_deliverer(sending: House) -> None:
    """Two nodes that poll at the same moment share the work."""
    claimed: list[DueDelivery] = []
    threads = [threading.Thread(target=lambda: claimed.extend(claim(sending))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(due.id for due in claimed) == [1, 2]


def test_the_lease_of_a_killed_deliverer_runs_out(sending: House) -> None:
    """Sent twice is fine, lost is not."""
    claim(sending, lease_s=60)
    assert claim(sending) == []
    sending.change(Delivery, lease_until=now() - timedelta(seconds=1))
    assert [due.attempts for due in claim(sending)] == [2, 2]


def test_a_late_answer_of_an_older_attempt_takes_no_lease_away(sending: House) -> None:
    """The first deliverer hung for longer than its lease."""
    (first, _) = claim(sending)
    sending.change(Delivery, lease_until=now() - timedelta(seconds=1))
    (second, _) = claim(sending)
    fail(sending, first, retryable=False)
    assert states(sending)[0] is DeliveryState.PENDING
    assert sending.all(Delivery)[0].lease_until is not None
    deliveries.sent(sending.database, second, status="0x0000")
    assert states(sending)[0] is DeliveryState.SENT
    fail(sending, second, retryable=False)
    assert states(sending)[0] is DeliveryState.SENT


def test_a_transient_failure_waits_and_a_refusal_is_dead(sending: House) -> None:
    """With what the destination said."""
    waiting, refused = claim(sending)
    fail(sending, waiting)
    fail(sending, refused, retryable=False)
    rows = sending.all(Delivery)
    assert [row.state for row in rows] == [DeliveryState.PENDING, DeliveryState.DEAD]
    assert rows[0].not_before > now()
    assert (rows[1].last_status, rows[1].last_error) == ("0xA700", "no")
    assert claim(sending) == []
    with sending.database.reading() as session:
        assert deliveries.any_due(session) == set()


def test_a_delivery_that_failed_for_too_long_is_dead(sending: House) -> None:
    """`give_up_after_s` counts from the result, or from the restart by hand."""
    due, _ = claim(sending)
    sending.change(Delivery, created_at=now() - timedelta(seconds=DeliveryConfig().give_up_after_s + 1))
    fail(sending, due)
    assert states(sending)[0] is DeliveryState.DEAD
    assert deliveries.restart(sending.database, delivery_id=due.id) == 1
    again = next(one for one in claim(sending) if one.id == due.id)
    assert again.attempts == 1
    fail(sending, again)
    assert states(sending)[0] is DeliveryState.PENDING


def test_restart_takes_one_or_those_of_a_destination_or_all(sending: House) -> None:
    """Sent ones stay sent."""
    first, second = claim(sending)
    deliveries.sent(sending.database, first, status="0x0000")
    fail(sending, second, retryable=False)
    assert deliveries.restart(sending.database, delivery_id=first.id) == 0
    assert deliveries.restart(sending.database, destination="elsewhere") == 0
    assert deliveries.restart(sending.database, destination="pacs") == 1
    assert states(sending) == [DeliveryState.SENT, DeliveryState.PENDING]
    fail(sending, claim(sending)[0])
    assert deliveries.restart(sending.database) == 1
    assert len(claim(sending)) == 1, "at once, without the wait that was planned"


def test_a_success_that_comes_after_a_cancellation_is_the_truth(sending: House) -> None:
    """The object is in the PACS, whatever was decided meanwhile."""
    due, _ = claim(sending)
    sending.change(Delivery, state=DeliveryState.CANCELLED)
    fail(sending, due)
    assert states(sending)[0] is DeliveryState.CANCELLED
    deliveries.sent(sending.database, due, status="0xB000")
    assert states(sending)[0] is DeliveryState.SENT
    assert sending.all(Delivery)[0].last_status == "0xB000"


def test_a_dead_delivery_of_a_replaced_result_cannot_be_restarted(sending: House) -> None:
    """An outdated report must not reach the PACS after the newer one."""
    for due in claim(sending):
        fail(sending, due, retryable=False)
    sending.receive(head_ct(slices=1, spacing_mm=[]))
    sending.age(s=1001)
    (newer,) = sending.sweep()
    sending.finish(sending.claimed(newer))
    assert states(sending) == [DeliveryState.CANCELLED] * 2 + [DeliveryState.PENDING] * 2
    deliveries.restart(sending.database)
    assert states(sending) == [DeliveryState.CANCELLED] * 2 + [DeliveryState.PENDING] * 2


ROUTES = (
    DESTINATION.format("pacs")
    + DESTINATION.format("stroke")
    + """
[[delivery.route]]
destinations = ["pacs"]
calling_ae_titles = ["CT1"]
[[delivery.route]]
destinations = ["stroke", "pacs"]
findings = ["positive"]
kinds = ["SR"]
series_description = "^head"
"""
)


@pytest.mark.parametrize(
    ("calling", "finding", "kind", "description", "expected"),
    [
        ("CT1", "negative", "SEG", "x", ("pacs",)),
        ("CT1", "positive", "SR", "HEAD 5mm", ("pacs", "stroke")),
        ("CT2", "positive", "SR", "Head", ("pacs", "stroke")),
        ("CT2", "positive", "SEG", "Head", ()),
        ("CT2", "rejected", "SR", "Head", ()),
        ("CT2", "positive", "SR", "Brain", ()),
    ],
)
def test_routes(
    make_small_house: Callable[..., House], calling: str, finding: str, kind: str, description: str, expected: object
) -> None:
    """Every condition of a route must hold; a destination that two routes name gets it once."""
    named = deliveries.destinations_for(
        make_small_house(ROUTES).config.delivery,
        calling_ae_title=calling,
        finding=finding,
        kind=kind,
        series_description=description,
    )
    assert named == expected
