"""The worker's Celery app: the node's broker settings, with this package's tasks."""

from __future__ import annotations

from celery import Celery

from dicom_node.broker import make_celery
from dicom_node.config import Config


def make_app(config: Config) -> Celery:
    """An app that runs `worker.tasks`, one at a time in this process (pool "solo"): CUDA does not survive a fork."""
    app = make_celery(config.broker, name="worker")
    app.conf.update(
        worker_pool="solo",
        worker_concurrency=1,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app
