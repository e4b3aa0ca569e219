"""Fixtures of every test: real peers, each started once per run on first use, and their logs when a test fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import Orthanc, PostgreSQL, RabbitMQ, Redis, StoreScp, need
from tests.peers.presence import MISSING_PREFIX
from tests.peers.process import RECENT, begin_test

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.peer("dcmtk", "orthanc")`: skips by name what is not there."""
    begin_test()
    for mark in item.iter_markers("peer"):
        need(*mark.args)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: where files are tested side by side, the last ones should be short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows below a failed test what the processes logged that ran during it."""
    report = yield
    if report.failed:
        report.sections += [(f"log of {one.name}, pid {one.pid}", one.tail()) for one in RECENT if one.tail()]
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Says how a test process ended that died: below 0 by that signal."""
    reporter = node.config.pluginmanager.get_plugin("terminalreporter")
    if error and reporter is not None:
        status = node.gateway._io.popen.wait(timeout=30)
        reporter.write_line(f"the process of {node.gateway.id} ended with {status}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists what could not be tested for want of a peer."""
    tests_by_peer: dict[str, list[str]] = {}
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if MISSING_PREFIX in reason:
            tests_by_peer.setdefault(reason.partition(MISSING_PREFIX)[2], []).append(report.nodeid)
    if tests_by_peer:
        terminalreporter.section("Peers that could not be had")
        for peer, tests in sorted(tests_by_peer.items()):
            terminalreporter.write_line(f"{peer}: {len(tests)} skipped")
            for test in tests:
                terminalreporter.write_line(f"    {test}")


@pytest.fixture(scope="session")
def orthanc_server() -> Iterator[Orthanc]:
    """One Orthanc for the whole run; use `orthanc`."""
    with Orthanc() as server:
        yield server


@pytest.fixture
def orthanc(orthanc_server: Orthanc) -> Orthanc:
    """A running, empty Orthanc."""
    orthanc_server.up().wipe()
    return orthanc_server


@pytest.fixture
def storescp() -> Iterator[StoreScp]:
    """A running DCMTK storescp that takes everything."""
    with StoreScp() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """One PostgreSQL for the whole run."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQL) -> Iterator[str]:
    """The SQLAlchemy URL of a new empty database."""
    with postgresql_server.up().database() as url:
        yield url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """One Redis for the whole run."""
    with Redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The URL of an empty Redis."""
    redis_server.up().flush()
    return redis_server.url


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMQ]:
    """One RabbitMQ for the whole run."""
    with RabbitMQ() as server:
        yield server


@pytest.fixture
def rabbitmq_url(rabbitmq_server: RabbitMQ) -> Iterator[str]:
    """The URL of a new virtual host."""
    with rabbitmq_server.up().vhost() as url:
        yield url
