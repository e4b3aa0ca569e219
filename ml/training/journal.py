"""What a run says of itself as it goes: log.jsonl beside every checkpoint, and events for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ml.errors import TrainingError

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

EVERY = 10
"""Steps between two events: a run of a million steps stays readable."""


class Journal:
    """Notes of one run. Without a folder it keeps nothing: only one of several processes writes."""

    def __init__(self, folder: Path | None, *, first: int, tensorboard: bool) -> None:
        """`first`: the step that the run goes on from; events after it, of a run that was stopped, are dropped."""
        self._folder = folder
        self._events: SummaryWriter | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        if folder is not None and tensorboard:
            from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415 (takes a second)

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def is_due(self, step: int) -> bool:
        """Whether `note` would write anything: figures cost time on a GPU."""
        return self._events is not None and step % EVERY == 0

    def note(self, step: int, figures: dict[str, float]) -> None:
        """The figures of a step. Raises TrainingError: the disk is full."""
        if self._events is not None:
            with _full_disk_told():
                for name, value in figures.items():
                    self._events.add_scalar(f"training/{name}", value, step)

    def flush(self, step: int, loss: float) -> None:
        """Write what there is.

        Raises:
            TrainingError: the disk is full.
        """
        if self._folder is None:
            return
        with _full_disk_told():
            if self._events is not None:
                self._events.flush()
            with (self._folder / "log.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "loss": round(loss, 5)}) + "\n")

    def close(self) -> None:
        """End of the run; what stopped it, if anything did, is not hidden by events that find no room."""
        if self._events is not None:
            with suppress(OSError):
                self._events.close()


@contextmanager
def _full_disk_told() -> Iterator[None]:
    """Events are written by a thread, whose errors come up at any later call."""
    try:
        yield
    except OSError as error:
        raise TrainingError(f"the log cannot be written ({error.strerror}); {AFTER_FULL_DISK}") from error


AFTER_FULL_DISK = "the last checkpoint is usable: free space and run the same command again"
