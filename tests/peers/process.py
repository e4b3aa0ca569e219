"""Child processes of a test: started on free ports, waited for by condition, stopped by their own process group."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HOST = "127.0.0.1"
LIVE: list[Process] = []
"""Every process that was started here and has not been stopped."""
RECENT: list[Process] = []
"""Those that ran at some time during the present test; conftest shows what they logged in it when it fails."""


PORTS = (10_000, 32_000)


class PeerError(AssertionError):
    """A process did not do what it was waited for; the message ends with what it had logged."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now, and that this process has not named before.

    Below the ports that the kernel gives to outgoing connections: one of those could take it before its server does,
    or while that server is stopped. Test processes that run at the same time begin far from each other.
    """
    for port in _PORTS:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind((HOST, port))
            return port
    raise AssertionError("unreachable: the ports go round")


def _ports_from(first: int) -> Iterator[int]:
    low, high = PORTS
    return itertools.cycle(low + (first + step) % (high - low) for step in range(high - low))


def listens(port: int) -> bool:
    """Whether a TCP connection to this loopback port is accepted."""
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex((HOST, port)) == 0


def wait_until(
    predicate: Callable[[], object], *, what: str, timeout_s: float = 60.0, process: Process | None = None
) -> None:
    """Polls until the predicate is true.

    Raises:
        PeerError: the time is over, or `process` ended meanwhile; its log is in the message.
    """
    deadline, pause_s = time.monotonic() + timeout_s, 0.01
    while not predicate():
        log = f"\n{process.tail()}" if process else ""
        if process and not process.running:
            msg = f"{process.name} ended with {process.returncode} before {what}{log}"
            raise PeerError(msg)
        if time.monotonic() > deadline:
            msg = f"not within {timeout_s:g} s: {what}{log}"
            raise PeerError(msg)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.2)


_PORTS = _ports_from(os.getpid() * 997)


class Process:
    """One child process in a process group of its own, its output appended to `log`.

    A context manager: leaving it stops the process. `start` after `stop` or `kill` runs the same command again.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        name: str,
        folder: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """`folder` gets the log; `env` is added to this process's; `user` is a system user to run as (root only)."""
        self.command = [*as_user(user), *(os.fspath(part) for part in command)]
        self.name, self.cwd, self.stop_signal = name, cwd, stop_signal
        self.env = {**os.environ, "TCP_NODELAY": "1", **(env or {})}
        self.log = folder / f"{name}.log"
        self._popen: subprocess.Popen[bytes] | None = None
        self._mark = 0

    def start(self) -> Self:
        """Starts the command; returns at once."""
        if self.running:
            msg = f"{self.name} runs already"
            raise PeerError(msg)
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        LIVE.append(self)
        if self not in RECENT:
            RECENT.append(self)
        return self

    def stop(self, *, timeout_s: float = 20.0) -> int | None:
        """Asks it to end, kills it if it does not, and gives its exit status (None: it never ran)."""
        if self._popen is None:
            return None
        if self.running:
            self._popen.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout_s)
        return self.kill()

    def kill(self) -> int | None:
        """SIGKILL to the process and to whatever it left behind in its group."""
        if self._popen is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        if self in LIVE:
            LIVE.remove(self)
        return self.returncode

    def wait(self, *, timeout_s: float = 60.0) -> int:
        """Waits for its own end and gives the exit status."""
        wait_until(lambda: not self.running, what=f"the end of {self.name}", timeout_s=timeout_s)
        status = self.kill()
        assert status is not None, f"{self.name} was never started"
        return status

    def wait_for_line(self, pattern: str, *, timeout_s: float = 60.0) -> str:
        """Waits for a log line that matches the regular expression, and gives that line."""
        found: list[str] = []

        def matches() -> bool:
            found[:] = [line for line in self.output().splitlines() if re.search(pattern, line)]
            return bool(found)

        wait_until(matches, what=f"a line like {pattern!r} from {self.name}", timeout_s=timeout_s, process=self)
        return found[0]

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """The process id, which is the id of its group too."""
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; negative for a signal, None while it runs."""
        return None if self._popen is None else self._popen.poll()

    def output(self) -> str:
        """All that it has written to stdout and stderr so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 40) -> str:
        """The last lines of what it has written since `mark`."""
        return "\n".join(self.output()[self._mark :].splitlines()[-lines:])

    def mark(self) -> None:
        """From here on `tail` looks."""
        self._mark = len(self.output())

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def run_process(
    command: Sequence[str | os.PathLike[str]],
    *,
    name: str,
    folder: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Process:
    """Starts a process of the project under test: `with run_process([...], name="node", folder=tmp_path) as node:`."""
    return Process(command, name=name, folder=folder, env=env, cwd=cwd).start()


def as_user(user: str | None) -> list[str]:
    """The words in front of a command that make it run as this system user; none where we are not root."""
    if user is None or os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]


def own_folder(name: str, *, user: str | None = None) -> Path:
    """A new folder for a peer's files. Outside pytest's own one, which other system users may not enter."""
    folder = Path(tempfile.mkdtemp(prefix=f"peer-{name}-"))
    if user is not None and os.geteuid() == 0:
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def begin_test() -> None:
    """Forgets what was logged before this test."""
    RECENT[:] = LIVE
    for process in RECENT:
        process.mark()


def stop_all() -> None:
    """Kills what is still running, last started first."""
    for process in reversed(LIVE.copy()):
        process.kill()


atexit.register(stop_all)


class Server(ABC):
    """A peer behind one process, up when it answers. A context manager; `start` after `stop` finds its data again."""

    name: ClassVar[str]
    """For people."""
    patience_s: ClassVar[float] = 60.0
    """How long it may take to answer."""
    process: Process

    @abstractmethod
    def answers(self) -> bool:
        """Whether a client is served now."""

    def start(self) -> Self:
        """Starts it and waits until it answers."""
        self.process.start()
        wait_until(self.answers, what=f"{self.name} answers", timeout_s=self.patience_s, process=self.process)
        return self

    def stop(self) -> None:
        """Ends it: a peer that is gone. What it has stored stays."""
        self.process.stop()

    def restart(self) -> None:
        """Down and up again, same data and ports."""
        self.stop()
        self.start()

    def up(self) -> Self:
        """Running, whatever the test before did to it."""
        return self if self.process.running else self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
