"""How long work shows how far it is: a bar per stage on standard error, of the first process alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

errors = Console(stderr=True)

Stage = Callable[[str, int | None], Callable[[str], None]]
"""Opens a stage (name, number of parts if known); what it returns is called, with a note, when a part is done."""


def is_first() -> bool:
    """Whether this is the one process that speaks: the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """A line on standard output, once however many processes there are."""
    if is_first():
        sys.stdout.write(f"{text}\n")


@contextmanager
def stages() -> Iterator[Stage]:
    """Opens stages, one after the other, as bars on the terminal; one line per stage where there is none."""
    columns = (
        TextColumn("{task.description:18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=errors, disable=not is_first()) as bars:

        def stage(name: str, total: int | None) -> Callable[[str], None]:
            for earlier in bars.task_ids:
                bars.update(earlier, completed=bars.tasks[earlier].total)
            task = bars.add_task(name, total=total, note="")
            return lambda note: bars.update(task, advance=1, note=note)

        yield stage
