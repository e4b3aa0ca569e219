"""The embedded broker: messages whole or not at all, each to one consumer, whatever was killed before."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection, Exchange, Queue
from kombu.simple import SimpleQueue

from dicom_node import folder_broker

QUEUE = Queue("q", Exchange("q", type="direct"), routing_key="q")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A connection to a broker in a folder."""
    with Connection("folder://", transport_options={"folder": str(tmp_path), "polling_interval": 0.01}) as made:
        yield made


def take_all(queue: SimpleQueue) -> list[int]:
    """Everything that waits."""
    taken: list[int] = []
    while True:
        try:
            message = queue.get_nowait()
        except Empty:
            return taken
        taken.append(message.payload)
        message.ack()


def test_messages_come_in_order_and_once(connection: Connection, tmp_path: Path) -> None:
    """And leave nothing behind."""
    queue = connection.SimpleQueue(QUEUE)
    for number in range(5):
        queue.put(number)
    assert queue.qsize() == 5
    assert take_all(queue) == [0, 1, 2, 3, 4]
    assert list((tmp_path / "q").iterdir()) == []


def test_consumers_that_race_get_each_message_once(connection: Connection, tmp_path: Path) -> None:
    """Renaming decides."""
    sender = connection.SimpleQueue(QUEUE)
    for number in range(200):
        sender.put(number)
    taken: list[int] = []

    def consume() -> None:
        with Connection("folder://", transport_options={"folder": str(tmp_path)}) as own:
            taken.extend(take_all(own.SimpleQueue(QUEUE)))

    threads = [threading.Thread(target=consume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(200))


def test_a_message_that_was_cut_short_is_passed_over(connection: Connection, tmp_path: Path) -> None:
    """After a power loss; it must not stop the worker that finds it."""
    queue = connection.SimpleQueue(QUEUE)
    for name in ("00000000000000000000-a", "00000000000000000000-b"):
        (tmp_path / "q" / f"{name}.msg").write_text('{"body": ' if name.endswith("a") else "")
    queue.put(1)
    assert take_all(queue) == [1]
    assert list((tmp_path / "q").iterdir()) == []


def test_what_killed_processes_left_is_removed_in_time(connection: Connection, tmp_path: Path) -> None:
    """Nobody comes for it; what is fresh may be at work."""
    folder = tmp_path / "q"
    folder.mkdir()
    for name in ("old.tmp", "old.7.taken", "new.tmp", "old.msg"):
        (folder / name).write_text("{")
        if name.startswith("old"):
            os.utime(folder / name, (0, time.time() - folder_broker.ABANDONED_S - 1))
    connection.SimpleQueue(QUEUE)
    assert sorted(path.name for path in folder.iterdir()) == ["new.tmp", "old.msg"]


def test_a_message_that_cannot_be_written_leaves_no_half(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher gets the error, the folder stays clean."""
    queue = connection.SimpleQueue(QUEUE)

    def no_space(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", no_space)
    with pytest.raises(OSError, match="No space"):
        queue.put(1)
    assert list((tmp_path / "q").iterdir()) == []


def test_what_a_consumer_did_not_acknowledge_comes_back_when_it_leaves_in_order(
    connection: Connection, tmp_path: Path
) -> None:
    """A worker that is stopped hands its message back; one that is killed loses it, and the sweep finds out."""
    connection.SimpleQueue(QUEUE).put(1)
    with Connection("folder://", transport_options={"folder": str(tmp_path)}) as worker:
        assert worker.SimpleQueue(QUEUE).get_nowait().payload == 1
        assert list((tmp_path / "q").iterdir()) == []
    assert take_all(connection.SimpleQueue(QUEUE)) == [1]


def test_purging_empties_the_queue(connection: Connection) -> None:
    """For administrators with Celery's own tools."""
    queue = connection.SimpleQueue(QUEUE)
    queue.put(1)
    assert queue.clear() == 1
    assert queue.qsize() == 0
