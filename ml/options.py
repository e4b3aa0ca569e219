"""Options that several commands of `python -m ml` take."""

from __future__ import annotations

from typing import Annotated

import typer

from ml.inference.engines import EngineName

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Engine = Annotated[EngineName, typer.Option(help="What computes the network for predictions.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")]
Matrix = Annotated[int, typer.Option(help="Rows and columns of the simulated scans.")]
Simulators = Annotated[int, typer.Option("--workers", min=0, help="Processes that simulate exams; 0 for this one.")]
