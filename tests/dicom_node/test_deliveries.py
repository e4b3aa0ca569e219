"""The outbox's rows: routing, leases, retries, dead letters, replaced results; on both databases."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node import commitments, deliveries, jobs
from dicom_node.config_sections import DeliveryConfig
from dicom_node.db import now
from dicom_node.deliveries import DueDelivery
from dicom_node.fallback import Fallback
from dicom_node.jobs import ClaimedJob
from dicom_node.states import DeliveryState, JobState, ResultKind
from dicom_node.tables import Delivery, Result
from dicom_node.transport import later, never
from tests.dicom_node.house import House, head_ct, make_config

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


def test_a_newer_result_withdraws_what_is_unsent_of_its_own_study(sending: House) -> None:
    """What arrived stays as it is, and the results of other studies go on."""
    sending.finish(sending.claimed(sending.job(head_ct(study_uid="2.25.9", series_uid="2.25.91"))))
    deliveries.sent(sending.database, claim(sending)[0], status="0x0000")
    sending.receive(head_ct(slices=1, spacing_mm=[]))
    sending.age(s=1001)
    (newer,) = sending.sweep()
    sending.finish(sending.claimed(newer))
    assert states(sending) == [DeliveryState.SENT, DeliveryState.CANCELLED, *[DeliveryState.PENDING] * 4]
    assert [result.superseded_at is None for result in sending.all(Result)] == [False, False, *[True] * 4]


NEW_FORMS = (
    f'{PACS}profile = "new"\n[[results.profile]]\nname = "new"\nseg = ["seg-labelmap", "seg-binary"]\nsr = ["sr-3d"]\n'
)


def variants(house: House) -> dict[str, str]:
    """Form, and the segmentation that it is about -> state."""
    with house.database.reading() as session:
        found = session.scalars(sa.select(Delivery).order_by(Delivery.id))
        return {delivery.result.variant.partition(",")[0]: delivery.state.value for delivery in found}


def refuse(house: House, due: DueDelivery) -> Fallback | None:
    """The destination takes no such form."""
    answer = never(due.id, "0x0122", "no such class", form_refused=True)
    return deliveries.not_sent(house.database, due, answer, house.config.delivery)


def test_a_refusal_hands_over_once_whoever_says_it_again(make_house: Callable[..., House]) -> None:
    """A late answer of an older attempt starts nothing, and a restart does not wake what was refused."""
    house = make_house(NEW_FORMS)
    house.finish(house.claimed())
    label_map, report = claim(house)
    assert refuse(house, label_map) == Fallback("seg-binary", frozenset({report.id}))
    expected = {
        "seg-labelmap": "REFUSED",
        "seg-binary": "PENDING",
        "sr-3d of seg-labelmap": "REFUSED",
        "sr-3d of seg-binary": "PENDING",
    }
    assert variants(house) == expected
    assert refuse(house, label_map) is None
    assert deliveries.restart(house.database, delivery_id=label_map.id) == 0
    assert variants(house) == expected
    assert sorted(due.form for due in claim(house)) == ["seg-binary", "sr-3d"]


def test_a_form_is_refused_and_taken_for_one_study_alone(make_house: Callable[..., House]) -> None:
    """What the same destination is to get of another one waits for its own answers."""
    house = make_house(NEW_FORMS)
    for study_uid in ("2.25.9", "2.25.10"):
        house.finish(house.claimed(house.job(head_ct(study_uid=study_uid, series_uid=f"{study_uid}.1"))))
    refuse(house, claim(house)[0])
    house.change(Delivery, lease_until=None)
    deliveries.sent(house.database, claim(house)[0], status="0x0000")
    assert states(house)[:2] == [DeliveryState.REFUSED, DeliveryState.SENT]
    waiting = [DeliveryState.PENDING, DeliveryState.SPARE]
    assert states(house)[4:] == [*waiting, *waiting]


def test_a_report_that_went_out_is_not_sent_a_second_time(make_house: Callable[..., House]) -> None:
    """Its segmentation is refused afterwards: there is one report in the PACS, not two."""
    house = make_house(NEW_FORMS)
    house.finish(house.claimed())
    label_map, report = claim(house)
    deliveries.sent(house.database, report, status="0x0000")
    refuse(house, label_map)
    assert variants(house) == {
        "seg-labelmap": "REFUSED",
        "seg-binary": "PENDING",
        "sr-3d of seg-labelmap": "SENT",
        "sr-3d of seg-binary": "CANCELLED",
    }


def test_a_transient_failure_never_changes_the_form(make_house: Callable[..., House]) -> None:
    """Nor does one that is too old: that says nothing about the form."""
    house = make_house(NEW_FORMS)
    house.finish(house.claimed())
    label_map, _ = claim(house)
    house.change(Delivery, created_at=now() - timedelta(seconds=DeliveryConfig().give_up_after_s + 1))
    fail(house, label_map)
    assert variants(house)["seg-labelmap"] == "DEAD"
    assert variants(house)["seg-binary"] == "SPARE"


def test_spare_and_refused_forms_of_a_replaced_result_stay_unsent(make_house: Callable[..., House]) -> None:
    """Only what the newer generation made is sent."""
    house = make_house(NEW_FORMS)
    house.finish(house.claimed())
    label_map, _ = claim(house)
    refuse(house, label_map)
    house.receive(head_ct(slices=1, spacing_mm=[]))
    house.age(s=1001)
    (newer,) = house.sweep()
    house.finish(house.claimed(newer))
    assert states(house) == [DeliveryState.CANCELLED] * 4 + [
        DeliveryState.PENDING, DeliveryState.SPARE, DeliveryState.PENDING, DeliveryState.SPARE,
    ]  # fmt: skip
    assert [due.form for due in claim(house)] == ["seg-labelmap", "sr-3d"]


def test_what_is_wanted_again_follows_the_preference_of_now(make_house: Callable[..., House]) -> None:
    """It was withdrawn, and the profile has changed its mind meanwhile: of a kind one form is sent, the other spare."""
    house = make_house(NEW_FORMS)
    job = house.claimed()
    house.finish(job, state=JobState.REJECTED)
    swapped = NEW_FORMS.replace('"seg-labelmap", "seg-binary"', '"seg-binary", "seg-labelmap"')
    for name in ("otherwise", ""):
        house.config = make_config(house.folder, house.config.database.url, swapped)
        jobs.retry(house.database, job.id)
        house.finish(house.claimed(job.id), state=JobState.REJECTED, name=name)
    first, report = claim(house)
    assert [first.form, report.form] == ["seg-binary", "sr-3d"]
    assert refuse(house, first) == Fallback("seg-labelmap", frozenset({report.id}))


def test_what_a_retry_makes_again_is_not_sent_again_in_another_form(make_house: Callable[..., House]) -> None:
    """The same results: the PACS has one segmentation and keeps one."""
    house = make_house(NEW_FORMS)
    job = house.claimed()
    house.finish(job, state=JobState.REJECTED)
    label_map, _ = claim(house)
    refuse(house, label_map)
    for due in claim(house):
        deliveries.sent(house.database, due, status="0x0000")
    before = variants(house)
    jobs.retry(house.database, job.id)
    house.finish(house.claimed(job.id), state=JobState.REJECTED)
    assert variants(house) == before
    assert claim(house) == []


def test_what_arrived_in_one_form_is_not_sent_in_another_when_it_is_wanted_again(
    make_house: Callable[..., House],
) -> None:
    """Another outcome came between, and withdrew what had been refused: there is one segmentation in the PACS still."""
    house = make_house(NEW_FORMS)
    job = house.claimed()
    house.finish(job, state=JobState.REJECTED)
    refuse(house, claim(house)[0])
    for due in claim(house):
        deliveries.sent(house.database, due, status="0x0000")
    for name in ("otherwise", ""):
        jobs.retry(house.database, job.id)
        house.finish(house.claimed(job.id), state=JobState.REJECTED, name=name)
    assert claim(house) == []
    assert sum(state is DeliveryState.SENT for state in states(house)) == 2


PAGES = f'{PACS}profile = "pages"\n[[results.profile]]\nname = "pages"\nseg = []\nsr = []\nsc = ["sc"]\n'


def say(house: House, job: ClaimedJob, *what: str) -> None:
    """The job ends with these pages: one form of several objects."""
    (variant,) = (one for one in house.config.wanted() if one.kind is ResultKind.SC)
    house.finish(job, state=JobState.REJECTED, results=tuple(house.result(variant, page) for page in what))


def test_pages_that_were_withdrawn_are_sent_when_the_same_is_said_again(make_house: Callable[..., House]) -> None:
    """The PACS has one page of three, as another outcome came between: half a summary says something else."""
    house = make_house(PAGES)
    job = house.claimed()
    say(house, job, "a1", "a2", "a3")
    deliveries.sent(house.database, claim(house)[0], status="0x0000")
    for said in (["b1"], ["a1", "a2", "a3"]):
        jobs.retry(house.database, job.id)
        say(house, house.claimed(job.id), *said)
    assert states(house) == [DeliveryState.SENT, *[DeliveryState.PENDING] * 2, DeliveryState.CANCELLED]


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


@pytest.mark.parametrize(("description", "goes"), [("Head 5mm", True), ("Brain", False)])
def test_a_route_asks_for_the_description_of_the_series_that_was_read(
    make_house: Callable[..., House], description: str, goes: bool
) -> None:
    """It stands in the header facts of the images: a job's end brings no other word of it."""
    house = make_house(PACS + '[[delivery.route]]\ndestinations = ["pacs"]\nseries_description = "^head"\n')
    house.finish(house.claimed(house.job(head_ct(description=description))))
    assert len(states(house)) == (2 if goes else 0)


@pytest.mark.parametrize("look", [deliveries.any_due, commitments.any_due])
def test_what_was_sent_long_ago_costs_the_poll_nothing(
    make_small_house: Callable[..., House], look: Callable[[Session], set[str]]
) -> None:
    """It looks several times a second, and after years the rows are many; on PostgreSQL statistics lead it."""
    house = make_small_house()
    house.finish(house.claimed())
    few = _steps(house, look)
    result = house.all(Result)[0].id
    sent = {"result_id": result, "state": DeliveryState.SENT, "created_at": now(), "sent_at": now()}
    with house.database.session() as session:
        session.execute(sa.insert(Delivery), [sent | {"destination": f"pacs {number}"} for number in range(3000)])
    assert _steps(house, look) <= few + 10


def _steps(house: House, look: Callable[[Session], set[str]]) -> int:
    """Hundreds of steps that SQLite takes."""
    count = itertools.count()
    with house.database.reading() as session:
        connection: Any = session.connection().connection.driver_connection
        connection.set_progress_handler(lambda: bool(next(count) < 0), 100)
        assert look(session) == set()
        connection.set_progress_handler(None, 0)
    return next(count)
