"""The schema's version: upgrade, downgrade and drift, by Alembic. Administrators call it as `dicom-node db`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from dicom_node.db import reading_engine
from dicom_node.errors import ConfigError, NotPossible
from dicom_node.tables import Base


def alembic_config(engine: sa.Engine) -> AlembicConfig:
    """Alembic pointed at the `migrations` package, wherever it is installed."""
    spec = find_spec("migrations")
    if spec is None or spec.origin is None:
        raise ConfigError("the `migrations` package is not installed beside dicom_node")
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(spec.origin).parent))
    config.attributes["engine"] = engine
    return config


def newest(engine: sa.Engine) -> str:
    """The revision that this release of the node needs."""
    head = ScriptDirectory.from_config(alembic_config(engine)).get_current_head()
    return head or ""


def current(engine: sa.Engine) -> str | None:
    """The revision the database is at; None for an empty one."""
    with reading_engine(engine).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the database to `revision`. Raises ConfigError when a newer release made it, NotPossible."""
    _check_known(engine, current(engine))
    with _revisions():
        command.upgrade(alembic_config(engine), revision)


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Take the database back to `revision` ("base" empties it). Raises NotPossible."""
    with _revisions():
        command.downgrade(alembic_config(engine), revision)


@contextmanager
def _revisions() -> Iterator[None]:
    """Alembic's refusal as an error of the node: nobody knows the revision that is asked for."""
    try:
        yield
    except CommandError as error:
        raise NotPossible(f"the schema stays as it is: {error}; `dicom-node db check` tells both revisions") from error


def drift(engine: sa.Engine) -> list[str]:
    """Differences between the database and the tables in code; empty when they agree."""
    with reading_engine(engine).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [str(difference) for difference in compare_metadata(context, Base.metadata)]
        return differences or list(_states_not_allowed(connection))


def _states_not_allowed(connection: sa.Connection) -> Iterator[str]:
    """Alembic does not compare CHECK constraints: the states that each one lists, against those in code."""
    inspector = sa.inspect(connection)
    for table in Base.metadata.sorted_tables:
        checks = {check["name"]: check["sqltext"] for check in inspector.get_check_constraints(table.name)}
        for column in table.columns:
            if not isinstance(column.type, sa.Enum):
                continue
            name = f"ck_{table.name}_{column.type.name}"
            listed = set(re.findall(r"'(\w+)'", checks.get(name, "")))
            if listed != set(column.type.enums):
                yield f"{name} allows {sorted(listed)}, the code has {sorted(column.type.enums)}"


def _check_known(engine: sa.Engine, revision: str | None) -> None:
    """Raises ConfigError unless this release has a migration to that revision."""
    scripts = ScriptDirectory.from_config(alembic_config(engine)).walk_revisions()
    if revision is not None and all(script.revision != revision for script in scripts):
        raise ConfigError(
            f"the database is at revision {revision}, which this release does not know: a newer one made it; install "
            "that one again, and take the database back with it (`dicom-node db downgrade`) before an older one is used"
        )


def make_ready(engine: sa.Engine) -> None:
    """Create or upgrade an embedded SQLite database; check any other one.

    Raises ConfigError when a server database is behind this release (several nodes may use it, so an administrator
    decides when it moves), and when any database is ahead of it.
    """
    have, need = current(engine), newest(engine)
    if have == need:
        return
    _check_known(engine, have)
    if have is None or engine.dialect.name == "sqlite":
        upgrade(engine)
        return
    raise ConfigError(f"the database is at revision {have}, this release needs {need}: run `dicom-node db upgrade`")
