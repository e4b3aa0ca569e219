"""The Celery client of the node: it knows task names and ids, never the tasks' code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from dicom_node import folder_broker
from dicom_node.config_sections import BrokerConfig

RUN_JOB = "worker.run_job"
"""The name under which worker/tasks.py registers the analysis of one job."""

log = structlog.get_logger()

GONE = (OperationalError, OSError)
"""What kombu and the operating system raise when the broker cannot be reached. `_faults` adds what it may answer."""
ANSWER_S = 4
"""How long a broker may take to let us in, or to confirm a message, before it counts as gone."""


def make_celery(broker: BrokerConfig, name: str = "dicom_node") -> Celery:
    """A Celery app for `broker`: late acknowledgement, prefetch 1, JSON only, nothing kept in a result backend."""
    app = Celery(name)
    app.conf.update(
        broker_url=_url(broker),
        broker_transport_options=_options(broker),
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=ANSWER_S,
        broker_heartbeat=0,
        task_default_queue=broker.queue,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        enable_utc=True,
        worker_hijack_root_logger=False,
    )
    return app


def publish_job(app: Celery, job_id: int) -> bool:
    """Tell a worker that this job waits. False when the broker cannot take it: the sweep will try again."""
    try:
        with _connected(app) as connection:
            app.send_task(RUN_JOB, [job_id], connection=connection, retry=False, confirm_timeout=ANSWER_S)
    except _faults(app) as error:
        log.warning("broker unreachable, the job stays queued", job_id=job_id, error=type(error).__name__)
        return False
    return True


def waiting_messages(app: Celery, queue: str) -> int | None:
    """How many messages wait in the queue; None when the broker cannot be reached."""
    try:
        with _connected(app) as connection:
            # Not passively: to Redis an empty queue is one that does not exist.
            return int(app.amqp.queues[queue](connection.default_channel).queue_declare().message_count)
    except _faults(app) as error:
        log.warning("broker unreachable", error=type(error).__name__)
        return None


@contextmanager
def _connected(app: Celery) -> Iterator[Connection]:
    """A connection for one errand, so that none that broke in the meantime is met; it waits `ANSWER_S` at most."""
    is_amqp = app.conf.broker_url.startswith("amqp")
    # A RabbitMQ that is short of memory reads nothing that a publisher sends, not even that it wants to leave.
    patience = {"read_timeout": ANSWER_S, "write_timeout": ANSWER_S} if is_amqp else {}
    with app.connection_for_write(transport_options=patience) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=ANSWER_S)
        yield connection


def _faults(app: Celery) -> tuple[type[Exception], ...]:
    """Everything that this kind of broker raises: gone, wrong password, queue of another kind, out of memory."""
    transport = app.connection_for_write().transport
    return (*GONE, *transport.connection_errors, *transport.channel_errors)


def _url(broker: BrokerConfig) -> str:
    """The URL without the folder of the embedded broker, which travels as an option."""
    return f"{folder_broker.SCHEME}://" if broker.url.startswith(f"{folder_broker.SCHEME}://") else broker.url


def _options(broker: BrokerConfig) -> dict[str, object]:
    if broker.url.startswith(f"{folder_broker.SCHEME}://"):
        folder = broker.url.removeprefix(f"{folder_broker.SCHEME}://")
        return {"folder": folder, "polling_interval": broker.poll_interval_s}
    if broker.url.startswith("redis"):
        return {
            "visibility_timeout": 86_400,
            "socket_connect_timeout": ANSWER_S,
            "socket_timeout": 30,
            # A firewall that forgets an idle connection must not leave a worker waiting on it.
            "socket_keepalive": True,
        }
    return {"confirm_publish": True}
