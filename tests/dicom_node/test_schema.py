"""Migrations: up, down, up, drift, several at once, killed in the middle; on both databases."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import alembic.op
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dicom_node import schema
from dicom_node.config import parse_config
from dicom_node.db import make_engine
from dicom_node.errors import ConfigError, NotPossible
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
        "from dicom_node.config_sections import DatabaseConfig; "
        "schema.make_ready(make_engine(DatabaseConfig(url=sys.argv[1])))"
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


def test_a_revision_that_this_release_does_not_know_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """A slip of the pen."""
    engine = make_engine(parse_config("", source="test", base=tmp_path).database)
    for move in (schema.upgrade, schema.downgrade):
        with pytest.raises(NotPossible, match="nosuch"):
            move(engine, "nosuch")


def test_a_server_database_of_another_release_is_left_to_an_administrator(engine: sa.Engine) -> None:
    """An embedded one is brought up to date; several nodes may use a server."""
    schema.upgrade(engine)
    schema.downgrade(engine, "-1")
    if engine.dialect.name == "sqlite":
        schema.make_ready(engine)
        assert schema.current(engine) == schema.newest(engine)
        return
    sentence = f"revision {schema.current(engine)}, this release needs {schema.newest(engine)}: run `dicom-node db upg"
    with pytest.raises(ConfigError, match=sentence):
        schema.make_ready(engine)


@pytest.mark.parametrize("use", [schema.make_ready, schema.upgrade])
def test_a_database_of_a_newer_release_is_left_alone(engine: sa.Engine, use: Callable[[sa.Engine], None]) -> None:
    """After a step back to an older release: what is to be done, and not an error of Alembic's."""
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match=r"revision 9999, which this release does not know.*db downgrade"):
        use(engine)
    assert schema.current(engine) == "9999"


RELEASE_1 = """
INSERT INTO studies (id, study_instance_uid, state, generation, calling_ae_title, created_at, receiving_since,
    last_received_at) VALUES (1, '1.2', 'COMPLETE', 1, 'CT1', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP);
INSERT INTO jobs (id, study_id, generation, state, series_reason, sop_instance_uids, input_digest, attempt, failures,
    worker_deaths, queued_at, summary) VALUES (1, 1, 1, 'SUCCEEDED', '', '[]', 'd', 1, 0, 0, CURRENT_TIMESTAMP, '{}');
INSERT INTO results (id, job_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid, path, sha256, size_bytes,
    created_at) VALUES (1, 1, 'SEG', '1.3', '1.1', '1.4', 'p', 's', 1, CURRENT_TIMESTAMP),
    (2, 1, 'SR', '1.3', '1.2', '1.4', 'p', 's', 1, CURRENT_TIMESTAMP);
INSERT INTO deliveries (id, result_id, destination, state, attempts, created_at)
    VALUES (1, 1, 'pacs', 'SENT', 1, CURRENT_TIMESTAMP), (2, 2, 'pacs', 'PENDING', 1, CURRENT_TIMESTAMP)
"""
"""Rows as the first release wrote them."""
LATER_RELEASE = """
INSERT INTO results (id, job_id, kind, form, variant, sop_class_uid, sop_instance_uid, series_instance_uid, path,
    sha256, size_bytes, created_at) VALUES (3, 1, 'KOS', 'kos', 'kos', '1.3', '1.33', '1.4', 'p', 's', 1,
    CURRENT_TIMESTAMP);
UPDATE deliveries SET state = 'REFUSED' WHERE id = 2;
INSERT INTO deliveries (id, result_id, destination, state, rank, attempts, created_at)
    VALUES (3, 3, 'pacs', 'PENDING', 0, 0, CURRENT_TIMESTAMP), (4, 2, 'other', 'SPARE', 1, 0, CURRENT_TIMESTAMP)
"""
"""What only a later one can write."""
NO_PARENT = "INSERT INTO conflicts VALUES (1, '1.2', 77, 's', 1, 'p', 'refuse', CURRENT_TIMESTAMP)"


def run(engine: sa.Engine, statements: str) -> None:
    """SQL as it was true at a revision, whatever the code has today."""
    with engine.begin() as connection:
        for statement in statements.split(";"):
            connection.execute(sa.text(statement))


def read(engine: sa.Engine, statement: str) -> list[tuple[object, ...]]:
    """Rows, in order."""
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def test_a_database_of_the_first_release_is_upgraded_with_its_results(engine: sa.Engine) -> None:
    """They have the forms that it wrote; what it does not know goes when it is taken back."""
    schema.upgrade(engine, "0001")
    run(engine, RELEASE_1)
    schema.upgrade(engine)
    assert schema.drift(engine) == []
    assert read(engine, "SELECT id, kind, form, variant FROM results ORDER BY id") == [
        (1, "SEG", "seg-binary", "seg-binary"),
        (2, "SR", "sr-3d", "sr-3d"),
    ]
    assert read(engine, "SELECT state, rank FROM deliveries ORDER BY id") == [("SENT", 0), ("PENDING", 0)]
    run(engine, LATER_RELEASE)
    schema.downgrade(engine, "0001")
    assert read(engine, "SELECT kind FROM results ORDER BY id") == [("SEG",), ("SR",)]
    assert read(engine, "SELECT id, state FROM deliveries ORDER BY id") == [(1, "SENT"), (2, "DEAD"), (4, "CANCELLED")]
    schema.upgrade(engine)
    assert schema.drift(engine) == []


def test_rows_are_still_watched_after_a_migration(engine: sa.Engine) -> None:
    """The connection that rebuilt tables goes back to the pool as it was."""
    schema.upgrade(engine)
    with pytest.raises(sa.exc.IntegrityError):
        run(engine, NO_PARENT)


def test_a_migration_that_leaves_a_row_without_its_parent_is_taken_back(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not watch references while tables are rebuilt: they are looked at before the commit."""
    schema.upgrade(engine, "0001")
    real = alembic.op.execute

    def careless(*arguments: object, **named: object) -> object:
        real(NO_PARENT)
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(alembic.op, "execute", careless)
    with pytest.raises((RuntimeError, sa.exc.IntegrityError)):
        schema.upgrade(engine)
    assert schema.current(engine) == "0001"
    assert read(engine, "SELECT * FROM conflicts") == []


def test_looking_at_the_revision_waits_for_no_writer(engine: sa.Engine) -> None:
    """`dicom-node status` while a node writes."""
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM audit_events"))
        assert schema.current(engine) == schema.newest(engine)
