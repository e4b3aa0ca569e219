"""The sweep: completion to message, lost messages, lost workers, broker and database that go away and come back."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node import broker, jobs, sweeper
from dicom_node.db import now
from dicom_node.states import JobState
from dicom_node.sweeper import Sweeper
from dicom_node.tables import Job
from tests.dicom_node.house import House, head_ct, looping
from tests.peers import PostgreSQL, RabbitMQ, Redis, wait_until

FAST = "sweep_interval_s = 0.02\n"


def make_sweeper(house: House) -> Sweeper:
    """As the sweeper's process makes it."""
    return Sweeper(house.database, house.config, broker.make_celery(house.config.broker))


def waiting(house: House) -> int | None:
    """Messages in the broker."""
    return broker.waiting_messages(broker.make_celery(house.config.broker), house.config.broker.queue)


def sweeping(house: House) -> AbstractContextManager[threading.Thread]:
    """The loop in a thread."""
    return looping(make_sweeper(house).run)


def jobs_of(house: House) -> list[Job]:
    """Every job."""
    return house.all(Job)


def test_a_complete_study_becomes_a_job_and_a_message(house: House) -> None:
    """The row says that it was published."""
    house.receive(head_ct())
    make_sweeper(house).sweep()
    (job,) = jobs_of(house)
    assert (job.state, job.published_at is not None, waiting(house)) == (JobState.QUEUED, True, 1)


def test_a_message_that_was_lost_is_sent_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker was killed with it, or the broker forgot; not before it has had time to be taken."""
    monkeypatch.setattr(sweeper, "LEASE_CHECK_S", 0.0)
    house.receive(head_ct())
    one = make_sweeper(house)
    one.sweep()
    _lose_messages(house)
    one.sweep()
    assert waiting(house) == 0
    house.change(Job, published_at=now() - timedelta(seconds=sweeper.LOST_MESSAGE_S + 1))
    one.sweep()
    assert waiting(house) == 1
    one.sweep()
    assert waiting(house) == 1


def test_a_lost_message_is_missed_in_a_busy_queue_too(small_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is never empty must not hide it: the study would wait for ever."""
    monkeypatch.setattr(sweeper, "LEASE_CHECK_S", 0.0)
    one = make_sweeper(small_house)
    for number in (1, 2, 3):
        small_house.receive(head_ct(study_uid=f"2.25.{number}0", series_uid=f"2.25.{number}1"))
        one.sweep()
    _lose_messages(small_house, keep=2)
    small_house.change(Job, published_at=now() - timedelta(seconds=sweeper.LOST_MESSAGE_S + 1))
    one.sweep()
    assert waiting(small_house) == 2 + 3, "a second message for a job does no harm"
    small_house.change(Job, published_at=now() - timedelta(seconds=sweeper.LOST_MESSAGE_S + 1))
    one.sweep()
    assert waiting(small_house) == 5


def _lose_messages(house: House, keep: int = 0) -> None:
    folder = Path(house.config.broker.url.removeprefix("folder://")) / house.config.broker.queue
    for path in sorted(folder.glob("*.msg"))[keep:]:
        path.unlink()


def test_the_job_of_a_lost_worker_is_sent_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent for longer than its lease."""
    monkeypatch.setattr(sweeper, "LEASE_CHECK_S", 0.0)
    job = house.claimed()
    house.change(Job, lease_until=now() - timedelta(seconds=1))
    make_sweeper(house).sweep()
    row = house.row(job.id)
    assert (row.state, row.worker_deaths, row.published_at is not None) == (JobState.QUEUED, 1, True)
    assert waiting(house) == 1
    again = house.claimed(job.id)
    assert again.attempt == 2


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("redis", marks=pytest.mark.peer("redis")),
        pytest.param("rabbitmq", marks=pytest.mark.peer("rabbitmq")),
    ],
)
def test_studies_complete_while_the_broker_is_down_and_run_when_it_is_back(
    request: pytest.FixtureRequest, make_small_house: Callable[..., House], kind: str
) -> None:
    """Nothing but the message waits; no study is forgotten."""
    url = request.getfixturevalue(f"{kind}_url")
    server: Redis | RabbitMQ = request.getfixturevalue(f"{kind}_server")
    house = make_small_house(f'{FAST}[broker]\nurl = "{url}"')
    server.stop()
    with sweeping(house) as loop:
        house.receive(head_ct())
        wait_until(lambda: len(jobs_of(house)) == 1, what="the first job")
        house.receive(head_ct(study_uid="2.25.90", series_uid="2.25.91"))
        wait_until(lambda: len(jobs_of(house)) == 2, what="the second job")
        assert [job.published_at for job in jobs_of(house)] == [None, None]
        server.start()
        wait_until(lambda: all(job.published_at for job in jobs_of(house)), what="messages")
        assert loop.is_alive()
    assert waiting(house) == 2


def test_a_locked_database_is_waited_for(
    make_small_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's backup holds SQLite for longer than the lock timeout."""
    monkeypatch.setattr(sweeper, "AFTER_FAULT_S", 0.02)
    house = make_small_house(f"{FAST}[worker]\nlease_s = 1.1")
    house.receive(head_ct())
    faults: list[str] = []
    monkeypatch.setattr(Sweeper, "_spare_leases", lambda _self: faults.append("locked"))
    with sqlite3.connect(house.engine.url.database or "", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with sweeping(house) as loop:
            wait_until(lambda: faults, what="a fault")
            assert loop.is_alive()
            other.execute("COMMIT")
            wait_until(lambda: len(jobs_of(house)) == 1, what="the job")
    other.close()


@pytest.mark.peer("postgresql")
def test_a_database_that_is_gone_is_waited_for(
    postgresql_server: PostgreSQL, make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL is restarted under a running sweeper."""
    monkeypatch.setattr(sweeper, "AFTER_FAULT_S", 0.02)
    with postgresql_server.database() as url:
        house = make_house(FAST, url=url)
        with sweeping(house) as loop:
            postgresql_server.stop()
            time.sleep(0.3)
            postgresql_server.start()
            house.receive(head_ct())
            wait_until(lambda: len(jobs_of(house)) == 1, what="the job")
            assert loop.is_alive()
        house.engine.dispose()


def test_workers_may_renew_their_leases_first_when_the_database_is_back(house: House) -> None:
    """While it was gone they could not; taking their jobs away would waste their work."""
    job = house.claimed()
    house.change(Job, lease_until=now() - timedelta(seconds=1))
    one = make_sweeper(house)
    one._spare_leases()
    one.sweep()
    assert house.row(job.id).state is JobState.RUNNING
    one._next_repair = 0.0
    one.sweep()
    assert house.row(job.id).state is JobState.QUEUED


def test_a_clock_that_jumps_ahead_takes_no_job_from_a_living_worker(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set by NTP, or a virtual machine was asleep: no death is counted, what was computed is not thrown away."""
    monkeypatch.setattr(sweeper, "LEASE_CHECK_S", 0.0)
    one, job, real = make_sweeper(house), house.claimed(), time.time
    one.sweep()
    house.change(Job, lease_until=now() - timedelta(seconds=30))
    monkeypatch.setattr(time, "time", lambda: real() + 60)
    for _ in range(2):
        one.sweep()
    assert (house.row(job.id).state, house.row(job.id).worker_deaths) == (JobState.RUNNING, 0)
    jobs.renew(house.database, job.id, attempt=job.attempt, lease_s=30.0)
    one._next_repair = 0.0
    one.sweep()
    assert house.row(job.id).state is JobState.RUNNING
    house.change(Job, lease_until=now() - timedelta(seconds=1))
    one.sweep()
    assert house.row(job.id).state is JobState.QUEUED, "its worker did not come back"


def test_a_fault_nobody_thought_of_does_not_end_the_loop(
    make_small_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repairs everything else."""
    monkeypatch.setattr(sweeper, "AFTER_FAULT_S", 0.02)
    real, left = jobs.requeue_expired, [1]

    def fails_once(*arguments: object) -> object:
        if left:
            left.pop()
            raise KeyError("a bug")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "requeue_expired", fails_once)
    house = make_small_house(FAST)
    with sweeping(house):
        house.receive(head_ct())
        wait_until(lambda: jobs_of(house) and jobs_of(house)[0].published_at, what="the job")
    assert not left
