"""Celery tasks: a name, an id, and a call into plain functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_node.broker import RUN_JOB
from worker import pipeline

if TYPE_CHECKING:
    from celery import Celery

    from worker.runtime import Runtime


def register(app: Celery, runtime: Runtime) -> None:
    """Give the app its tasks, working on this runtime."""

    # Not shared: a task belongs to this app and runtime, not to every app of the process.
    @app.task(name=RUN_JOB, acks_late=True, shared=False)
    def run_job(job_id: int) -> None:
        pipeline.run_job(runtime, job_id)
