"""The polling of rows that are due for a destination, each destination in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.db import Database

log = structlog.get_logger()

AFTER_FAULT_S = 1.0
LAST_ROUND_S = 5.0
"""How long the end waits for associations that are open; what they were doing is done again after its lease."""


@dataclass(frozen=True)
class Rounds:
    """What a loop does: `due` names whom something is to be done for, `serve` does one round for one of them."""

    name: str
    due: Callable[[Session], set[str]]
    serve: Callable[[str], object]


def poll(stop: threading.Event, database: Database, rounds: Rounds, *, interval_s: float) -> None:
    """Poll until `stop` is set: one that is slow delays no other."""
    busy: dict[str, threading.Thread] = {}
    while not stop.wait(interval_s):
        try:
            with database.reading() as session:
                names = rounds.due(session)
        except SQLAlchemyError as error:
            log.error("database unreachable, polling again soon", loop=rounds.name, error=type(error).__name__)
            stop.wait(AFTER_FAULT_S)
            continue
        busy = {name: thread for name, thread in busy.items() if thread.is_alive()}
        for name in sorted(names - busy.keys()):
            thread_name = f"{rounds.name}-{name}"
            thread = threading.Thread(target=_guarded, args=(stop, rounds, name), name=thread_name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no memory, or the system's limit of threads
                log.error(
                    "no thread for a round, trying again soon: raise the limit of tasks", loop=rounds.name, peer=name
                )
                stop.wait(AFTER_FAULT_S)
                break
            busy[name] = thread
    for thread in busy.values():
        thread.join(timeout=LAST_ROUND_S)


def _guarded(stop: threading.Event, rounds: Rounds, name: str) -> None:
    """One round; a fault ends the round and not the loop. What it had claimed is free again after its lease."""
    try:
        rounds.serve(name)
    except SQLAlchemyError as error:
        log.error("database unreachable, trying again soon", loop=rounds.name, peer=name, error=type(error).__name__)
        stop.wait(AFTER_FAULT_S)
    except Exception:  # a fault of this code or of a library must not stop the whole loop
        log.exception("a round failed", loop=rounds.name, peer=name)
        stop.wait(AFTER_FAULT_S)
