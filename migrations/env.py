"""Alembic's entry: runs migrations on the engine that `dicom_node.schema` hands over, or on the configured one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import sqlalchemy as sa
from alembic import context

from dicom_node.config import load_config
from dicom_node.db import make_engine
from dicom_node.tables import Base, UtcDateTime

MIGRATION_LOCK = 0x1C4_0DE
"""Key of the PostgreSQL advisory lock that one migration at a time holds."""


def render_item(kind: str, item: Any, _autogenerate: Any) -> str | Literal[False]:
    """Write our time type as plain SQLAlchemy, so that a migration never imports today's tables."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def run() -> None:
    """Run the migrations in one transaction. One that alters a table uses `op.batch_alter_table`, for SQLite."""
    connectable = context.config.attributes.get("engine") or make_engine(load_config().database)
    with connectable.connect() as connection, _tables_may_be_rebuilt(connection):
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_item=render_item,
            compare_type=True,
            transactional_ddl=True,  # SQLite too: the engine begins its transactions itself
        )
        with context.begin_transaction():
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SET LOCAL lock_timeout = 0"))  # it waits until the node lets it through
                # Parts that start at the same moment would create the same tables; SQLite's write lock serialises them.
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            context.run_migrations()
            _check_references(connection)


@contextmanager
def _tables_may_be_rebuilt(connection: sa.Connection) -> Iterator[None]:
    """SQLite alters a table by making it anew, which no row may hinder that refers to it (sqlite.org/lang_altertable).

    The switch does nothing inside a transaction, so it is thrown before one begins.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    raw: Any = connection.connection.dbapi_connection
    raw.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        raw.execute("PRAGMA foreign_keys=ON")


def _check_references(connection: sa.Connection) -> None:
    """What SQLite did not watch meanwhile; a migration that leaves a row without its parent is taken back."""
    if connection.dialect.name == "sqlite":
        lost = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        if lost:
            raise RuntimeError(f"the migration leaves {len(lost)} rows that refer to nothing, one in {lost[0][0]}")


run()
