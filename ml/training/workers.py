"""Processes that read exams and make patches for the one that trains: what is said when one of them dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ml.errors import TrainingError

SIGNAL_S = 5.0
"""How long the kernel may take to tell of a dead process."""


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """A loader's worker that dies or hangs becomes a TrainingError.

    PyTorch raises for a dead one from a signal handler, at whatever place of a step this process is just then. One that
    dies while it hands over a patch breaks the connection first.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError):
            time.sleep(SIGNAL_S)  # ended by the handler, whose word of it must come here and not later
            raise
    except (RuntimeError, ConnectionError, EOFError) as error:
        told = str(error)
        if told.startswith("Caught ") or (isinstance(error, RuntimeError) and "DataLoader" not in told):
            raise  # a mistake that a worker told of, or one of this process
        reason = told.partition("\n")[0] or type(error).__name__
        raise TrainingError(
            f"a process that makes patches died or hung ({reason}); the last checkpoint is usable. "
            "Most often memory ran out: run the same command again with fewer --loader-workers, or 0"
        ) from error
