"""Tasks: the node's name for a job is the worker's, and a message becomes one call with its id."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from celery.contrib.testing.worker import start_worker

from dicom_node import broker
from dicom_node.config import Config, parse_config
from tests.peers import wait_until
from worker import pipeline, tasks
from worker.__main__ import WRONG_CONFIGURATION
from worker.app import make_app


def config(folder: Path) -> Config:
    """An embedded broker."""
    return parse_config("[broker]\npoll_interval_s = 0.01", source="test", base=folder)


def test_the_name_that_the_node_sends_is_registered(tmp_path: Path) -> None:
    """`dicom_node` reaches the worker by this name alone."""
    app = make_app(config(tmp_path))
    tasks.register(app, SimpleNamespace())  # type: ignore[arg-type]
    app.finalize()
    assert broker.RUN_JOB in app.tasks
    assert app.tasks[broker.RUN_JOB].acks_late


def test_a_message_runs_its_job_in_a_real_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message once, in order, and a job that raises does not end the worker."""
    ran: list[int] = []

    def run_job(_runtime: object, job_id: int) -> None:
        ran.append(job_id)
        if job_id == 1:
            raise KeyError(job_id)

    monkeypatch.setattr(pipeline, "run_job", run_job)
    settings = config(tmp_path)
    app = make_app(settings)
    runtime: Any = SimpleNamespace()
    tasks.register(app, runtime)
    sender = broker.make_celery(settings.broker)
    for job_id in (1, 2, 3):
        assert broker.publish_job(sender, job_id)
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20.0):
        wait_until(lambda: ran == [1, 2, 3], what="the jobs")
    assert broker.waiting_messages(sender, settings.broker.queue) == 0


def test_one_job_at_a_time_and_nothing_ahead(tmp_path: Path) -> None:
    """A second worker on another machine gets the next job, not this one's prefetched."""
    app = make_app(config(tmp_path))
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.worker_concurrency == 1
    assert app.conf.task_acks_late
    assert app.conf.accept_content == ["json"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_worker_without_its_device_does_not_start_and_says_so(tmp_path: Path) -> None:
    """In one line, as for any other value of config.toml that cannot be used."""
    file = tmp_path / "config.toml"
    file.write_text(f'[node]\ndata_dir = "{tmp_path}"\n[worker]\ndevice = "cuda"\n')
    command = [sys.executable, "-m", "worker", "--config", str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == WRONG_CONFIGURATION, ran.stderr
    assert ran.stderr == "DEVICE_UNUSABLE: PyTorch finds no device cuda on this machine; it finds cpu\n"
