"""`python -m ml train`, `pseudo-label`, `rank`, `self-train`: the paper's training, one command per step or for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from ml.bundle import load_bundle
from ml.config import COMPACT_PREPROCESSING, PAPER_PREPROCESSING
from ml.data.shards import ExamShard, open_folder
from ml.device import choose_device, choose_loader_workers
from ml.errors import DataError
from ml.labels import LabelLevel
from ml.networks.patchfcn import COMPACT, PAPER
from ml.options import Engine
from ml.progress import say, stages
from ml.self_training.inspection import write_sheets
from ml.self_training.labelling import score_corpus
from ml.self_training.models import Model, SelfTraining, make_pools
from ml.self_training.ranker import RankerConfig, rank, write_ranking
from ml.self_training.rounds import self_train, train_shown
from ml.self_training.scores import F32Array, ScoreStore
from ml.self_training.targets import PixelThresholds
from ml.training.distribution import process_group, share
from ml.training.recipe import COMPACT_RECIPE, PAPER_RECIPE, Machine, PrecisionName
from ml.training.runs import BUNDLE, TrainingRun

KINDS = {
    "paper": (PAPER, PAPER_PREPROCESSING, PAPER_RECIPE),
    "compact": (COMPACT, COMPACT_PREPROCESSING, COMPACT_RECIPE),
}
"""Network, images and recipe by the name that `--network` takes."""
COMPACT_STEPS = 6000
"""Of a compact network, whose recipe counts steps and not epochs."""

Labelled = Annotated[list[Path], typer.Option("--labelled", help="Prepared exams with pixel labels; may be repeated.")]
Corpus = Annotated[list[Path], typer.Option("--unlabelled", help="Prepared exams to learn from; may be repeated.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the run; rerun the command to go on.")]
Network = Annotated[str, typer.Option(help="paper (DRN-D-38, the paper's recipe) or compact.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's; its decay keeps its proportion.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Instead of epochs.")]
Seed = Annotated[int, typer.Option(help="Of weights, patches and augmentation.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; torchrun gives each process its own GPU.")]
Precision = Annotated[PrecisionName, typer.Option(help="Of the forward pass; float16 for GPUs before Ampere.")]
LoaderWorkers = Annotated[
    int | None, typer.Option(min=0, help="Processes that make patches; 1 on a CPU, cores less 2 on a GPU.")
]
Deterministic = Annotated[bool, typer.Option(help="The same bits every time on a GPU too; slower.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of the training process.")]
CPercent = Annotated[float, typer.Option("--c", help="C: so many percent of all slices are positive.")]
Band = Annotated[float, typer.Option("--ignore-band", help="So many percent behind them teach nothing (paper: 0).")]
KHigh = Annotated[float, typer.Option("--k-positive", help="K: pixels above are positive.")]
KLow = Annotated[float, typer.Option("--k-negative", help="Pixels below are negative; between they are ignored.")]
Ema = Annotated[float | None, typer.Option("--ema", help="Keep averaged weights with this decay (paper: none).")]


def train(
    *,
    labelled: Labelled,
    out: Out,
    model: Annotated[Model, typer.Option(help="What it learns from (paper sections 2.3, 3.4).")] = Model.BASELINE,
    unlabelled: Annotated[list[Path] | None, typer.Option(help="Prepared exams beside them; not for baseline.")] = None,
    scores: Annotated[Path | None, typer.Option(help="What `pseudo-label` wrote, for models that need it.")] = None,
    start_from: Annotated[Path | None, typer.Option(help="Bundle whose weights to start from: the teacher.")] = None,
    network: Network = "paper",
    epochs: Epochs = None,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    loader_workers: LoaderWorkers = None,
    deterministic: Deterministic = False,
    threads: Threads = None,
    c_percent: CPercent = RankerConfig.positive_percent,
    ignore_band: Band = RankerConfig.ignore_band_percent,
    k_positive: KHigh = PixelThresholds.positive,
    k_negative: KLow = PixelThresholds.negative,
    ema: Ema = None,
) -> None:
    """Train one model of the paper. Stop and rerun at any moment; under torchrun on several GPUs."""
    machine = make_machine(device, precision, loader_workers, deterministic=deterministic, threads=threads)
    config = self_training(c_percent, ignore_band, k_positive, k_negative)
    if model is not Model.BASELINE and not unlabelled:
        raise typer.BadParameter(f"--model {model} needs --unlabelled")
    if model.needs_scores and scores is None:
        raise typer.BadParameter(f"--model {model} needs --scores, which `pseudo-label` writes")
    corpus = open_corpus(unlabelled or [])
    store = ScoreStore(scores) if scores else None
    if store is not None:
        store.teacher_digest()
    pools = make_pools(model, open_labelled(labelled), corpus, store, config)
    run = make_run(out, model, network, machine, seed=seed, epochs=epochs, steps=steps, ema=ema)
    with stages() as stage:
        bundle = train_shown(
            run, pools, stage, model, start=load_bundle(start_from) if start_from is not None else None
        )
    say(f"bundle {bundle.identity.name} {bundle.identity.digest} -> {out / BUNDLE}")


def pseudo_label(
    teacher: Annotated[Path, typer.Argument(help="Bundle of the teacher.")],
    unlabelled: Corpus,
    out: Annotated[Path, typer.Option(help="Folder for the scores; rerun the command to go on.")],
    device: Device = "auto",
    engine: Engine = "auto",
) -> None:
    """Keep what a teacher says of every slice, as soft scores; under torchrun on several GPUs."""
    corpus = open_corpus(unlabelled)
    bundle = load_bundle(teacher)
    with stages() as stage, process_group(device) as own:
        tell = stage("pseudo-labels", len(share(corpus)))
        score_corpus(bundle, corpus, ScoreStore(out), device=own, engine=engine, progress=tell)
    say(f"{len(corpus)} exams -> {out}")


def rank_corpus(
    scores: Annotated[Path, typer.Argument(help="What `pseudo-label` wrote.")],
    *,
    unlabelled: Corpus,
    out: Annotated[Path, typer.Option(help="Folder for ranking.json, ranking.npz and contact sheets.")],
    inspect: Annotated[bool, typer.Option("--inspect", help="Contact sheets at C = 5, 10, 15, 20, 25, 30.")] = False,
    c_percent: CPercent = RankerConfig.positive_percent,
    ignore_band: Band = RankerConfig.ignore_band_percent,
    k_positive: KHigh = PixelThresholds.positive,
    k_negative: KLow = PixelThresholds.negative,
) -> None:
    """Put the whole corpus in order; with --inspect, show a radiologist the images just above each threshold."""
    config = self_training(c_percent, ignore_band, k_positive, k_negative)
    store, corpus = ScoreStore(scores), open_corpus(unlabelled)
    digest = store.teacher_digest()
    with stages() as stage:
        tell = stage("reading scores", len(corpus))

        def read(exam: ExamShard) -> tuple[str, F32Array]:
            tell("")
            return exam.folder.name, store.slice_logits(exam.folder.name)

        ranking = rank(read(exam) for exam in corpus)
    write_ranking(out, ranking, config.ranker, teacher_digest=digest)
    print((out / "ranking.json").read_text())
    if inspect:
        exams = {exam.folder.name: exam for exam in corpus}
        for path in write_sheets(out, ranking, store, exams, thresholds=config.thresholds):
            print(path)


def self_train_command(
    *,
    labelled: Labelled,
    unlabelled: Corpus,
    out: Out,
    teacher: Annotated[Path | None, typer.Option(help="Bundle of a teacher; without it one is trained.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Teacher-student rounds (paper: 1).")] = 1,
    network: Network = "paper",
    epochs: Epochs = None,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    loader_workers: LoaderWorkers = None,
    deterministic: Deterministic = False,
    threads: Threads = None,
    c_percent: CPercent = RankerConfig.positive_percent,
    ignore_band: Band = RankerConfig.ignore_band_percent,
    k_positive: KHigh = PixelThresholds.positive,
    k_negative: KLow = PixelThresholds.negative,
    ema: Ema = None,
) -> None:
    """Teacher, scores, ranking and student, in one go. Stop and rerun at any moment; under torchrun on several GPUs."""
    machine = make_machine(device, precision, loader_workers, deterministic=deterministic, threads=threads)
    config = replace(self_training(c_percent, ignore_band, k_positive, k_negative), rounds=rounds)
    run = make_run(out, "semi-supervised", network, machine, seed=seed, epochs=epochs, steps=steps, ema=ema)
    given = load_bundle(teacher) if teacher is not None else None
    with stages() as stage:
        student = self_train(run, open_labelled(labelled), open_corpus(unlabelled), config, stage, teacher=given)
    say(f"bundle {student.identity.name} {student.identity.digest} -> {out / f'round-{rounds}' / 'student' / BUNDLE}")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("train")(train)
    app.command("pseudo-label")(pseudo_label)
    app.command("rank")(rank_corpus)
    app.command("self-train")(self_train_command)


def open_corpus(folders: Sequence[Path]) -> list[ExamShard]:
    """The exams of some folders of `python -m ml prepare`. Raises DataError where a folder has none."""
    exams: list[ExamShard] = []
    for folder in folders:
        found = open_folder(folder)
        if not found:
            raise DataError(f"{folder.name} has no prepared exams: run `python -m ml prepare` first")
        exams += found
    return exams


def open_labelled(folders: Sequence[Path]) -> list[ExamShard]:
    """Those of them with labels of pixels: BHSD and INSTANCE have both kinds in one folder.

    Raises DataError where there is none.
    """
    exams = open_corpus(folders)
    kept = [exam for exam in exams if exam.level is LabelLevel.PIXEL]
    if not kept:
        raise DataError(f"none of the {len(exams)} exams of --labelled has labels of its pixels")
    if len(kept) < len(exams):
        say(f"{len(exams) - len(kept)} of {len(exams)} exams of --labelled have no labels of their pixels: left out")
    return kept


def self_training(c_percent: float, ignore_band: float, k_positive: float, k_negative: float) -> SelfTraining:
    """From options; raises typer.BadParameter where they make no sense."""
    if not 0 <= k_negative <= k_positive <= 1:
        raise typer.BadParameter("0 <= --k-negative <= --k-positive <= 1 is expected")
    try:
        ranker = RankerConfig(c_percent, ignore_band)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return SelfTraining(ranker, PixelThresholds(k_positive, k_negative))


def make_machine(
    device: str,
    precision: PrecisionName,
    loader_workers: int | None,
    *,
    threads: int | None,
    deterministic: bool = False,
) -> Machine:
    """From options."""
    if threads is not None:
        torch.set_num_threads(threads)
    workers = choose_loader_workers(loader_workers, choose_device(device))
    return Machine(device, precision, loader_workers=workers, deterministic=deterministic)


def make_run(
    out: Path,
    name: str,
    network: str,
    machine: Machine,
    *,
    seed: int,
    epochs: int | None,
    steps: int | None,
    ema: float | None,
) -> TrainingRun:
    """From options."""
    layers, preprocessing, recipe = KINDS[_one_of(network, tuple(KINDS))]
    if epochs is not None:
        decay = recipe.decay_every_epochs * epochs / (recipe.epochs or epochs)
        recipe = replace(recipe, epochs=epochs, decay_every_epochs=decay)
    if ema is not None:
        recipe = replace(recipe, average_decay=ema)
    if recipe.epochs is None and steps is None:
        steps = COMPACT_STEPS
    return TrainingRun(out, name, "prepared exams", recipe, layers, preprocessing, machine, seed=seed, steps=steps)


def _one_of(word: str, known: Sequence[str]) -> str:
    if word not in known:
        raise typer.BadParameter(f"one of {', '.join(known)} is expected, not {word}")
    return word
