"""How long work shows how far it is."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from ml import progress


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The lines that were written so far where standard error is a file."""
    file = StringIO()
    monkeypatch.setattr(progress, "errors", Console(file=file))
    return lambda: file.getvalue().splitlines()


def test_without_a_terminal_a_line_tells_each_beginning_and_end(told: Callable[[], list[str]]) -> None:
    """At once, and not when all is over: a log is read while the work goes on."""
    with progress.stages() as stage:
        tell = stage("decoding", 1000)
        assert told() == ["decoding: 0 of 1000"]
        for number in range(1000):
            tell(f"exam {number}")
        assert told()[-1].startswith("decoding: 1000 of 1000, 0:00:0")
        assert told()[-1].endswith("exam 999")
        stage("training", 5)
        assert told()[-1] == "training: 0 of 5"
    assert len(told()) == 3


def test_without_a_terminal_long_stages_speak_now_and_then(
    told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line a minute, however many parts there are; also where nobody knows how many."""
    clock = iter(range(100_000))
    monkeypatch.setattr(progress, "monotonic", lambda: float(next(clock)))
    with progress.stages() as stage:
        tell = stage("reading headers", None)
        for number in range(600):
            tell(f"{number} files")
    assert len(told()) == 11
    assert told()[1] == "reading headers: 60, 0:01:00, 59 files"


def test_a_stage_goes_on_where_an_earlier_run_stopped(told: Callable[[], list[str]]) -> None:
    """Not from nothing: whoever reads that would think the checkpoint lost."""
    with progress.stages() as stage:
        tell = stage("training", 6000)
        tell("loss 0.3", 1963)
        assert told()[-1].startswith("training: 1963 of 6000, 0:00:0")
        tell("loss 0.3", 1964)
        assert len(told()) == 2
        tell("loss 0.2", 6000)
        assert told()[-1].startswith("training: 6000 of 6000")


def test_a_bar_of_a_run_that_goes_on_does_not_take_the_earlier_steps_for_its_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the time that remains would be seconds at first."""
    bars: list[Progress] = []

    def make_bars(*columns: ProgressColumn, **how: Any) -> Progress:
        bars.append(Progress(*columns, **how))
        return bars[0]

    monkeypatch.setattr(progress, "errors", Console(file=StringIO(), force_terminal=True, width=160))
    monkeypatch.setattr(progress, "Progress", make_bars)
    with progress.stages() as stage:
        tell = stage("training", 6000)
        tell("loss 0.3", 1963)
        (task,) = bars[0].tasks
        assert task.completed == 1963
        assert task.speed is None
        for step in range(1964, 1970):
            tell("loss 0.3", step)
        assert task.completed == 1969
        tell("loss 0.3")
        assert task.completed == 1970
