"""Keeps a job's lease alive while the network runs, and ends the process when a job runs far too long."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import jobs
from dicom_node.config_sections import WorkerConfig
from dicom_node.db import Database
from dicom_node.errors import LeaseLost
from dicom_node.jobs import ClaimedJob

log = structlog.get_logger()

TIME_LIMIT_EXIT = 70
"""Exit code of a worker that ended itself because a job passed its time limit (sysexits.h EX_SOFTWARE)."""


class Lease:
    """`with Lease(...) as lease:` renews every third of the lease; `lease.check()` raises once it is lost.

    Native code cannot be interrupted, so a job past `worker.time_limit_s` takes its process down: the job counts a
    worker death, another process tries again, and after `worker.max_worker_deaths` the study is quarantined.
    """

    def __init__(self, database: Database, job: ClaimedJob, config: WorkerConfig) -> None:
        self._database = database
        self._job = job
        self._config = config
        self._stop = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._beat, name=f"lease-{job.id}", daemon=True)

    def __enter__(self) -> Self:
        """Start beating."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop beating; the lease itself ends with the job's last write."""
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise LeaseLost when the job was cancelled or given to another worker."""
        if self._lost:
            raise LeaseLost(self._job.id, self._job.attempt)

    def _beat(self) -> None:
        deadline = time.monotonic() + self._config.time_limit_s
        interval_s = min(self._config.lease_s / 3, self._config.time_limit_s / 3)
        while not self._stop.wait(interval_s):
            if time.monotonic() >= deadline:
                log.error("time limit passed, this worker ends itself", job_id=self._job.id)
                os._exit(TIME_LIMIT_EXIT)
            if self._lost:
                continue
            try:
                jobs.renew(self._database, self._job.id, attempt=self._job.attempt, lease_s=self._config.lease_s)
            except LeaseLost:
                self._lost = True  # and go on watching the clock: native code does not notice
            except SQLAlchemyError as error:
                log.warning("lease not renewed, trying again", job_id=self._job.id, error=type(error).__name__)
