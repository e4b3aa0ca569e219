"""The supervisor: parts that die come back, a stopped worker is no dead one, and the end is in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_node import jobs, service
from dicom_node.service import Part, Supervisor
from dicom_node.states import JobState
from tests.dicom_factory import write
from tests.dicom_node.house import House, head_ct
from tests.peers import Process, echoscu, free_port, storescu, wait_until

REPO = Path(__file__).parents[2]
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
"""Stands in for a part: what matters is that it is a process."""


@contextmanager
def supervising(house: House, *parts: Part) -> Iterator[Supervisor]:
    """A supervisor of these parts, in a thread."""
    supervisor, stop = Supervisor(house.config, None), threading.Event()
    supervisor.parts = list(parts)
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: all(part.process is not None for part in parts), what="the parts")
        yield supervisor
    finally:
        stop.set()
        thread.join()
        supervisor._database.engine.dispose()


def kill(part: Part) -> int:
    """SIGKILL; its old process id."""
    assert part.process is not None
    pid = part.process.pid
    os.kill(pid, signal.SIGKILL)
    return pid


def running(part: Part) -> int | None:
    """Its process id, while it runs."""
    return part.process.pid if part.process is not None and part.process.poll() is None else None


def _restarted(part: Part, old_pid: int) -> None:
    wait_until(lambda: running(part) not in (None, old_pid), what="the restart")


def test_a_part_that_dies_is_started_again(small_house: House) -> None:
    """Every time; the others go on."""
    part, other = Part("a", SLEEP), Part("b", SLEEP)
    with supervising(small_house, part, other):
        untouched = running(other)
        for _ in range(2):
            _restarted(part, kill(part))
        assert running(other) == untouched
    assert (running(part), running(other)) == (None, None)


def test_a_part_that_keeps_dying_is_started_more_and_more_slowly(
    small_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that cannot work must not burn a core."""
    monkeypatch.setattr(service, "FIRST_RESTART_S", 0.01)
    part = Part("a", [sys.executable, "-c", "raise SystemExit(1)"])
    waits: list[float] = []

    def waits_longer() -> bool:
        waits.append(part.wait_s)
        return part.wait_s > 0.1

    with supervising(small_house, part):
        wait_until(waits_longer, what="longer waits")
    seen = sorted(set(waits) - {0.0})
    assert seen == sorted(seen)
    assert seen[-1] >= 8 * seen[0]


def test_the_job_of_a_worker_that_died_is_queued_again_at_once(small_house: House) -> None:
    """Without waiting for its lease; the death is counted."""
    worker = Part("worker-0", SLEEP, is_worker=True)
    with supervising(small_house, worker):
        job = small_house.claimed(worker=worker.worker_id)
        kill(worker)
        wait_until(lambda: jobs.requeue_expired(small_house.database, small_house.config.worker), what="the release")
    assert (small_house.row(job.id).state, small_house.row(job.id).worker_deaths) == (JobState.QUEUED, 1)


def test_the_job_of_a_worker_that_was_stopped_is_handed_back(
    make_small_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed because it did not end in time: no death of its study."""
    house = make_small_house("[listener]\nshutdown_grace_s = 0.0")
    worker = Part("worker-0", SLEEP, is_worker=True)
    with supervising(house, worker):
        job = house.claimed(worker=worker.worker_id)
    assert (house.row(job.id).state, house.row(job.id).worker_deaths) == (JobState.QUEUED, 0)


def test_every_start_of_a_worker_has_a_name_of_its_own(small_house: House) -> None:
    """Or a dead one's release would take the jobs of its successor."""
    worker = Part("worker-0", SLEEP, is_worker=True)
    with supervising(small_house, worker):
        first = worker.worker_id
        _restarted(worker, kill(worker))
        assert worker.worker_id != first
        assert len(worker.worker_id) <= 128


def test_the_parts_follow_the_configuration(make_small_house: Callable[..., House]) -> None:
    """So many listeners and workers; each gets the same configuration file."""
    house = make_small_house("[listener]\nport = 4242\nacceptor_processes = 2\n[worker]\nprocesses = 3")
    parts = service._parts(house.config, Path("/etc/node.toml"))
    assert [part.name for part in parts] == ["listener-0", "listener-1", "sweeper", "worker-0", "worker-1", "worker-2"]
    for part in parts:
        assert "/etc/node.toml" in (*part.command, *part.environment.values())


@pytest.mark.peer("dcmtk")
def test_a_node_without_workers_receives_and_decides(tmp_path: Path) -> None:
    """`dicom-node serve` in its own processes: a study sent by storescu is queued; SIGTERM ends all of it."""
    port = free_port()
    config = tmp_path / "config.toml"
    config.write_text(
        f'[node]\ndata_dir = "data"\n[listener]\nport = {port}\nmin_free_bytes = 1\n[completion]\nsettle_s = 0.0\n'
        "[worker]\nprocesses = 0\n"
    )
    command = [sys.executable, "-m", "dicom_node", "--config", str(config)]
    with Process([*command, "serve"], name="node", folder=tmp_path, cwd=REPO) as node:
        wait_until(lambda: echoscu(port, called="ICHNODE", check=False).returncode == 0, what="C-ECHO", process=node)
        storescu([*write(head_ct(), tmp_path / "ct")], port, called="ICHNODE")

        def queued() -> bool:
            ran = subprocess.run([*command, "status", "--json"], capture_output=True, text=True, cwd=REPO, check=False)
            return '"queued": 1' in ran.stdout

        wait_until(queued, what="a queued job", process=node)
        node.stop()
        assert node.returncode == 0
    assert echoscu(port, called="ICHNODE", check=False).returncode != 0
