"""Redis as a Celery broker."""

from __future__ import annotations

from typing import Self

import redis

from tests.peers.presence import need, program
from tests.peers.process import HOST, Process, free_port, own_folder, wait_until


class Redis:
    """One redis-server; with `persistent` its data outlive `stop` (append-only file, fsync at each write)."""

    def __init__(self, *, persistent: bool = False, port: int | None = None) -> None:
        """Not yet running: `start`, or use it as a context manager."""
        need("redis")
        self.host, self.port = HOST, port or free_port()
        self.url = f"redis://{HOST}:{self.port}/0"
        home = own_folder("redis")
        keep = ["--appendonly", "yes", "--appendfsync", "always"] if persistent else ["--appendonly", "no"]
        self.process = Process(
            [
                program("redis-server"), "--bind", HOST, "--port", str(self.port), "--dir", home, "--save", "",
                "--daemonize", "no", *keep,
            ],
            name="redis",
            folder=home,
        )  # fmt: skip

    def start(self) -> Self:
        """Starts it and waits until it answers PING."""
        self.process.start()
        wait_until(self._answers, what="Redis answers", process=self.process)
        return self

    def stop(self) -> None:
        """Ends it: a broker that is gone."""
        self.process.stop()

    def restart(self) -> None:
        """Down and up again, same port."""
        self.stop()
        self.start()

    def flush(self) -> None:
        """Forgets everything."""
        with redis.Redis(host=HOST, port=self.port) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis(host=HOST, port=self.port) as client:
                return bool(client.ping())
        except redis.ConnectionError:  # also while it loads its file
            return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
