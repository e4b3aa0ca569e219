"""The outbox against real PACS: up, down and up again, slow, refusing; and a database that goes away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from dicom_node import deliveries, outbox_loop, reports, scu
from dicom_node.db import now
from dicom_node.deliverer import deliver_due, deliver_until
from dicom_node.states import DeliveryState, ResultKind
from dicom_node.tables import Delivery
from tests.dicom_node.house import SEG, SR, STUDY, House, head_ct, looping
from tests.peers import Orthanc, StoreScp, free_port, wait_until

# pynetdicom drops the socket of a connection that failed without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
TIMES = "[delivery]\npoll_interval_s = 0.02\nretry_first_s = 0.05\nretry_longest_s = 0.2\n"


def destination(port: int, name: str = "pacs", ae_title: str = "PACS") -> str:
    """A section of config.toml."""
    return (
        f'[[delivery.destination]]\nname = "{name}"\nae_title = "{ae_title}"\nhost = "127.0.0.1"\n'
        f"port = {port}\ntimeout_s = 3.0\n"
    )


def deliver(house: House) -> int:
    """One round over every destination."""
    return deliver_due(house.database, house.config, house.config.archive_dir)


def states(house: House, name: str = "pacs") -> list[DeliveryState]:
    """Of a destination's deliveries."""
    return [delivery.state for delivery in house.all(Delivery) if delivery.destination == name]


def outbox(house: House) -> AbstractContextManager[threading.Thread]:
    """The loop, as the sweeper's process runs it."""
    return looping(deliver_until, house.database, house.config, house.config.archive_dir)


@pytest.mark.peer("orthanc")
def test_results_reach_a_pacs_that_was_down(orthanc: Orthanc, make_house: Callable[..., House]) -> None:
    """No inference is repeated: only the sending is."""
    house = make_house(TIMES + destination(orthanc.dicom_port, ae_title="ORTHANC"))
    house.finish(house.claimed())
    orthanc.stop()
    with outbox(house):
        wait_until(lambda: min(d.attempts for d in house.all(Delivery)) >= 2, what="tries")
        assert states(house) == [DeliveryState.PENDING] * 2
        assert "no association" in house.all(Delivery)[0].last_error
        orthanc.start()
        wait_until(lambda: states(house) == [DeliveryState.SENT] * 2, what="delivery")
    assert sorted(one.modality for one in orthanc.series()) == ["SEG", "SR"]
    assert house.all(Delivery)[0].last_status == "0x0000"


@pytest.mark.peer("dcmtk")
def test_a_pacs_that_is_silent_delays_no_other(storescp: StoreScp, make_small_house: Callable[..., House]) -> None:
    """Each destination has its own thread, also for what comes while another is being waited for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow = destination(silent.getsockname()[1], "a").replace("timeout_s = 3.0", "timeout_s = 100.0")
        house = make_small_house(TIMES + slow + destination(storescp.port, "b"))
        house.finish(house.claimed())
        with outbox(house):
            wait_until(lambda: states(house, "b") == [DeliveryState.SENT] * 2, what="delivery to b")
            house.finish(house.claimed(house.job(head_ct(study_uid="2.25.90", series_uid="2.25.91"))))
            wait_until(lambda: states(house, "b") == [DeliveryState.SENT] * 4, what="later delivery to b")
            assert states(house, "a") == [DeliveryState.PENDING] * 4
            assert house.all(Delivery)[0].attempts == 1, "b did not wait for a to time out"
            silent.close()


@pytest.mark.peer("dcmtk")
def test_a_class_that_is_refused_is_dead_with_a_hint_and_the_rest_is_sent(
    make_small_house: Callable[..., House],
) -> None:
    """After the PACS was taught, `dicom-node deliver` sends it."""
    with StoreScp(accepts=[SR]) as scp:
        house = make_small_house(TIMES + destination(scp.port))
        house.finish(house.claimed(), kinds=(ResultKind.SEG, ResultKind.SR))
        assert deliver(house) == 2
        dead, sent = house.all(Delivery)
        assert (dead.state, sent.state) == (DeliveryState.DEAD, DeliveryState.SENT)
        assert dead.last_status == "0x0122"
        assert "accepts no Segmentation Storage" in dead.last_error
        assert "[[delivery.route]]" in dead.last_error
        port = scp.port
    with StoreScp(port=port):
        deliveries.restart(house.database)
        assert deliver(house) == 1
        assert states(house) == [DeliveryState.SENT] * 2


NEW_FORMS = (
    '[[results.profile]]\nname = "new"\nseg = ["seg-labelmap", "seg-fractional", "seg-binary"]\nsr = ["sr-3d", "sr"]\n'
)


def new_forms(port: int, ae_title: str = "PACS") -> str:
    """A destination that is to get new forms first."""
    return TIMES + destination(port, ae_title=ae_title) + 'profile = "new"\n' + NEW_FORMS


def by_state(house: House) -> dict[str, list[str]]:
    """State -> the variants of the deliveries in it, without their series numbers."""
    found: dict[str, list[str]] = {}
    with house.database.reading() as session:
        for delivery in session.scalars(sa.select(Delivery).order_by(Delivery.id)):
            found.setdefault(delivery.state.value, []).append(delivery.result.variant.partition(",")[0])
    return found


@pytest.mark.peer("dcmtk")
def test_a_pacs_that_refuses_a_class_gets_the_next_form_of_the_profile(make_house: Callable[..., House]) -> None:
    """The log, the history and the list say so; the report goes that names the segmentation which is there."""
    with StoreScp(accepts=[SEG, SR]) as scp:
        house = make_house(new_forms(scp.port))
        job = house.claimed()
        house.finish(job)
        with structlog.testing.capture_logs() as logs:
            assert deliver(house) == 2, "the preferred forms are due; the report is withdrawn with its segmentation"
            assert deliver(house) == 2, "what goes instead"
        assert deliver(house) == 0
        assert by_state(house) == {
            "SENT": ["seg-fractional", "sr-3d of seg-fractional"],
            "REFUSED": ["seg-labelmap", "sr-3d of seg-labelmap", "sr of seg-labelmap"],
            "CANCELLED": ["seg-binary", "sr of seg-fractional", "sr-3d of seg-binary", "sr of seg-binary"],
        }
        assert len(scp.files()) == 2
    (said,) = (line for line in logs if line["event"] == "form refused, another goes instead")
    assert (said["form"], said["instead"]) == ("seg-labelmap", "seg-fractional")
    assert "accepts no" in said["error"]
    with house.database.reading() as session:
        told = reports.show(session, STUDY)
        listed = reports.deliveries(session, state=DeliveryState.REFUSED, limit=1)
        balance = reports.ledger(session)
    (event,) = (event for event in told["history"] if event["event"] == "form refused, another goes instead")
    assert (event["form"], event["instead"], event["destination"]) == ("seg-labelmap", "seg-fractional", "pacs")
    assert listed[0]["form"] == "sr"
    assert told["jobs"][0]["arrived"] == "sent", "forms that did not go are not missed"
    assert balance["balances"]
    assert balance["deliveries"] | {"sent": 2, "refused": 3, "cancelled": 4, "spare": 0} == balance["deliveries"]


@pytest.mark.peer("dcmtk")
def test_what_goes_instead_is_sent_once_when_the_deliverer_is_killed_between(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the refusal was written, and after it."""
    with StoreScp(accepts=[SEG, SR]) as scp:
        house = make_house(new_forms(scp.port))
        house.finish(house.claimed())
        noted = deliveries.not_sent

        def killed_before(*_: object, **__: object) -> None:
            raise SystemExit

        def killed_after(*arguments: Any, **named: Any) -> None:
            noted(*arguments, **named)
            raise SystemExit

        for killed in (killed_before, killed_after):
            monkeypatch.setattr(deliveries, "not_sent", killed)
            with pytest.raises(SystemExit):
                deliver(house)
            assert scp.files() == []
            house.change(Delivery, lease_until=None)
        monkeypatch.setattr(deliveries, "not_sent", noted)
        deliver(house)
        deliver(house)
        assert by_state(house)["SENT"] == ["seg-fractional", "sr-3d of seg-fractional"]
        assert len(scp.files()) == 2
        assert scp.process.output().count("Received Store Request") == 2


@pytest.mark.peer("dcmtk")
def test_when_no_form_is_left_it_is_the_dead_letter(make_house: Callable[..., House]) -> None:
    """After the PACS was taught, `dicom-node deliver` sends the form that the report refers to."""
    with StoreScp(accepts=[SR]) as scp:
        house = make_house(new_forms(scp.port))
        house.finish(house.claimed())
        for _ in range(4):
            deliver(house)
        assert by_state(house)["DEAD"] == ["seg-binary"]
        assert by_state(house)["SENT"] == ["sr-3d of seg-binary"], "the report is sent without it, as ever"
        port = scp.port
    assert "accepts no Segmentation" in next(d for d in house.all(Delivery) if d.state is DeliveryState.DEAD).last_error
    with StoreScp(port=port):
        assert deliveries.restart(house.database) == 1
        deliver(house)
        assert by_state(house)["SENT"] == ["seg-binary", "sr-3d of seg-binary"]


@pytest.mark.peer("orthanc")
def test_orthanc_takes_no_label_map_and_gets_the_binary_segmentation(
    orthanc: Orthanc, make_small_house: Callable[..., House]
) -> None:
    """Its SOP class is of 2024."""
    house = make_small_house(new_forms(orthanc.dicom_port, "ORTHANC").replace('"seg-fractional", ', ""))
    house.finish(house.claimed())
    deliver(house)
    deliver(house)
    assert by_state(house)["SENT"] == ["seg-binary", "sr-3d of seg-binary"]
    assert sorted(one.modality for one in orthanc.series()) == ["SEG", "SR"]


@pytest.mark.peer("dcmtk")
def test_nothing_is_lost_when_the_deliverer_dies_before_it_can_note_the_answer(
    storescp: StoreScp, make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease runs out and it is sent again; the PACS keeps one."""
    house = make_house(TIMES + destination(storescp.port))
    house.finish(house.claimed())
    noted = deliveries.sent

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    monkeypatch.setattr(deliveries, "sent", killed)
    with pytest.raises(SystemExit):
        deliver(house)
    monkeypatch.setattr(deliveries, "sent", noted)
    assert deliver(house) == 0, "the lease holds"
    house.change(Delivery, lease_until=now() - timedelta(seconds=1))
    assert deliver(house) == 2
    assert states(house) == [DeliveryState.SENT] * 2
    assert len({path.name for path in storescp.files()}) == 2


@pytest.mark.peer("dcmtk")
def test_a_database_that_is_gone_for_a_moment_ends_neither_loop_nor_delivery(
    storescp: StoreScp, make_small_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking, claiming and noting fail once each."""
    monkeypatch.setattr(outbox_loop, "AFTER_FAULT_S", 0.05)
    house = make_small_house(TIMES + "lease_s = 1.1\n" + destination(storescp.port))
    house.finish(house.claimed())
    for name in ("any_due", "claim_due", "sent"):
        _fail_once(monkeypatch, name)
    with outbox(house):
        wait_until(lambda: states(house) == [DeliveryState.SENT] * 2, what="delivery")


def _fail_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real, left = getattr(deliveries, name), [1]

    def fails_once(*arguments: object, **named: object) -> object:
        if left:
            left.pop()
            raise sa.exc.OperationalError("", None, Exception("gone"))
        return real(*arguments, **named)

    monkeypatch.setattr(deliveries, name, fails_once)


@pytest.mark.peer("dcmtk")
def test_a_fault_nobody_thought_of_does_not_end_all_delivering(
    storescp: StoreScp, make_small_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logged, and tried again when the lease is over."""
    monkeypatch.setattr(outbox_loop, "AFTER_FAULT_S", 0.05)
    house = make_small_house(TIMES + "lease_s = 1.1\n" + destination(storescp.port))
    house.finish(house.claimed())
    real, left = scu.send, [1]

    def fails_once(*arguments: object, **named: object) -> None:
        if left:
            left.pop()
            raise KeyError("a bug")
        real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(scu, "send", fails_once)
    with outbox(house):
        wait_until(lambda: states(house) == [DeliveryState.SENT] * 2, what="delivery")


def test_a_round_that_gets_no_thread_ends_no_loop(
    make_small_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the system's limit of threads the outbox waits; it goes on when there are some again."""
    house = make_small_house(TIMES + destination(free_port()))
    house.finish(house.claimed())
    monkeypatch.setattr(outbox_loop, "AFTER_FAULT_S", 0.05)
    real, limit = threading.Thread.start, iter([RuntimeError("can't start new thread")])

    def start(thread: threading.Thread) -> None:
        if thread.name == "outbox-pacs":
            for reached in limit:
                raise reached
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with outbox(house) as loop:
        wait_until(lambda: not loop.is_alive() or house.all(Delivery)[0].attempts, what="a try")
        assert loop.is_alive()
    assert list(limit) == []


def test_a_result_file_that_is_away_is_tried_again_and_one_that_is_broken_is_dead(
    make_small_house: Callable[..., House],
) -> None:
    """A shared folder may come back; a file that is no DICOM will not change."""
    house = make_small_house(TIMES + destination(free_port()))
    house.finish(house.claimed())
    away, broken = sorted((house.config.archive_dir / "results").glob("*.dcm"))
    away.unlink()
    broken.write_bytes(b"not DICOM")
    assert deliver(house) == 2
    assert sorted(states(house)) == [DeliveryState.DEAD, DeliveryState.PENDING]


def test_a_destination_that_config_no_longer_has_is_dead_with_a_reason(make_small_house: Callable[..., House]) -> None:
    """Nobody would ever send it."""
    house = make_small_house(TIMES + destination(free_port(), "old"))
    house.finish(house.claimed())
    house.config = make_small_house(TIMES + destination(free_port(), "new")).config
    assert deliver(house) == 2
    assert states(house, "old") == [DeliveryState.DEAD] * 2
    assert "called 'old'" in house.all(Delivery)[0].last_error
