"""The composition root: one process per part, and a supervisor that starts them again when they die.

    dicom-node serve
    |- listener   (x acceptor_processes)   C-STORE in: archive and rows
    |- sweeper                             completion, repair, the outbox, its confirmation, reports, retention
    `- worker     (x worker.processes)     the network; `python -m worker`

Each part can also run alone, on its own machine: `dicom-node serve --role listener`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import broker, commitment_service, jobs, schema
from dicom_node.archive import FolderArchive
from dicom_node.config import Config
from dicom_node.confirmer import confirm_until
from dicom_node.db import Database, make_engine
from dicom_node.deliverer import deliver_until
from dicom_node.errors import ArchiveError
from dicom_node.reconcile import reconcile
from dicom_node.reporter import report_until
from dicom_node.retention import keep_tidy_until
from dicom_node.scp import Listener
from dicom_node.sweeper import Sweeper

log = structlog.get_logger()

WORKER_ID = "DICOM_NODE_WORKER_ID"
"""Environment variable by which the supervisor names a worker, so that it can release its jobs when it dies."""
SUPERVISOR = "DICOM_NODE_SUPERVISOR"
"""Environment variable with the supervisor's process id: a part ends when it is gone."""
ORPHAN_CHECK_S = 0.5
FIRST_RESTART_S = 0.2
LONGEST_RESTART_S = 5.0
TIDY_FIRST_S = 600.0
"""The archive is looked through so long after the start, and then every day."""
TIDY_EVERY_S = 86_400.0
CALM_S = 30.0
"""A part that ran this long before it died is started again without waiting."""


def stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def _stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    return stop


def end_with_supervisor() -> None:
    """Ask this process to stop (SIGTERM to itself) once the supervisor that started it is gone.

    A supervisor that was killed cannot stop its parts, and a new one would find the port taken.
    """
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is None:
        return

    def _watch() -> None:
        while os.getppid() == int(supervisor):
            time.sleep(ORPHAN_CHECK_S)
        log.warning("the supervisor is gone, this part stops")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=_watch, name="supervisor watch", daemon=True).start()


def run_listener(config: Config, *, on_ready: Callable[[int], None] | None = None) -> None:
    """Receive until told to stop; `on_ready` gets the port. Open associations get `shutdown_grace_s` to end."""
    stop = stop_event()
    end_with_supervisor()
    engine = make_engine(config.database)
    schema.make_ready(engine)
    archive = FolderArchive(config.archive_dir)
    listener = Listener(
        config,
        engine,
        archive,
        listener_id=process_name("listener"),
        services=commitment_service.services(Database(engine), archive, config),
        service_sop_classes=commitment_service.SOP_CLASSES,
    )
    listener.start()
    if on_ready:
        on_ready(listener.port)
    log.info("listener ready", host=config.listener.host, port=listener.port, ae_title=config.node.ae_title)
    stop.wait()
    listener.stop(config.listener.shutdown_grace_s)


def run_sweeper(config: Config) -> None:
    """Complete, repair, deliver and confirm until told to stop."""
    stop = stop_event()
    end_with_supervisor()
    engine = make_engine(config.database)
    schema.make_ready(engine)
    database = Database(engine)
    archive = FolderArchive(config.archive_dir)
    loops = [
        _loop("outbox", deliver_until, stop, database, config, config.archive_dir),
        _loop("confirm", confirm_until, stop, database, config),
        _loop("reports", report_until, stop, database, config, archive),
        _loop("retention", keep_tidy_until, stop, database, config, archive),
    ]
    for loop in loops:
        loop.start()
    threading.Thread(target=_tidy, args=(stop, engine, config), name="tidy", daemon=True).start()
    Sweeper(database, config, broker.make_celery(config.broker)).run(stop)
    for loop in loops:
        loop.join(timeout=config.listener.shutdown_grace_s)


def _loop(name: str, run: Callable[..., None], *arguments: object) -> threading.Thread:
    return threading.Thread(target=run, args=arguments, name=name, daemon=True)


def _tidy(stop: threading.Event, engine: sa.Engine, config: Config) -> None:
    """Once a day, look for files that a crash left behind (dicom_node.reconcile)."""
    while not stop.wait(TIDY_FIRST_S):
        try:
            orphans = reconcile(engine, FolderArchive(config.archive_dir))
            if orphans:
                log.warning("files without a row were removed", files=len(orphans))
        except (SQLAlchemyError, ArchiveError) as error:
            log.error("the archive was not looked through, tomorrow again", error=type(error).__name__)
        stop.wait(TIDY_EVERY_S - TIDY_FIRST_S)


@dataclass
class Part:
    """A child process that must run."""

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    is_worker: bool = False
    process: subprocess.Popen[bytes] | None = None
    worker_id: str = ""
    started: float = 0.0
    restart_at: float | None = None
    """When a dead part is started again (time.monotonic)."""
    wait_s: float = 0.0
    """How long the last restart waited."""

    def start(self) -> None:
        """Start it, a worker under a name of its own."""
        environment = {**os.environ, **self.environment, SUPERVISOR: str(os.getpid())}
        if self.is_worker:
            self.worker_id = process_name(self.name)
            environment[WORKER_ID] = self.worker_id
        self.process = subprocess.Popen(self.command, env=environment)  # noqa: S603  (our own command line)
        self.started = time.monotonic()
        log.info("part started", part=self.name, pid=self.process.pid)


class Supervisor:
    """Starts the parts, restarts what dies, and stops them in order: listener first, workers last."""

    def __init__(self, config: Config, config_path: Path | None) -> None:
        self._config = config
        self._database = Database(make_engine(config.database))
        self.parts = _parts(config, config_path)

    def run(self, stop: threading.Event) -> None:
        """Supervise until `stop` is set."""
        schema.make_ready(self._database.engine)
        for part in self.parts:
            part.start()
        while not stop.wait(0.1):
            for part in self.parts:
                self._look_after(part)
        for part in self.parts:
            _end(part, grace_s=self._config.listener.shutdown_grace_s + 5)
            self._release(part, jobs.hand_back)

    def _look_after(self, part: Part) -> None:
        """Start a dead part again, at once the first time, more slowly when it keeps dying."""
        if part.process is None or part.process.poll() is None:
            return
        now_s = time.monotonic()
        if part.restart_at is None:
            log.error("part died", part=part.name, exit_code=part.process.returncode)
            self._release(part, jobs.release_worker)
            calm = now_s - part.started > CALM_S
            part.wait_s = FIRST_RESTART_S if calm else min(LONGEST_RESTART_S, max(FIRST_RESTART_S, part.wait_s * 2))
            part.restart_at = now_s + part.wait_s
        elif now_s >= part.restart_at:
            part.restart_at = None
            part.start()

    def _release(self, part: Part, release: Callable[[Database, str], int]) -> None:
        """Hand the jobs of a worker that is gone back without waiting for their leases."""
        if not part.is_worker:
            return
        try:
            release(self._database, part.worker_id)
        except SQLAlchemyError as error:
            log.warning("the dead worker's lease will run out by itself", error=type(error).__name__)


def _parts(config: Config, config_path: Path | None) -> list[Part]:
    """The processes of a whole node."""
    with_config = ["--config", str(config_path)] if config_path else []
    this = [sys.executable, "-m", "dicom_node", *with_config]
    listeners = [
        Part(f"listener-{n}", [*this, "serve", "--role", "listener"]) for n in range(config.listener.acceptor_processes)
    ]
    environment = {"DICOM_NODE_CONFIG": str(config_path)} if config_path else {}
    workers = [
        Part(f"worker-{n}", [sys.executable, "-m", "worker"], environment=dict(environment), is_worker=True)
        for n in range(config.worker.processes)
    ]
    return [*listeners, Part("sweeper", [*this, "serve", "--role", "sweeper"]), *workers]


def _end(part: Part, *, grace_s: float) -> None:
    """SIGTERM, then SIGKILL after the grace."""
    if part.process is None or part.process.poll() is not None:
        return
    part.process.terminate()
    try:
        part.process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        log.warning("part did not stop in time, killed", part=part.name)
        part.process.kill()
        part.process.wait()


def process_name(part: str) -> str:
    """A name for a process in its rows, never used again."""
    return f"{socket.gethostname()[:40]}/{part}/{uuid.uuid4().hex[:12]}"
