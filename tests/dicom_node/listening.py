"""A listener of this process with its own archive and database, and a look at what it kept."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from dicom_node import schema
from dicom_node.archive import FolderArchive
from dicom_node.config import Config, parse_config
from dicom_node.db import make_engine
from dicom_node.scp import Listener
from dicom_node.tables import Instance
from tests.peers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Listening:
    """What a test looks at."""

    config: Config
    engine: sa.Engine
    archive: FolderArchive
    listener: Listener
    closed: list[tuple[int, frozenset[int]]]

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.listener.port

    def rows(self, what: Any, *where: Any) -> list[Any]:
        """Rows or scalars of a select."""
        with self.engine.execution_options(read_only=True).connect() as connection:
            return list(connection.execute(sa.select(what).where(*where)).all())

    def count(self, table: type) -> int:
        """Rows of a table."""
        with self.engine.execution_options(read_only=True).connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0

    def dataset_bytes(self, uid: str) -> bytes:
        """The stored dataset, without preamble and file meta information."""
        ((path,),) = self.rows(Instance.path, Instance.sop_instance_uid == uid)
        data = self.archive.path(path).read_bytes()
        assert data[128:132] == b"DICM"
        return data[144 + int.from_bytes(data[140:144], "little") :]

    def files(self, top: str = "") -> list[Path]:
        """Every file of the archive."""
        return sorted(path for path in (self.archive.root / top).rglob("*") if path.is_file())

    def settled(self) -> None:
        """Wait until every association has ended and is noted."""
        wait_until(lambda: not self.listener._associations, what="associations end")


def config_for(folder: Path, listener: str = "", rest: str = "") -> Config:
    """A config with lines for [listener], and other sections."""
    text = f'[node]\ndata_dir = "{folder}"\n[listener]\nport = 0\n{listener}\n{rest}'
    return parse_config(text, source="test", base=folder)


@contextmanager
def listening(folder: Path, listener: str = "", *, rest: str = "", listener_id: str = "test/1") -> Iterator[Listening]:
    """A listener on a free port; `listener` holds lines of its section of config.toml, `rest` other sections."""
    config = config_for(folder, listener, rest)
    engine = make_engine(config.database)
    schema.make_ready(engine)
    archive = FolderArchive(config.archive_dir)
    closed: list[tuple[int, frozenset[int]]] = []
    scp = Listener(
        config,
        engine,
        archive,
        listener_id=listener_id,
        on_association_closed=lambda association, studies: closed.append((association, studies)),
    )
    scp.start()
    try:
        yield Listening(config, engine, archive, scp, closed)
    finally:
        scp.stop(0)
        engine.dispose()
