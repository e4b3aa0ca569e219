"""The lease: kept while the job runs, noticed when lost, and the end of a process whose job runs far too long."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from dicom_node import jobs
from dicom_node.config_sections import WorkerConfig
from dicom_node.db import now
from dicom_node.errors import LeaseLost
from dicom_node.jobs import Outcome
from dicom_node.states import JobState
from dicom_node.tables import Job
from tests.dicom_node.house import House
from tests.peers import wait_until
from worker import pipeline
from worker.lease import TIME_LIMIT_EXIT, Lease

SHORT = WorkerConfig(lease_s=1.2, time_limit_s=60.0)


@pytest.fixture
def house() -> Iterator[House]:
    """A node without processes."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        house = House(Path(folder))
        yield house
        house.engine.dispose()


def test_the_lease_is_renewed_while_the_job_runs(house: House) -> None:
    """And no longer: the job's last write ends it. That of a second attempt, not of the first."""
    first_attempt = house.claimed()
    jobs.release_worker(house.database, "worker-1")
    jobs.requeue_expired(house.database, house.config.worker)
    job = house.claimed(first_attempt.id)
    assert job.attempt == 2
    first = house.row(job.id).lease_until
    assert first is not None
    house.change(Job, lease_until=now())
    with Lease(house.database, job, SHORT) as lease:
        wait_until(lambda: (house.row(job.id).lease_until or now()) > now(), what="a renewal")
        lease.check()
    house.finish(job)
    assert house.row(job.id).lease_until is None


def test_a_lease_that_is_lost_is_noticed(house: House) -> None:
    """Cancelled, or given to another worker."""
    job = house.claimed()
    with Lease(house.database, job, SHORT) as lease:
        jobs.cancel(house.database, job.id, why="test")

        def lost() -> bool:
            try:
                lease.check()
            except LeaseLost:
                return True
            return False

        wait_until(lost, what="the loss")
    assert house.row(job.id).state is JobState.CANCELLED


def test_a_database_that_is_gone_for_a_moment_loses_no_lease(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again at the next beat."""
    real, left = jobs.renew, [1]

    def fails_once(*arguments: object, **named: object) -> None:
        if left:
            left.pop()
            raise sa.exc.OperationalError("", None, Exception("gone"))
        real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "renew", fails_once)
    job = house.claimed()
    house.change(Job, lease_until=now() - timedelta(seconds=5))
    with Lease(house.database, job, SHORT) as lease:
        wait_until(lambda: (house.row(job.id).lease_until or now()) > now(), what="a renewal")
        lease.check()


PROGRAM = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from dicom_node import jobs
from dicom_node.config_sections import DatabaseConfig, WorkerConfig
from dicom_node.db import Database, make_engine
from worker.lease import Lease
database = Database(make_engine(DatabaseConfig(url=sys.argv[1])))
job = jobs.claim(database, int(sys.argv[2]), worker="w", lease_s=30)
if sys.argv[3] == "cancelled":
    jobs.cancel(database, job.id, why="test")
with Lease(database, job, WorkerConfig(lease_s=300.0, time_limit_s=1.5)):
    time.sleep(60)
"""


@pytest.mark.parametrize("state", ["running", "cancelled"])
def test_a_job_past_its_time_limit_takes_its_process_down(house: House, state: str) -> None:
    """Native code cannot be interrupted; also when the job is no longer its own, or the worker would hang for ever."""
    job_id = house.job()
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, house.config.database.url, str(job_id), state],
        capture_output=True,
        check=False,
        timeout=50,
        cwd=Path(__file__).parents[2],
    )
    assert ran.returncode == TIME_LIMIT_EXIT, ran.stderr.decode()[-500:]
    if state == "running":
        assert jobs.release_worker(house.database, "w") == 1
        assert jobs.requeue_expired(house.database, house.config.worker) == [job_id]
        assert house.row(job_id).worker_deaths == 1


def test_the_end_of_a_job_waits_for_a_database_that_is_gone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was computed is kept while the lease lives, and thrown away once it is lost."""
    real, left = jobs.finish, [1, 1]

    def fails_twice(*arguments: Any) -> None:
        if left:
            left.pop()
            raise sa.exc.OperationalError("", None, Exception("gone"))
        real(*arguments)

    monkeypatch.setattr(jobs, "finish", fails_twice)
    monkeypatch.setattr(pipeline, "DATABASE_RETRY_S", 0.01)
    runtime: Any = SimpleNamespace(database=house.database, config=house.config)
    job = house.claimed()
    rejected = Outcome(JobState.REJECTED, "rejected", (), rejection=("GAP", "slices are missing"))
    with Lease(house.database, job, SHORT) as lease:
        pipeline._finish(runtime, job, rejected, lease)
        assert house.row(job.id).state is JobState.REJECTED
        with pytest.raises(LeaseLost):
            pipeline._finish(runtime, job, rejected, lease)
