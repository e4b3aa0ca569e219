"""`python -m ml study`: every model of the paper on simulated institutions, for the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ml.device import choose_device
from ml.errors import EvaluationError
from ml.inference.engines import choose_engine
from ml.options import Device, Engine, Simulators, Threads
from ml.progress import stages
from ml.self_training.cli import (
    Band,
    CPercent,
    KHigh,
    KLow,
    LoaderWorkers,
    Precision,
    Seed,
    make_machine,
    self_training,
)
from ml.self_training.ranker import RankerConfig
from ml.self_training.targets import PixelThresholds
from ml.study.assembly import assemble
from ml.study.engine import StudyRun, run_study, train_models
from ml.study.exams import phantom_parts
from ml.study.models import ENTRIES
from ml.study.scales import SCALES


def make_study(
    out: Annotated[Path, typer.Option(help="Folder of the study; rerun the command to go on.")],
    *,
    data: Annotated[str, typer.Option(help="`phantom` for simulated institutions.")] = "phantom",
    scale: Annotated[str, typer.Option(help=f"{', '.join(SCALES)}.")] = "small",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    workers: Simulators = 2,
    loader_workers: LoaderWorkers = None,
    threads: Threads = None,
    engine: Engine = "auto",
    c_percent: CPercent = RankerConfig.positive_percent,
    ignore_band: Band = RankerConfig.ignore_band_percent,
    k_positive: KHigh = PixelThresholds.positive,
    k_negative: KLow = PixelThresholds.negative,
    train: Annotated[list[str] | None, typer.Option(help="Train this model and stop; may be repeated.")] = None,
) -> None:
    """Train, rank and judge every model of the paper. Stop and rerun at any moment; then `tables` writes the report.

    With `--train baseline` first, then `--train` of the others side by side, processes or machines that share the
    folder share the trainings; the command without it judges what was trained.
    """
    if data != "phantom":
        raise EvaluationError(f"there is no data {data!r} for a study; write `phantom`")
    if scale not in SCALES:
        raise typer.BadParameter(f"one of {', '.join(SCALES)} is expected, not {scale}")
    names = [entry.row.name for entry in ENTRIES if entry.same_as is None]
    unknown = [name for name in train or () if name not in names]
    if unknown:
        raise typer.BadParameter(f"--train takes {', '.join(names)}, not {', '.join(unknown)}")
    device = choose_device(device)
    run = StudyRun(
        out=out,
        scale=SCALES[scale],
        machine=make_machine(device, precision, loader_workers, threads=threads),
        config=self_training(c_percent, ignore_band, k_positive, k_negative),
        seed=seed,
        engine=choose_engine(engine, device=device),
        threads=threads,
    )
    parts = phantom_parts(run.scale, workers=workers)
    with stages() as stage:
        if train:
            train_models(run, train, parts, stage)
        else:
            run_study(run, parts, stage)
    print(f"{'models of the study' if train else 'study'} -> {out}")


def assemble_study(
    study: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with <model>/<set>/ records.")],
    title: Annotated[str, typer.Option(help="Of the report.")],
    data: Annotated[str, typer.Option(help="One sentence on the data, printed above every table.")],
) -> None:
    """Write study.json for models that were trained and evaluated step by step; then `tables` writes the report."""
    found = assemble(study, title=title, data=data)
    print(f"{len(found.models)} models, {len(found.sets)} sets -> {study / 'study.json'}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("study")(make_study)
    app.command("assemble")(assemble_study)
