"""Engine and sessions: durable, serialised writers, readers that never wait, on both databases."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from dicom_node.config_sections import DatabaseConfig
from dicom_node.db import make_engine, now
from dicom_node.intake_rows import AssociationRecord
from dicom_node.statuses import Status
from dicom_node.tables import AuditEvent
from tests.dicom_node.house import House, head_ct


def event(kind: str, at: datetime | None = None) -> AuditEvent:
    """A row without relations."""
    return AuditEvent(at=at or now(), kind=kind, detail={})


def kinds(house: House) -> list[str]:
    """What is committed."""
    return [row.kind for row in house.all(AuditEvent)]


def test_a_session_commits_whole_or_not_at_all(house: House) -> None:
    """An error in the middle undoes what was before it."""
    with house.database.session() as session:
        session.add(event("kept"))
    with pytest.raises(KeyError), house.database.session() as session:  # noqa: PT012
        session.add(event("lost"))
        session.flush()
        raise KeyError
    assert kinds(house) == ["kept"]


def test_a_reader_sees_one_moment_and_waits_for_no_writer(house: House) -> None:
    """The ledger's many counts must fit together while studies arrive."""
    with house.database.reading() as reader:
        count = sa.select(sa.func.count()).select_from(AuditEvent)
        assert reader.scalar(count) == 0
        with house.database.session() as writer:
            writer.add(event("new"))
            writer.flush()
            assert reader.scalar(count) == 0
        assert reader.scalar(count) == 0
    assert kinds(house) == ["new"]


def test_a_reader_cannot_write_on_postgresql_and_needs_no_lock_on_sqlite(house: House) -> None:
    """`dicom-node status` beside a busy node."""
    with house.database.session() as writer:
        writer.add(event("x"))
        writer.flush()
        assert kinds(house) == []
    if house.engine.dialect.name == "postgresql":
        with pytest.raises(sa.exc.DBAPIError, match="read-only"), house.database.reading() as session:
            session.add(event("y"))


def test_writers_take_turns(house: House) -> None:
    """A read that decides and the write that follows are one step: no update is lost."""
    with house.database.session() as session:
        session.add(event("0"))

    def count_up() -> None:
        for _ in range(10):
            with house.database.session() as session:
                row = session.scalars(sa.select(AuditEvent).with_for_update()).one()
                row.kind = str(int(row.kind) + 1)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds(house) == ["40"]


def test_sqlite_survives_power_loss(small_house: House) -> None:
    """WAL with synchronous=FULL, foreign keys on, on every connection of the pool."""
    with small_house.engine.connect() as one, small_house.engine.execution_options(read_only=True).connect() as two:
        for connection in (one, two):
            pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS]
            assert pragmas == list(PRAGMAS.values())


PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_locked_sqlite_is_an_error_of_the_database_after_the_timeout(make_small_house: Callable[..., House]) -> None:
    """Also for a connection that is made just then; callers wait and try again."""
    house = make_small_house()
    path = house.engine.url.database or ""
    engine = make_engine(DatabaseConfig(url=f"sqlite:///{path}", lock_timeout_s=0.05))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sa.exc.OperationalError, match="locked"), engine.begin():
        pass
    other.execute("ROLLBACK")
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
    other.close()
    engine.dispose()


@pytest.mark.peer("postgresql")
def test_a_locked_postgresql_too(make_small_house: Callable[..., House], postgresql_url: str) -> None:
    """Somebody's transaction that does not end: C-STORE gets its status, and does not wait for ever."""
    house = make_small_house(url=postgresql_url)
    with house.engine.begin() as other:
        other.execute(sa.text("LOCK TABLE instances IN ACCESS EXCLUSIVE MODE"))
        statuses: list[Status] = []
        record = AssociationRecord("CT1", "ICHNODE", "127.0.0.1")
        sender = threading.Thread(target=lambda: statuses.append(house.store(head_ct()[0], record)), daemon=True)
        sender.start()
        sender.join(20)
        assert statuses == [Status.OUT_OF_RESOURCES]
    assert house.store(head_ct()[0], record) is Status.SUCCESS


def test_times_come_back_as_utc_and_need_a_zone(house: House) -> None:
    """Whatever zone they were given in."""
    at = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    with house.database.session() as session:
        session.add(event("t", at))
    (row,) = house.all(AuditEvent)
    assert (row.at, row.at.tzinfo) == (at, UTC)
    with pytest.raises(sa.exc.StatementError, match="without zone"), house.database.session() as session:
        session.add(event("t", datetime(2026, 1, 1)))  # noqa: DTZ001


def test_a_postgresql_that_is_silent_is_given_up_soon() -> None:
    """Parameters for libpq; those of the URL win."""
    engine = make_engine(DatabaseConfig(url="postgresql+psycopg://u@h/d?connect_timeout=9"))
    arguments: dict[str, object] = {}

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: object, _record: object, _args: object, options: dict[str, object]) -> None:
        arguments.update(options)
        raise sa.exc.DBAPIError("", None, Exception("not now"))

    with pytest.raises(sa.exc.DBAPIError):
        engine.connect()
    assert arguments["connect_timeout"] == "9"
    assert arguments["tcp_user_timeout"] == 30_000
