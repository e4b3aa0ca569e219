"""PostgreSQL: a cluster of its own in a temporary folder, durable as in production, reached by psycopg."""

from __future__ import annotations

import signal
import subprocess
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from tests.peers.presence import need, program
from tests.peers.process import HOST, Process, Server, as_user, free_port, own_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "postgres"
"""The database role; as root also the system user, for initdb refuses root."""
SETTINGS = {
    "fsync": "on",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "log_min_messages": "warning",
}


class PostgreSQL(Server):
    """One server whose data outlive `stop` and `restart`."""

    name = "PostgreSQL"

    def __init__(self, *, port: int | None = None) -> None:
        """Makes the cluster (initdb); `start` runs it."""
        need("postgresql")
        self.host, self.port = HOST, port or free_port()
        self.folder = own_folder("postgresql", user=USER)
        data = self.folder / "data"
        subprocess.run(
            [
                *as_user(USER), program("initdb"), "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8",
                "--locale=C.UTF-8", "--no-sync",
            ],
            check=True, capture_output=True, cwd=self.folder,
        )  # fmt: skip
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        self.process = Process(
            [program("postgres"), "-D", data, "-h", HOST, "-p", str(self.port), "-k", self.folder, *settings],
            name="postgresql",
            folder=self.folder,
            cwd=self.folder,
            user=USER,
            stop_signal=signal.SIGINT,  # "fast": does not wait for clients to leave
        )

    def answers(self) -> bool:
        """See Server."""
        try:
            with self._admin():
                return True
        except psycopg.OperationalError:
            return False

    def _admin(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=HOST, port=self.port, user=USER, dbname="postgres", autocommit=True, connect_timeout=5
        )

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{USER}@{HOST}:{self.port}/{database}"

    def create(self) -> str:
        """A new empty database; its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with self._admin() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return name

    def drop(self, name: str) -> None:
        """Removes a database, connected clients or not."""
        with self._admin() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())

    @contextmanager
    def database(self) -> Iterator[str]:
        """The SQLAlchemy URL of a new empty database that is dropped at the end."""
        name = self.create()
        try:
            yield self.url(name)
        finally:
            if not self.process.running:
                self.start()
            self.drop(name)
