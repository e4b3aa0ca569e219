"""The loop that moves everything on and repairs what was lost: completion, lost workers, lost messages.

Rows are the truth. Whatever a killed process or a broken broker left half done is found here by looking at rows.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from itertools import takewhile

import structlog
from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import broker, jobs
from dicom_node.completion import Completion
from dicom_node.config import Config
from dicom_node.db import Database, now
from dicom_node.set_back import shorten_waits

log = structlog.get_logger()

LOST_MESSAGE_S = 5.0
"""Each queued job whose message was sent this long ago should have it waiting in the broker; if not, some are lost."""
LEASE_CHECK_S = 1.0
SET_BACK_CHECK_S = 60.0
AFTER_FAULT_S = 1.0


class Sweeper:
    """One pass over all rows that wait for something; `run` repeats it."""

    def __init__(self, database: Database, config: Config, celery: Celery) -> None:
        self._database = database
        self._config = config
        self._celery = celery
        self._completion = Completion(database, config)
        self._next_repair = 0.0
        self._next_shortening = 0.0
        self._clock_s = _clock_s()

    def sweep(self) -> None:
        """Complete studies and publish their jobs; now and then look for lost workers and lost messages."""
        self._publish(self._completion.sweep())
        if time.monotonic() >= self._next_shortening:
            self._next_shortening = time.monotonic() + SET_BACK_CHECK_S
            if shortened := shorten_waits(self._database, self._config):
                log.warning("the clock was set back: what waited for it waits no longer", rows=shortened)
        if time.monotonic() >= self._next_repair:
            self._next_repair = time.monotonic() + LEASE_CHECK_S
            if self._clock_jumped():
                log.warning("the clock jumped ahead, or this machine was asleep: leases are looked at later")
                self._spare_leases()
            else:
                self._repair()

    def _clock_jumped(self) -> bool:
        """Whether it went ahead, since the last look, so far that leases of living workers seem to be over."""
        before, self._clock_s = self._clock_s, _clock_s()
        return self._clock_s - before > self._config.worker.lease_s / 2

    def _publish(self, job_ids: list[int]) -> None:
        """Messages for these jobs, up to the first that the broker does not take; the rows remember which got out."""
        sent = list(takewhile(lambda job_id: broker.publish_job(self._celery, job_id), job_ids))
        jobs.mark_published(self._database, sent)

    def _repair(self) -> None:
        """Queue the jobs of dead workers again, and send the messages that are missing."""
        for job_id in jobs.requeue_expired(self._database, self._config.worker):
            log.warning("the worker of a job is gone", job_id=job_id)
        with self._database.reading() as session:
            never_sent = jobs.due_for_publishing(session, sent_before=None)
            silent = jobs.due_for_publishing(session, sent_before=now() - timedelta(seconds=LOST_MESSAGE_S))
        self._publish(never_sent)
        if not silent:
            return
        waiting = broker.waiting_messages(self._celery, self._config.broker.queue)
        # A worker that is busy holds no message of another job (prefetch 1), so each of these jobs has its own waiting.
        # A second message for the same job does no harm: it finds nothing to claim.
        if waiting is not None and waiting < len(silent):
            log.warning("messages were lost, sending them again", jobs=len(silent), waiting=waiting)
            self._publish(silent)

    def run(self, stop: threading.Event) -> None:
        """Sweep until `stop` is set; a database that is gone is waited for."""
        while not stop.is_set():
            try:
                self.sweep()
            except SQLAlchemyError as error:
                log.error("database unreachable, sweeping again soon", error=type(error).__name__)
                self._spare_leases()
                stop.wait(AFTER_FAULT_S)
            except Exception:  # the sweep loop: one fault must not end what repairs every other
                log.exception("sweep failed, sweeping again soon")
                stop.wait(AFTER_FAULT_S)
            stop.wait(self._config.completion.sweep_interval_s)

    def _spare_leases(self) -> None:
        """While the database was gone nobody could renew a lease: give the workers the time to do it."""
        self._next_repair = time.monotonic() + self._config.worker.lease_s / 2


def _clock_s() -> float:
    """What the clock, by which leases count, is ahead of the time that this machine has run."""
    return time.time() - time.monotonic()
