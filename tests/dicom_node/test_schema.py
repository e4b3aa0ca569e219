"""Migrations: up, down, up, drift, several at once, killed in the middle; on both databases."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import alembic.op
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dicom_node import schema
from dicom_node.config import parse_config
from dicom_node.db import make_engine
from dicom_node.errors import ConfigError
from dicom_node.tables import Base

ROWS_OF_0001 = """
INSERT INTO studies (id, study_instance_uid, state, generation, calling_ae_title, created_at, receiving_since,
    last_received_at) VALUES (1, '1.2', 'COMPLETE', 1, 'CT1', '2026-01-01', '2026-01-01', '2026-01-01');
INSERT INTO jobs (id, study_id, generation, state, series_reason, sop_instance_uids, input_digest, attempt, failures,
    worker_deaths, queued_at, summary) VALUES (1, 1, 1, 'SUCCEEDED', '', '[]', '', 1, 0, 0, '2026-01-01', '[]');
INSERT INTO results (id, job_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid, path, sha256, size_bytes,
    created_at) VALUES (1, 1, 'SR', '1.2', '1.2.3', '1.2.4', 'p', '', 1, '2026-01-01');
INSERT INTO deliveries (id, result_id, destination, state, attempts, created_at)
    VALUES (1, 1, 'pacs', 'SENT', 1, '2026-01-01')
"""
"""One delivery and what it stands on."""


@pytest.fixture
def engine(memory_folder: Path, database_url: str) -> Iterator[sa.Engine]:
    """An empty database."""
    config = parse_config(f'[database]\nurl = "{database_url}"', source="test", base=memory_folder)
    engine = make_engine(config.database)
    yield engine
    engine.dispose()


def tables(engine: sa.Engine) -> set[str]:
    """What is there."""
    return set(sa.inspect(engine).get_table_names())


def test_up_down_and_up_again(engine: sa.Engine) -> None:
    """Down leaves nothing behind, and up makes exactly what the code has."""
    assert schema.current(engine) is None
    schema.upgrade(engine)
    assert schema.current(engine) == schema.newest(engine)
    assert tables(engine) == {*Base.metadata.tables, "alembic_version"}
    assert schema.drift(engine) == []
    schema.downgrade(engine, "base")
    assert tables(engine) == {"alembic_version"}
    schema.upgrade(engine)
    assert schema.drift(engine) == []


def test_the_migrations_leave_nothing_to_generate(engine: sa.Engine) -> None:
    """`alembic check`: tables, columns, types, indexes and unique constraints."""
    schema.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_rows_survive_the_way_to_the_newest_schema_and_back(engine: sa.Engine) -> None:
    """A committed delivery was, for an older release, sent."""
    schema.upgrade(engine, "0001")
    with engine.begin() as connection:
        for statement in ROWS_OF_0001.split(";"):
            connection.execute(sa.text(statement))
    schema.upgrade(engine)
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT confirm_at FROM deliveries WHERE state = 'SENT'")) is None
        connection.execute(sa.text("UPDATE deliveries SET state = 'COMMITTED'"))
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.text("UPDATE deliveries SET state = 'ELSEWHERE'"))
    schema.downgrade(engine, "0001")
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT state FROM deliveries")) == "SENT"
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.text("UPDATE deliveries SET state = 'COMMITTED'"))


def test_drift_is_seen(engine: sa.Engine) -> None:
    """A column that somebody added, and a table that is gone."""
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE conflicts ADD COLUMN note VARCHAR(8)"))
        connection.execute(sa.text("DROP TABLE verdicts"))
    found = " ".join(schema.drift(engine))
    assert "note" in found
    assert "verdicts" in found


def test_a_state_that_the_database_would_refuse_is_seen(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alembic compares no CHECK constraints."""
    schema.upgrade(engine)
    states = Base.metadata.tables["jobs"].c.state.type
    assert isinstance(states, sa.Enum)
    monkeypatch.setattr(states, "enums", [*states.enums, "PAUSED"])
    (found,) = schema.drift(engine)
    assert found.startswith("ck_jobs_state allows ['CANCELLED', 'FAILED'")


def test_parts_that_start_at_the_same_moment_make_one_schema(engine: sa.Engine) -> None:
    """Listener, sweeper and worker on machines of their own, all on an empty database."""
    url = engine.url.render_as_string(hide_password=False)
    program = (
        "import sys; from dicom_node import schema; from dicom_node.db import make_engine; "
        "from dicom_node.config import DatabaseConfig; schema.make_ready(make_engine(DatabaseConfig(url=sys.argv[1])))"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert schema.drift(engine) == []


def test_a_migration_that_is_killed_in_the_middle_leaves_nothing(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start does it again from the beginning."""
    real, calls = alembic.op.create_index, []

    def killed(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        if len(calls) == 5:
            raise SystemExit
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(alembic.op, "create_index", killed)
    with pytest.raises(SystemExit):
        schema.upgrade(engine)
    assert tables(engine) == set()
    monkeypatch.setattr(alembic.op, "create_index", real)
    schema.make_ready(engine)
    assert schema.drift(engine) == []


def test_a_server_database_of_another_release_is_left_to_an_administrator(engine: sa.Engine) -> None:
    """An embedded one is brought up to date; several nodes may use a server."""
    schema.upgrade(engine)
    schema.downgrade(engine, "base")
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('0000')"))
    if engine.dialect.name == "sqlite":
        return
    sentence = f"revision 0000, this release needs {schema.newest(engine)}: run `dicom-node db upgrade`"
    with pytest.raises(ConfigError, match=sentence):
        schema.make_ready(engine)


def test_looking_at_the_revision_waits_for_no_writer(engine: sa.Engine) -> None:
    """`dicom-node status` while a node writes."""
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM audit_events"))
        assert schema.current(engine) == schema.newest(engine)
