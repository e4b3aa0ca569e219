"""Redis as a Celery broker."""

from __future__ import annotations

import redis

from tests.peers.presence import need, program
from tests.peers.process import HOST, Process, Server, free_port, own_folder


class Redis(Server):
    """One redis-server; with `persistent` its data outlive `stop` (append-only file, fsync at each write)."""

    name = "Redis"

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

    def flush(self) -> None:
        """Forgets everything."""
        with redis.Redis(host=HOST, port=self.port) as client:
            client.flushall()

    def answers(self) -> bool:
        """See Server."""
        try:
            with redis.Redis(host=HOST, port=self.port) as client:
                return bool(client.ping())
        except redis.ConnectionError:  # also while it loads its file
            return False
