"""The Celery client against a folder, Redis and RabbitMQ: up, gone, back, and answering with errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker

from dicom_node import broker
from dicom_node.config import parse_config
from dicom_node.config_sections import BrokerConfig
from tests.peers import RabbitMQ, Redis, wait_until

BROKERS = [
    "folder",
    pytest.param("redis", marks=pytest.mark.peer("redis")),
    pytest.param("rabbitmq", marks=pytest.mark.peer("rabbitmq")),
]


@pytest.fixture(params=BROKERS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> BrokerConfig:
    """[broker], for an empty one of each kind."""
    url = "" if request.param == "folder" else request.getfixturevalue(f"{request.param}_url")
    return parse_config(f'[broker]\nurl = "{url}"\npoll_interval_s = 0.01', source="test", base=tmp_path).broker


@contextmanager
def worker(config: BrokerConfig, ran: list[int]) -> Iterator[None]:
    """A real worker of this process with the real task name; it notes the ids that it was given."""
    app = broker.make_celery(config, name="worker")

    @app.task(name=broker.RUN_JOB, acks_late=True, shared=False)
    def run_job(job_id: int) -> None:
        ran.append(job_id)

    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20.0):
        yield


def test_a_job_id_reaches_a_worker(config: BrokerConfig) -> None:
    """Published before the worker is there, and after."""
    app, ran = broker.make_celery(config), list[int]()
    assert broker.waiting_messages(app, config.queue) == 0
    assert broker.publish_job(app, 7)
    assert broker.waiting_messages(app, config.queue) == 1
    with worker(config, ran):
        wait_until(lambda: ran == [7], what="the first job")
        assert broker.publish_job(app, 8)
        wait_until(lambda: ran == [7, 8], what="the second job")
    assert broker.waiting_messages(app, config.queue) == 0


def test_messages_hold_ids_only(tmp_path: Path) -> None:
    """No patient, no path."""
    config = parse_config("", source="test", base=tmp_path).broker
    broker.publish_job(broker.make_celery(config), 7)
    (message,) = (tmp_path / "var" / "broker" / config.queue).glob("*.msg")
    assert '"argsrepr": "[7]"' in message.read_text()


@pytest.mark.peer("redis")
def test_redis_that_goes_and_comes_back(redis_url: str, redis_server: Redis) -> None:
    """Publishing says so and never raises; the same app works again."""
    _goes_and_comes_back(BrokerConfig(url=redis_url), redis_server)


@pytest.mark.peer("rabbitmq")
def test_rabbitmq_that_goes_and_comes_back(rabbitmq_url: str, rabbitmq_server: RabbitMQ) -> None:
    """Likewise; what it had taken is still there."""
    config = BrokerConfig(url=rabbitmq_url)
    app = _goes_and_comes_back(config, rabbitmq_server)
    assert broker.waiting_messages(app, config.queue) == 2, "durable"


def _goes_and_comes_back(config: BrokerConfig, server: Redis | RabbitMQ) -> Celery:
    app = broker.make_celery(config)
    assert broker.publish_job(app, 1)
    server.stop()
    for _ in range(2):
        assert not broker.publish_job(app, 2)
        assert broker.waiting_messages(app, config.queue) is None
    server.start()
    assert broker.publish_job(app, 2)
    return app


@pytest.mark.peer("rabbitmq")
def test_a_wrong_password_for_rabbitmq_is_a_broker_that_cannot_be_reached(rabbitmq_server: RabbitMQ) -> None:
    """It must not end the sweeper."""
    app = broker.make_celery(BrokerConfig(url=rabbitmq_server.url.replace("guest:guest", "guest:wrong")))
    assert not broker.publish_job(app, 1)
    assert broker.waiting_messages(app, "ich-inference") is None


@pytest.mark.peer("redis")
def test_a_missing_password_for_redis_is_a_broker_that_cannot_be_reached(redis_url: str, redis_server: Redis) -> None:
    """It got one while we were running."""
    app = broker.make_celery(BrokerConfig(url=redis_url))
    assert broker.publish_job(app, 1)
    with redis.Redis(host=redis_server.host, port=redis_server.port) as admin:
        admin.config_set("requirepass", "secret")
        try:
            assert not broker.publish_job(app, 1)
            assert broker.waiting_messages(app, "ich-inference") is None
        finally:
            admin.auth("secret")
            admin.config_set("requirepass", "")


@pytest.mark.peer("redis")
def test_a_redis_that_is_full_is_a_broker_that_cannot_be_reached(redis_url: str, redis_server: Redis) -> None:
    """It answers, with an error."""
    app = broker.make_celery(BrokerConfig(url=redis_url))
    with redis.Redis(host=redis_server.host, port=redis_server.port) as admin:
        admin.config_set("maxmemory", "1")
        try:
            assert not broker.publish_job(app, 1)
        finally:
            admin.config_set("maxmemory", "0")
    assert broker.publish_job(app, 1)


@pytest.mark.peer("rabbitmq")
def test_a_queue_of_another_kind_is_a_broker_that_cannot_be_reached(rabbitmq_url: str) -> None:
    """Somebody declared it otherwise: PRECONDITION_FAILED."""
    app = broker.make_celery(BrokerConfig(url=rabbitmq_url))
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("ich-inference", durable=False, auto_delete=False)
    assert not broker.publish_job(app, 1)
    assert broker.waiting_messages(app, "ich-inference") is None


@pytest.mark.peer("rabbitmq")
def test_a_rabbitmq_that_confirms_nothing_is_left_after_a_while(
    rabbitmq_url: str, rabbitmq_server: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory alarm: it takes the message and does not answer. The sweep must go on."""
    monkeypatch.setattr(broker, "ANSWER_S", 1)
    app = broker.make_celery(BrokerConfig(url=rabbitmq_url))
    assert broker.publish_job(app, 1)
    rabbitmq_server.control("set_vm_memory_high_watermark", "0")
    answers: list[bool] = []
    publishing = threading.Thread(target=lambda: answers.append(broker.publish_job(app, 2)), daemon=True)
    publishing.start()
    publishing.join(timeout=30)
    rabbitmq_server.control("set_vm_memory_high_watermark", "0.4")
    publishing.join(timeout=30)
    assert answers == [False]
    wait_until(lambda: broker.publish_job(app, 2), what="it takes messages again")


@pytest.mark.peer("redis")
@pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")
def test_a_worker_outlives_its_broker(redis_url: str, redis_server: Redis) -> None:
    """It connects again by itself."""
    config, ran = BrokerConfig(url=redis_url), list[int]()
    app = broker.make_celery(config)
    with worker(config, ran):
        broker.publish_job(app, 1)
        wait_until(lambda: ran == [1], what="the first job")
        redis_server.restart()
        wait_until(lambda: broker.publish_job(app, 2), what="the broker takes messages")
        wait_until(lambda: 2 in ran, what="the second job", timeout_s=60)
