"""Several threads' writes in one transaction: as many commits as the disk can do, however many associations there are.

Whoever comes while a commit is under way waits; the first to get through then commits for all that wait. A thread
alone commits in itself, without a hand-over.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
TRIES = 3
"""Two processes that insert the same row at once: the second finds it on its next try."""


class _Entry(Generic[T]):
    def __init__(self, work: Callable[[sa.Connection], T]) -> None:
        self.work = work
        self.done = False
        self.value: T | None = None
        self.error: Exception | None = None


class GroupCommit:
    """Runs pieces of work, each of which writes through the connection it is given, and commits them together.

    A piece must have no other effect, since it runs again when its batch failed because of another piece.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._committing = threading.Lock()
        self._waiting: list[_Entry[Any]] = []
        self._waiting_lock = threading.Lock()

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` returned, once its transaction is durable. Raises what `work` or the database raised."""
        entry = _Entry(work)
        with self._waiting_lock:
            self._waiting.append(entry)
        with self._committing:
            if not entry.done:
                with self._waiting_lock:
                    batch, self._waiting = self._waiting, []
                self._commit(batch)
        if entry.error is not None:
            raise entry.error
        return cast("T", entry.value)

    def _commit(self, batch: Sequence[_Entry[Any]]) -> None:
        try:
            began = self._commit_together(batch)
            if not began:
                for entry in batch:
                    self._commit_alone(entry)
        except sa.exc.SQLAlchemyError as error:
            for entry in batch:
                entry.error = entry.error or error
        finally:
            for entry in batch:
                entry.done = True

    def _commit_together(self, batch: Sequence[_Entry[Any]]) -> bool:
        """False when a piece or the commit failed and nothing was written. Raises when the database is not there."""
        with self._engine.connect() as connection:
            transaction = connection.begin()
            try:
                values = [entry.work(connection) for entry in batch]
                transaction.commit()
            # Whatever one piece raised, the others must not suffer: each runs again alone and gets its own error.
            except Exception:  # noqa: BLE001
                transaction.rollback()
                return False
        for entry, value in zip(batch, values, strict=True):
            entry.value = value
        return True

    def _commit_alone(self, entry: _Entry[Any]) -> None:
        for attempt in range(TRIES):
            try:
                with self._engine.begin() as connection:
                    entry.value = entry.work(connection)
            except sa.exc.IntegrityError as error:
                if attempt == TRIES - 1:
                    entry.error = error
            # It belongs to the thread that waits for it, and is raised there.
            except Exception as error:  # noqa: BLE001
                entry.error = error
                return
            else:
                return
