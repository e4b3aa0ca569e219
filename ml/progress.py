"""How long work shows how far it is: a bar per stage on standard error, of the first process alone; lines in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

errors = Console(stderr=True, emoji=False)  # ":B:" and ":100:" stand for themselves
LINE_EVERY_S = 60.0
"""Between two lines of a stage, where there is no terminal."""


class Tell(Protocol):
    """Called when a part of a stage is done."""

    def __call__(self, note: str, done: int | None = None, /) -> None:
        """`done`: how many are now, where a leap is the work of an earlier run; None: one more."""


Stage = Callable[[str, int | None], Tell]
"""Opens a stage (name, number of parts if known)."""


def is_first() -> bool:
    """Whether this is the one process that speaks: the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """A line on standard output, once however many processes there are."""
    if is_first():
        sys.stdout.write(f"{text}\n")


def warn(text: str) -> None:
    """A line on standard error, once however many processes there are, of what does not stop the work."""
    if is_first():
        errors.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def stages() -> Iterator[Stage]:
    """Opens stages, one after the other, as bars on the terminal; a line now and then where there is none."""
    if not errors.is_terminal:
        yield _in_lines
        return
    columns = (
        TextColumn("{task.description:18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=errors, disable=not is_first()) as bars:

        def stage(name: str, total: int | None) -> Tell:
            for earlier in bars.task_ids:
                bars.update(earlier, completed=bars.tasks[earlier].total)
            task = bars.add_task(name, total=total, note="")

            def tell(note: str, done: int | None = None, /) -> None:
                before = int(bars.tasks[task].completed)
                if done is not None and done > before + 1:  # work of an earlier run: not counted in the speed
                    bars.reset(task, completed=done, note=note)
                else:
                    bars.update(task, completed=before + 1 if done is None else done, note=note)

            return tell

        yield stage


def _in_lines(name: str, total: int | None) -> Tell:
    """A stage told in lines: when it begins or goes on with an earlier run, at most once a minute, and at its end."""
    begun = told = monotonic()
    so_far = 0
    of = "" if total is None else f" of {total}"

    def tell(note: str, done: int | None = None, /) -> None:
        nonlocal so_far, told
        before, so_far = so_far, so_far + 1 if done is None else done
        now = monotonic()
        if so_far == total or so_far > before + 1 or now - told >= LINE_EVERY_S:
            told = now
            line = f"{name}: {so_far}{of}, {timedelta(seconds=int(now - begun))}"
            _write(f"{line}, {note}" if note else line)

    _write(f"{name}: 0{of}" if total is not None else name)
    return tell


def _write(line: str) -> None:
    if is_first():
        errors.print(line, markup=False, highlight=False, soft_wrap=True)
