"""Arrived for certain: storage commitment with peers that report, report late, fail, lie or are silent."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dicom_node import commitments, deliveries, reports
from dicom_node.commitment_messages import FailureReason, Reference, Report
from dicom_node.commitments import Known
from dicom_node.confirmer import confirm_due
from dicom_node.db import now
from dicom_node.states import DeliveryState
from dicom_node.tables import Commitment, Delivery, Result
from tests.dicom_node.confirming import (
    COMMIT,
    COMMITTED,
    DEAD,
    PENDING,
    SENT,
    Make,
    confirm,
    confirmation,
    destination,
    events,
    listening,
    send,
    sending_to,
    states,
    uid_of,
)
from tests.dicom_node.test_deliverer import TIMES
from tests.dicom_node.test_deliverer import destination as impatient_destination
from tests.peers import Orthanc, wait_until
from tests.peers.committing_pacs import CommittingPacs

# pynetdicom drops the socket of a connection that failed without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")


def test_a_destination_answers_for_itself_alone(make_house: Make) -> None:
    """The same results went to two: that one keeps them says nothing of the other."""
    one, other = "one", "other"
    house = make_house("".join(impatient_destination(9, name) + COMMIT for name in (one, other)))
    house.finish(house.claimed())
    for due in (due for name in (one, other) for due in deliveries.claim_due(house.database, name, lease_s=60)):
        deliveries.sent(house.database, due, status="0x0000", confirm=True)
    asked = commitments.claim_due(house.database, one, lease_s=60)
    commitments.begin(house.database, one, asked, transaction_uid="2.25.5", timeout_s=60)
    kept = tuple(Reference(item.sop_class_uid, item.sop_instance_uid) for item in asked)
    assert commitments.report(house.database, Report("2.25.5", kept), config=house.config) is Known.OPEN
    assert len(kept) == 2
    assert {(row.destination, row.state) for row in house.all(Delivery)} == {(one, COMMITTED), (other, SENT)}


def test_a_report_on_the_same_association_ends_the_job(make_house: Make) -> None:
    """Both results in one transaction; the history, the ledger and the job say that it is done."""
    with CommittingPacs() as pacs:
        house = sending_to(make_house, pacs)
        with house.database.reading() as session:
            assert reports.ledger(session)["confirmation"]["waiting"] == 2
            assert reports.jobs(session, state=None, limit=1)[0]["arrived"] == "unconfirmed"
        confirm(house)
    assert states(house) == [COMMITTED] * 2
    (transaction,) = house.all(Commitment)
    assert (transaction.committed_count, transaction.failed_count) == (2, 0)
    assert [asked.transaction_uid for asked in pacs.asked] == [transaction.transaction_uid]
    assert pacs.answers == [0]
    assert {d.committed_by for d in house.all(Delivery)} == {"report"}
    assert events(house).count("result committed") == 2
    assert events(house)[-1] == "job done: its results are committed"
    with house.database.reading() as session:
        ledger = reports.ledger(session)
        job = reports.jobs(session, state=None, limit=1)[0]
    assert ledger["balances"]
    assert ledger["deliveries"]["committed"] == 2
    assert ledger["confirmation"] == {"waiting": 0, "longest_wait_s": None}
    assert job["arrived"] == "committed"
    assert job["done_at"] is not None


def test_the_transaction_is_durable_before_it_is_asked_for(make_small_house: Make) -> None:
    """Its row is there while the peer still thinks about its answer: a report finds it, whatever dies meanwhile."""
    known: list[list[str]] = []
    with CommittingPacs(reports="never") as pacs:
        house = sending_to(make_small_house, pacs, rest=confirmation(0))
        pacs.on_action = lambda: known.append([row.transaction_uid for row in house.all(Commitment)])
        confirm(house)
        assert known == [[pacs.asked[0].transaction_uid]]


def test_results_that_were_sent_in_one_moment_are_asked_about_together(make_small_house: Make) -> None:
    """The second one's time is not quite there when the first one's is."""
    with CommittingPacs() as pacs:
        house = sending_to(make_small_house, pacs)
        first, second = house.all(Delivery)
        for delivery, confirm_at in ((first, now()), (second, now() + timedelta(seconds=0.9))):
            with house.database.session() as session:
                session.get_one(Delivery, delivery.id).confirm_at = confirm_at
        confirm_due(house.database, house.config)
    assert [len(asked.references) for asked in pacs.asked] == [2]


def test_two_confirmers_do_not_ask_about_the_same_result(make_small_house: Make) -> None:
    """What one has taken is not due for the other before its lease is over."""
    with CommittingPacs() as pacs:
        house = sending_to(make_small_house, pacs, rest=confirmation(0))
    first, second, third = (
        commitments.claim_due(house.database, "pacs", lease_s=lease_s) for lease_s in (60.0, -1.0, 60.0)
    )
    assert (len(first), len(second), len(third)) == (2, 0, 0)
    house.change(Delivery, lease_until=now() - timedelta(seconds=1))
    assert len(commitments.claim_due(house.database, "pacs", lease_s=60.0)) == 2


def test_a_report_on_a_new_association_is_taken_by_the_listener(make_small_house: Make) -> None:
    """The roles reversed: the PACS is requestor and SCP of the service."""
    with CommittingPacs(reports="new") as pacs:
        house = sending_to(make_small_house, pacs, rest=confirmation(0))
        with listening(house) as pacs.report_to:
            confirm(house)
            wait_until(lambda: states(house) == [COMMITTED] * 2, what="the report")
    assert pacs.answers == [0]


def test_a_report_that_comes_twice_changes_nothing_the_second_time(make_small_house: Make) -> None:
    """Answered with success both times: the peer only lost our answer."""
    with CommittingPacs(reports="new", reports_times=2) as pacs:
        house = sending_to(make_small_house, pacs, rest=confirmation(0))
        with listening(house) as pacs.report_to:
            confirm(house)
            wait_until(lambda: len(pacs.answers) == 2, what="both reports")
    assert pacs.answers == [0, 0]
    assert states(house) == [COMMITTED] * 2
    assert events(house).count("result committed") == 2


def test_a_report_of_an_unknown_transaction_is_refused(make_small_house: Make) -> None:
    """0x0115, and nothing changes."""
    with CommittingPacs(reports="never") as pacs:
        house = sending_to(make_small_house, pacs, rest=confirmation(0))
        confirm(house)
        pacs.asked[0].transaction_uid = "2.25.4711"
        with listening(house) as pacs.report_to:
            pacs.report(pacs.asked[0])
    assert pacs.answers == [0x0115]
    assert states(house) == [SENT] * 2


def test_a_result_that_the_pacs_has_lost_is_sent_again(make_house: Make) -> None:
    """Reported as 0x0112; the other one is committed. After the second sending both are."""
    with CommittingPacs() as pacs:
        house = sending_to(make_house, pacs)
        lost = uid_of(house)
        pacs.lose(lost)
        house.change(Delivery, created_at=now() - timedelta(days=30), attempts=9)
        confirm(house)
        assert states(house) == [PENDING, COMMITTED]
        again = house.all(Delivery)[0]
        assert "0x0112" in again.last_error
        assert again.attempts == 0
        assert min(again.created_at, again.not_before) > now() - timedelta(seconds=60), "it has its whole time again"
        send(house)
        assert pacs.held[lost] == 1
        confirm(house)
    assert states(house) == [COMMITTED] * 2
    assert "result will be sent again" in events(house)
    assert house.all(Delivery)[0].confirm_rounds == 1


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (FailureReason.PROCESSING_FAILURE, PENDING),
        (FailureReason.NO_SUCH_OBJECT_INSTANCE, PENDING),
        (FailureReason.RESOURCE_LIMITATION, PENDING),
        (0xC000, PENDING),
        (FailureReason.DUPLICATE_TRANSACTION_UID, SENT),
        (FailureReason.CLASS_INSTANCE_CONFLICT, DEAD),
        (FailureReason.SOP_CLASS_NOT_SUPPORTED, DEAD),
    ],
)
def test_each_failure_reason_has_its_consequence(make_small_house: Make, reason: int, state: DeliveryState) -> None:
    """Sent again, asked again under a new transaction, or dead."""
    with CommittingPacs() as pacs:
        house = sending_to(make_small_house, pacs)
        pacs.failures = {uid_of(house): reason}
        confirm(house)
        assert states(house) == [state, COMMITTED]
        assert f"0x{int(reason):04X}" in house.all(Delivery)[0].last_error
        if state is SENT:
            pacs.failures = {}
            confirm(house, later_s=10)
            assert states(house) == [COMMITTED] * 2
            assert len({asked.transaction_uid for asked in pacs.asked}) == 2


def test_a_result_is_not_sent_again_for_ever(make_small_house: Make) -> None:
    """Two further rounds, then the dead letter; `deliver` begins anew."""
    with CommittingPacs() as pacs:
        house = sending_to(make_small_house, pacs)
        uid = uid_of(house)
        pacs.failures = {uid: FailureReason.PROCESSING_FAILURE}
        for _ in range(4):
            confirm(house)
            send(house)
        assert states(house) == [DEAD, COMMITTED]
        assert pacs.held[uid] == 3
        assert "given up after 2 further rounds" in house.all(Delivery)[0].last_error
        assert deliveries.restart(house.database) == 1
        send(house)
        confirm(house)
        assert states(house) == [PENDING, COMMITTED], "its rounds begin anew too"
        pacs.failures = {}
        send(house)
        confirm(house)
    assert states(house) == [COMMITTED] * 2
    assert {d.committed_by for d in house.all(Delivery)} == {"report"}


def test_a_lost_result_that_was_replaced_is_not_sent_again(make_small_house: Make) -> None:
    """An outdated report must not reach the PACS after the newer one; what is there of it may be committed."""
    with CommittingPacs() as pacs:
        house = sending_to(make_small_house, pacs)
        pacs.lose(uid_of(house))
        house.change(Result, superseded_at=now())
        confirm(house)
    assert states(house) == [DeliveryState.CANCELLED, COMMITTED]


@pytest.mark.parametrize("reason", [FailureReason.PROCESSING_FAILURE, FailureReason.CLASS_INSTANCE_CONFLICT])
def test_a_replaced_result_that_is_given_up_cannot_be_restarted(make_small_house: Make, reason: int) -> None:
    """Nobody has to look at it any more, and `deliver` would send it after the newer one."""
    with CommittingPacs() as pacs:
        house = sending_to(make_small_house, pacs, rest=confirmation(rounds=0))
        pacs.failures = {uid_of(house): reason}
        house.change(Result, superseded_at=now())
        confirm(house)
    assert states(house) == [DeliveryState.CANCELLED, COMMITTED]
    assert deliveries.restart(house.database) == 0


def test_a_late_report_still_counts(make_small_house: Make) -> None:
    """After the time-out, and after the result was put back into the outbox: what is there need not be sent."""
    with CommittingPacs(reports="never", finds=False) as pacs:
        house = sending_to(make_small_house, pacs, rest=confirmation(0))
        confirm(house)
        confirm(house, later_s=601)
        assert states(house) == [PENDING] * 2
        with listening(house) as pacs.report_to:
            pacs.report(pacs.asked[0])
        assert states(house) == [COMMITTED] * 2
        send(house)
    assert set(pacs.held.values()) == {1}


def test_a_late_failure_of_an_older_transaction_does_not(make_small_house: Make) -> None:
    """It was sent again since."""
    with CommittingPacs(reports="never", finds=False) as pacs:
        house = sending_to(make_small_house, pacs, rest=confirmation(0))
        confirm(house)
        confirm(house, later_s=601)
        send(house)
        confirm(house)
        pacs.failures = dict.fromkeys(pacs.held, 0x0112)
        with listening(house) as pacs.report_to:
            pacs.report(pacs.asked[0])
        assert states(house) == [SENT] * 2
        assert len(pacs.asked) == 2


def test_a_destination_that_no_longer_confirms_leaves_it_at_sent(make_small_house: Make) -> None:
    """Config was changed: nothing waits for ever."""
    with CommittingPacs(reports="never") as pacs:
        house = sending_to(make_small_house, pacs, rest=confirmation(0))
        house.config = make_small_house(TIMES + destination(pacs.port)).config
        confirm(house)
    assert states(house) == [SENT] * 2
    with house.database.reading() as session:
        assert commitments.any_due(session) == set()
        assert reports.ledger(session)["confirmation"]["waiting"] == 0


def test_what_was_not_asked_for_is_not_believed(make_small_house: Make) -> None:
    """A report that names other instances."""
    with CommittingPacs(reports="never") as pacs:
        house = sending_to(make_small_house, pacs, rest=confirmation(0))
        confirm(house)
    told = Report(pacs.asked[0].transaction_uid, (Reference("1.2", "1.2.3"),))
    assert commitments.report(house.database, told, config=house.config) is Known.OPEN
    assert states(house) == [SENT] * 2


@pytest.mark.peer("orthanc")
def test_orthanc_commits_to_what_it_has_and_gets_again_what_it_has_lost(orthanc: Orthanc, make_house: Make) -> None:
    """Its report comes on an association of its own. One result is deleted there before it is asked about."""
    at_orthanc = destination(orthanc.dicom_port, ae_title="ORTHANC")
    house = make_house(TIMES + at_orthanc + COMMIT + confirmation(0))
    house.finish(house.claimed())
    send(house)
    orthanc.delete(uid_of(house))
    with listening(house) as port:
        orthanc.add_modality("ICHNODE", port)
        confirm(house)
        wait_until(lambda: states(house) == [PENDING, COMMITTED], what="the report of the lost one")
        assert house.all(Delivery)[0].last_status == "0x0112"
        send(house)
        confirm(house)
        wait_until(lambda: states(house) == [COMMITTED] * 2, what="the second report")
    assert len(orthanc.instances()) == 2


def test_nothing_is_confirmed_where_nobody_asked_for_it(make_small_house: Make) -> None:
    """SENT is the end, and the job is done."""
    with CommittingPacs() as pacs:
        house = sending_to(make_small_house, pacs, "")
        confirm(house)
        with house.database.reading() as session:
            job = reports.jobs(session, state=None, limit=1)[0]
    assert states(house) == [SENT] * 2
    assert pacs.asked == []
    assert job["arrived"] == "sent"
