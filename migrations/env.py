"""Alembic's entry: runs migrations on the engine that `dicom_node.schema` hands over, or on the configured one."""

from __future__ import annotations

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
    with connectable.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_item=render_item,
            compare_type=True,
        )
        with context.begin_transaction():
            if connection.dialect.name == "postgresql":
                # Parts that start at the same moment would create the same tables; SQLite's write lock serialises them.
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            context.run_migrations()


run()
