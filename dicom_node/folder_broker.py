"""The embedded Celery broker: one file per message in a folder, for a node without a broker server.

kombu's own filesystem transport writes messages and its exchange table in place: a process killed in the
middle leaves half a file that stops every later worker. Here a message appears by rename, whole or not at
all, and nothing else is written. A message that a killed worker had taken is lost; the job row is the truth
and the sweep publishes it again.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.utils.json import dumps, loads

SCHEME = "folder"
LEFTOVERS = (".tmp", ".taken")
ABANDONED_S = 60.0
"""Writing or reading a message takes milliseconds."""


class Channel(virtual.Channel):  # type: ignore[misc]
    """Queues as folders below the transport option `folder`."""

    supports_fanout = False

    def _folder(self, queue: str) -> Path:
        folder = Path(self.connection.client.transport_options["folder"]) / queue.replace(os.sep, "_")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _new_queue(self, queue: str, **_: Any) -> None:
        """A process that was killed in the middle leaves a message under another name; nobody will come for it."""
        for left in self._folder(queue).iterdir():
            with suppress(FileNotFoundError):
                if left.suffix in LEFTOVERS and time.time() - left.stat().st_mtime > ABANDONED_S:
                    left.unlink()

    def _messages(self, queue: str) -> list[str]:
        return sorted(path.name for path in self._folder(queue).iterdir() if path.suffix == ".msg")

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex}"
        temporary = self._folder(queue) / f"{name}.tmp"
        try:
            temporary.write_text(dumps(payload), encoding="utf-8")
            temporary.rename(temporary.with_suffix(".msg"))
        except OSError:  # disk full: leave no half message behind
            temporary.unlink(missing_ok=True)
            raise

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002  (kombu's signature)
        for name in self._messages(queue):
            waiting = self._folder(queue) / name
            taken = waiting.with_suffix(f".{os.getpid()}.taken")
            try:
                waiting.rename(taken)
            except FileNotFoundError:
                continue
            try:
                return loads(taken.read_text(encoding="utf-8"))
            except ValueError:  # cut short by a power loss: as lost as any other lost message
                continue
            finally:
                taken.unlink()
        raise Empty

    def _size(self, queue: str) -> int:
        return len(self._messages(queue))

    def _purge(self, queue: str) -> int:
        purged = 0
        for name in self._messages(queue):
            (self._folder(queue) / name).unlink(missing_ok=True)
            purged += 1
        return purged


class Transport(virtual.Transport):  # type: ignore[misc]
    """kombu transport `folder://`."""

    Channel = Channel
    driver_type = "folder"
    driver_name = "folder"
    implements = virtual.Transport.implements.extend(asynchronous=False, exchange_type=frozenset(["direct"]))

    def driver_version(self) -> str:
        """Shown in the worker's banner."""
        return "1"


TRANSPORT_ALIASES.setdefault(SCHEME, "dicom_node.folder_broker:Transport")
