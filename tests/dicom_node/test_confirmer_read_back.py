"""Arrived for certain: C-FIND where a PACS does not commit, does not answer, or is away."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dicom_node.db import now
from dicom_node.tables import Delivery
from tests.dicom_node.confirming import (
    COMMIT,
    COMMITTED,
    DEAD,
    PENDING,
    READ_BACK,
    SENT,
    Make,
    confirm,
    confirmation,
    destination,
    send,
    sending_to,
    states,
    uid_of,
)
from tests.dicom_node.test_deliverer import TIMES
from tests.peers import Orthanc, QueryScp
from tests.peers.committing_pacs import CommittingPacs

# pynetdicom drops the socket of a connection that failed without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")


def test_without_a_report_it_looks_by_c_find(make_house: Make) -> None:
    """Not before the time is over; found is committed, missing is sent again."""
    with CommittingPacs(reports="never") as pacs:
        house = sending_to(make_house, pacs, rest=confirmation(0))
        confirm(house)
        confirm(house, later_s=500)
        assert states(house) == [SENT] * 2, "600 s are not over"
        pacs.lose(uid_of(house, 1))
        confirm(house, later_s=101)
    assert states(house) == [COMMITTED, PENDING]
    assert house.all(Delivery)[0].committed_by == "read back"
    assert "not found" in house.all(Delivery)[1].last_error


@pytest.mark.parametrize("how", [READ_BACK, COMMIT])
def test_a_pacs_without_commitment_is_asked_by_c_find(make_small_house: Make, how: str) -> None:
    """Whether config knows it or finds it out."""
    with CommittingPacs(commits=False) as pacs:
        house = sending_to(make_small_house, pacs, how)
        confirm(house)
    assert states(house) == [COMMITTED] * 2
    assert {d.committed_by for d in house.all(Delivery)} == {"read back"}


def test_a_request_that_is_refused_leads_to_c_find(make_small_house: Make) -> None:
    """The PACS takes the association and not the N-ACTION."""
    with CommittingPacs(action_status=0x0211) as pacs:
        house = sending_to(make_small_house, pacs)
        confirm(house)
    assert states(house) == [COMMITTED] * 2


def test_what_c_find_does_not_show_at_once_may_show_later(make_small_house: Make) -> None:
    """A PACS indexes in its own time."""
    with CommittingPacs() as pacs:
        house = sending_to(make_small_house, pacs, READ_BACK)
        held, pacs.held = pacs.held, {}
        confirm(house)
        assert states(house) == [SENT] * 2
        pacs.held = held
        confirm(house, later_s=10)
    assert states(house) == [COMMITTED] * 2


def test_what_a_pacs_shows_that_was_not_asked_for_does_not_count(make_small_house: Make) -> None:
    """There are peers that answer C-FIND with the whole series, whatever the key."""
    with CommittingPacs(ignores_keys=True) as pacs:
        house = sending_to(make_small_house, pacs, READ_BACK)
        pacs.lose(uid_of(house))
        confirm(house)
    assert states(house) == [SENT, COMMITTED]


def test_a_pacs_that_is_away_is_asked_again(make_small_house: Make) -> None:
    """Growing waits; no round is used up."""
    with CommittingPacs() as pacs:
        house = sending_to(make_small_house, pacs)
    confirm(house)
    rows = house.all(Delivery)
    assert [(d.state, d.confirm_rounds, d.confirm_attempts) for d in rows] == [(SENT, 0, 1)] * 2
    assert "no association" in rows[0].last_error
    assert rows[0].confirm_at > now() - timedelta(seconds=1)
    confirm(house, later_s=house.config.delivery.give_up_after_s + 1)
    assert states(house) == [DEAD] * 2


def test_a_pacs_that_came_back_is_asked_and_not_only_looked_at(make_small_house: Make) -> None:
    """No request got through before: what C-FIND shows is less than the word that it is kept."""
    with CommittingPacs() as pacs:
        house = sending_to(make_small_house, pacs)
    confirm(house)
    with CommittingPacs(held=pacs.held) as pacs:
        house.config = make_small_house(TIMES + destination(pacs.port) + COMMIT + confirmation()).config
        confirm(house, later_s=10)
    assert {row.committed_by for row in house.all(Delivery)} == {"report"}


@pytest.mark.peer("dcmtk")
def test_a_pacs_of_dcmtk_without_commitment_shows_what_it_has(make_small_house: Make) -> None:
    """dcmqrscp takes no commitment; what it was never sent it does not show."""
    with QueryScp() as pacs:
        house = make_small_house(TIMES + destination(pacs.port, ae_title=pacs.ae_title) + COMMIT)
        house.finish(house.claimed())
        send(house)
        with house.database.session() as session:
            session.get_one(Delivery, house.all(Delivery)[1].id).result.sop_instance_uid = "2.25.404"
        confirm(house)
    assert states(house) == [COMMITTED, SENT]
    assert "not found" in house.all(Delivery)[1].last_error


@pytest.mark.peer("orthanc")
def test_what_orthanc_shows_by_c_find_is_committed(orthanc: Orthanc, make_small_house: Make) -> None:
    """And what was deleted there is not found, and sent again."""
    house = make_small_house(TIMES + destination(orthanc.dicom_port, ae_title="ORTHANC") + READ_BACK)
    house.finish(house.claimed())
    send(house)
    orthanc.delete(uid_of(house, 1))
    confirm(house, later_s=601)
    assert states(house) == [COMMITTED, PENDING]
    send(house)
    confirm(house)
    assert states(house) == [COMMITTED] * 2
