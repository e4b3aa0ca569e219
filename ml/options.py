"""Options that several commands of `python -m ml` take."""

from __future__ import annotations

from typing import Annotated

import typer

from ml.inference.engines import EngineName

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Engine = Annotated[EngineName, typer.Option(help="What computes the network for predictions.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")]


def _multiple_of_128(value: int) -> int:
    if value < 128 or value % 128:
        raise typer.BadParameter("a multiple of 128 is expected")
    return value


Matrix = Annotated[
    int, typer.Option(callback=_multiple_of_128, help="Rows and columns of the simulated scans: 128, 256 ...")
]
Simulators = Annotated[int, typer.Option("--workers", min=0, help="Processes that simulate exams; 0 for this one.")]
