"""Rows of storage commitment go when their transaction is over, never while somebody waits for its report."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dicom_node import commitments, owed_reports, retention
from dicom_node.commitment_messages import Reference, Report, Request
from dicom_node.commitments import Known
from dicom_node.db import now
from dicom_node.retention import Amount
from dicom_node.states import DeliveryState
from dicom_node.tables import AuditEvent, Commitment, Delivery, Instance, OwedReport, Result
from tests.dicom_node.house import House
from tests.dicom_node.settled import PACS, MakeHouse, ask_to_keep, plan, purge, settled

RULES = "commitment = true\n[retention]\ntransactions_days = 90\n"
TRANSACTION = "2.25.4711"
OLD = timedelta(days=91)


def asked(make_house: MakeHouse) -> House:
    """A house that waits for its destination's report on both results of a study."""
    house = make_house(PACS + RULES)
    settled(house)
    house.change(Delivery, confirm_at=now())
    items = commitments.claim_due(house.database, "pacs", lease_s=1.0)
    assert len(items) == 2
    commitments.begin(house.database, "pacs", items, transaction_uid=TRANSACTION, timeout_s=600.0)
    return house


def reported(house: House) -> Known:
    """The destination says that it has all."""
    kept = tuple(Reference(row.sop_class_uid, row.sop_instance_uid) for row in house.all(Result))
    return commitments.report(house.database, Report(TRANSACTION, kept, ()), config=house.config)


def test_a_transaction_goes_when_it_is_old_and_was_reported(make_house: MakeHouse) -> None:
    """Its deliveries stay as they are; a report that comes once more is of an unknown transaction."""
    house = asked(make_house)
    assert reported(house) is Known.OPEN
    house.change(Commitment, asked_at=now() - OLD + timedelta(days=2))
    assert (purge(house), len(house.all(Commitment))) == (Amount(), 1)
    house.change(Commitment, asked_at=now() - OLD)
    assert plan(house).removed == Amount(transactions=1)
    told: list[Amount] = []
    removed = retention.purge(house.database, house.archive, house.config.retention, progress=told.append)
    assert removed == Amount(transactions=1)
    assert told == [removed]
    assert house.all(Commitment) == []
    assert [(row.state, row.commitment_id) for row in house.all(Delivery)] == [(DeliveryState.COMMITTED, None)] * 2
    event = house.all(AuditEvent)[-1]
    assert (event.kind, event.detail["asked"], event.detail["answered"]) == ("commitment transactions removed", 1, 0)
    assert reported(house) is Known.UNKNOWN
    assert purge(house) == plan(house).removed == Amount()


def test_a_transaction_that_is_waited_for_stays_however_old(make_house: MakeHouse) -> None:
    """One of its two results has no word yet."""
    house = asked(make_house)
    (first, _) = house.all(Result)
    kept = (Reference(first.sop_class_uid, first.sop_instance_uid),)
    commitments.report(house.database, Report(TRANSACTION, kept, ()), config=house.config)
    house.change(Commitment, asked_at=now() - 100 * OLD)
    assert (purge(house), plan(house).removed, len(house.all(Commitment))) == (Amount(), Amount(), 1)
    assert reported(house) is Known.OPEN
    assert purge(house) == Amount(transactions=1)


@pytest.mark.parametrize(
    ("change", "goes"),
    [
        ({"reported_at": now() - OLD}, True),
        ({"given_up_at": now() - OLD}, True),
        ({"reported_at": now()}, False),
        ({}, False),
    ],
    ids=["reported", "given up", "reported lately", "owed"],
)
def test_a_report_that_a_peer_was_owed_goes_when_it_has_it_or_never_will(
    make_house: MakeHouse, change: dict[str, object], *, goes: bool
) -> None:
    """What it was promised stays promised."""
    house = make_house(PACS + RULES)
    settled(house)
    request = ask_to_keep(house, 3)
    owed_reports.owe(house.database, "CT1", request, hold_s=0.0)
    owed_reports.judge(house.database, house.archive, request)
    house.change(OwedReport, asked_at=now() - 100 * OLD, **change)
    expected = Amount(transactions=int(goes))
    assert plan(house).removed == expected
    assert purge(house) == expected
    assert len(house.all(OwedReport)) == int(not goes)
    assert sum(row.promised_at is not None for row in house.all(Instance)) == 3


def test_many_go_a_few_at_a_time(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement locks them all."""
    monkeypatch.setattr(retention, "AT_A_TIME", 2)
    house = make_house(PACS + RULES)
    for number in range(5):
        request = Request(f"2.25.{number}", (Reference("1.2.840.10008.5.1.4.1.1.2", "2.25.1"),))
        owed_reports.owe(house.database, "CT1", request, hold_s=0.0)
    house.change(OwedReport, given_up_at=now() - OLD)
    told: list[Amount] = []
    assert retention.purge(house.database, house.archive, house.config.retention, progress=told.append) == Amount(
        transactions=5
    )
    assert told == [Amount(transactions=count) for count in (2, 2, 1)]


def test_without_a_rule_they_stay(make_house: MakeHouse) -> None:
    """The default."""
    house = make_house(PACS)
    owed_reports.owe(house.database, "CT1", Request("2.25.1", (Reference("1.2", "2.25.1"),)), hold_s=0.0)
    house.change(OwedReport, given_up_at=now() - 100 * OLD)
    assert (purge(house), len(house.all(OwedReport))) == (Amount(), 1)
