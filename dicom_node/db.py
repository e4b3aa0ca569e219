"""The engine and the session scope: SQLite (WAL) by default, PostgreSQL by URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

if TYPE_CHECKING:
    from dicom_node.config_sections import DatabaseConfig


POSTGRESQL_CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""libpq parameters (seconds; the last one milliseconds): a server that vanished without a word is noticed in half a
minute. The same names in the URL's query win."""
LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's SQLSTATE when `database.lock_timeout_s` is over."""


def now() -> datetime:
    """The present time, aware, UTC."""
    return datetime.now(UTC)


def age_s(moment: datetime | None) -> float | None:
    """Seconds since that moment, to a tenth; None where there was none."""
    return round((now() - moment).total_seconds(), 1) if moment else None


def is_of_the_database(error: Exception) -> bool:
    """Whether the database itself fails: not a value that it does not take, nor a row that somebody keeps locked."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    return getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE


def make_engine(database: DatabaseConfig) -> sa.Engine:
    """An engine whose commits are durable when they return.

    SQLite runs in WAL mode with synchronous=FULL (a commit survives power loss) and begins writing
    transactions with BEGIN IMMEDIATE, so that a writer waits at the start and never fails in the middle.
    """
    url = sa.make_url(database.url)
    if url.get_backend_name() != "sqlite":
        # Without it whoever holds a lock and stops (a hung client, an administrator's transaction) stops every writer.
        parameters = POSTGRESQL_CONNECTION | {"options": f"-c lock_timeout={round(database.lock_timeout_s * 1000)}"}
        return sa.create_engine(
            url,
            connect_args={name: value for name, value in parameters.items() if name not in url.query},
            pool_pre_ping=True,
            pool_size=database.pool_size,
            max_overflow=database.pool_size,
        )
    if url.database and url.database != ":memory:":
        with suppress(OSError):  # a folder that cannot be made is a database that cannot be opened: connecting says so
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url, connect_args={"timeout": database.lock_timeout_s}, pool_size=database.pool_size, max_overflow=32
    )

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA journal_size_limit=67108864")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        reading = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def reading_engine(engine: sa.Engine) -> sa.Engine:
    """The same engine for transactions that only read: one snapshot each, and no write lock on SQLite."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(read_only=True)
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


class Database:
    """Opens sessions. `with database.session() as session:` commits at the end or rolls back whole."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._writing = sessionmaker(engine, expire_on_commit=False)
        self._reading = sessionmaker(reading_engine(engine), expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction that may write."""
        with self._writing.begin() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One transaction that only reads, all of it the same moment; on SQLite it never waits for a writer."""
        with self._reading.begin() as session:
            yield session
