"""Fixtures of the node's tests: its database on SQLite and PostgreSQL, and a house around it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dicom_node.house import House

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))]


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database; empty for the embedded one."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder in memory, where fsync costs nothing; for tests that no power loss matters to."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def make_house(memory_folder: Path, database_url: str) -> Iterator[Callable[..., House]]:
    """`make_house(lines)`: a node without processes and with lines of config.toml, on both databases."""
    yield from _houses(memory_folder, database_url)


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    """A node without processes, on both databases."""
    return make_house()


@pytest.fixture
def make_small_house(memory_folder: Path) -> Iterator[Callable[..., House]]:
    """`make_house` on SQLite alone, for what no database decides; or on the one of `url`."""
    yield from _houses(memory_folder, "")


def _houses(folder: Path, default_url: str) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(config: str = "", *, url: str = default_url) -> House:
        houses.append(House(folder / str(len(houses)), url, config=config))
        return houses[-1]

    yield make
    for house in houses:
        house.engine.dispose()


@pytest.fixture
def small_house(make_small_house: Callable[..., House]) -> House:
    """A node without processes on SQLite alone."""
    return make_small_house()
