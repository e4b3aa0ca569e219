"""`python -m ml`: predict exams, prepare data sets, train and evaluate, without the node."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ml.bundle import Bundle, load_bundle, write_bundle
from ml.config import PREPROCESSINGS
from ml.data.dicom_folder import find_series
from ml.data.manifest import LEFT_OUT
from ml.data.parts import make_parts, write_parts
from ml.data.preparation import UNREADABLE, Preparation, prepare_exams
from ml.data.readers import READERS
from ml.data.series import read_volume
from ml.device import choose_device
from ml.errors import EvaluationError, MlError, UnreadableStudy
from ml.evaluation.judging import evaluate, make_origin
from ml.evaluation.metrics import auc
from ml.evaluation.prepared import PUBLISHED, PreparedSource
from ml.evaluation.records import SAFE_NAME, Origin, write_published
from ml.evaluation.sources import ExamSource, PhantomSource
from ml.inference.answer_files import remove_answer, write_answer
from ml.inference.predictor import Predictor, Progress
from ml.options import Device, Engine, Matrix, Simulators, Threads
from ml.phantom import INSTITUTIONS
from ml.progress import errors, stages, warn
from ml.provenance import present_command, present_commit
from ml.self_training.cli import COMPACT_STEPS, LoaderWorkers, Seed, make_machine
from ml.self_training.cli import register as register_self_training
from ml.study.cli import make_study
from ml.study.cli import register as register_study
from ml.training.backgrounds import BLEEDS
from ml.training.compact import (
    TEST_SEEDS_FROM,
    CompactRun,
    Finish,
    card,
    finish,
    held_out_metrics,
    train_compact,
)
from ml.training.recipe import COMPACT_RECIPE, PrecisionName

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_show_locals=False)

ValidationExams = Annotated[int, typer.Option(min=4, help="Exams of each institution to calibrate on.")]
TestExams = Annotated[int, typer.Option(min=4, help="Of each institution, half of them with blood.")]
REFUSED = 3
"""Exit code for images that cannot be read, as in `make demo`; other errors of the command exit with 1."""


@app.command()
def predict(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder of DICOM: a CT series, a study.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for prediction.json and prob.npz.")],
    bundle: Annotated[str, typer.Option(help="Bundle folder, or `default`.")] = "default",
    device: Device = "auto",
    engine: Engine = "auto",
    threads: Threads = None,
) -> None:
    """Find intracranial hemorrhage in a head CT; exit 3 with a code and a reason if it cannot be analysed.

    Of a study with several series one is read, and prediction.json says which and why.
    """
    remove_answer(out)
    with stages() as stage:
        stage("reading", 1)
        found = find_series(folder)
        volume = read_volume(found.paths)
        predictor = Predictor(load_bundle(bundle), device=device, engine=engine, threads=threads)
        slices = len(volume.hu)
        prediction = predictor.predict(volume, progress=_in_parts(slices, stage("analysing", slices)))
    answer = write_answer(out, prediction, volume, found)
    if found.left_out:
        print(f"read series {found.series_instance_uid}: {found.reason}")
    print(f"exam_score {answer['exam_score']:.3f}  hemorrhage_ml {answer['hemorrhage_ml']:.2f}  -> {out}")


def _in_parts(parts: int, tell: Callable[[str], None]) -> Progress:
    """Batches of images, which may be fewer than the slices, as parts of a stage."""
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        for _ in range(told, parts * done // total):
            tell("")
        told = parts * done // total

    return progress


@app.command("train-compact")
def train_compact_bundle(  # noqa: PLR0917 (Typer: an option is a parameter)
    out: Annotated[Path, typer.Option(help="Run folder: checkpoint, log, weights, and in the end bundle/.")],
    shards: Annotated[Path | None, typer.Option(help="Simulated exams, shared between runs; <out>/shards.")] = None,
    seed: Seed = 0,
    exams: Annotated[int, typer.Option(min=2, help="Simulated exams to train on, as nature has them.")] = 600,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = COMPACT_STEPS,
    stop_at: Annotated[int | None, typer.Option(min=1, help="Step to end at, before the learning rate fell.")] = None,
    batch: Annotated[int, typer.Option(min=2, help="Patches of a step.")] = COMPACT_RECIPE.sampling.batch,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = COMPACT_RECIPE.learning_rate,
    start_from: Annotated[Path | None, typer.Option(help="Bundle whose weights to start from.")] = None,
    average_with: Annotated[Path | None, typer.Option(help="Earlier bundle; the mean of both is what counts.")] = None,
    layers: Annotated[int, typer.Option(min=0, help="Further exams with a layer of blood under the skull.")] = 0,
    masses: Annotated[int, typer.Option(min=0, help="Further exams with solid tumours.")] = 0,
    craniectomies: Annotated[int, typer.Option(min=0, help="Further exams in which a bone flap is missing.")] = 0,
    children: Annotated[int, typer.Option(min=0, help="Further exams of children.")] = 0,
    moving: Annotated[int, typer.Option(min=0, help="Further exams of patients who move.")] = 0,
    first_seed: Annotated[int, typer.Option(min=0, max=90_000, help="Other exams than an earlier run's.")] = 0,
    background: Annotated[
        list[Path] | None, typer.Option(exists=True, file_okay=False, help="DICOM of a real head without hemorrhage.")
    ] = None,
    painted: Annotated[int, typer.Option(min=2, help="Exams with blood painted into every background.")] = BLEEDS,
    rounds: Annotated[int, typer.Option(min=1, help="Each begins with a look for what is taken for blood.")] = 3,
    matrix: Matrix = 512,
    workers: Simulators = 1,
    loader_workers: LoaderWorkers = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the training process.")] = 1,
    device: Device = "auto",
    precision: Annotated[PrecisionName, typer.Option(help="bfloat16 needs AVX-512 BF16 or a GPU.")] = "float32",
    validation_exams: ValidationExams = 80,
    test_exams: TestExams = 80,
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1",
    *,
    finished: Annotated[bool, typer.Option("--finish/--no-finish", help="Calibrate, test, write the bundle.")] = True,
) -> None:
    """Make the default bundle: simulate exams, train, calibrate, test, write. Stop and rerun at any moment."""
    device = choose_device(device)
    run = CompactRun(
        out=out,
        shards=shards or out / "shards",
        seed=seed,
        exams=exams,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        machine=make_machine(device, precision, loader_workers, threads=threads),
        matrix=matrix,
        workers=workers,
        command=present_command(hidden="--background"),
        version=version,
        start_from=start_from,
        average_with=average_with,
        rounds=rounds,
        stop_at=stop_at,
        layers=layers,
        masses=masses,
        craniectomies=craniectomies,
        children=children,
        moving=moving,
        first_seed=first_seed,
        backgrounds=tuple(background or ()),
        painted=painted,
    )
    with stages() as stage:
        train_compact(run, stage)
        if not finished:
            return
        bundle = finish(out, Finish(validation_exams, test_exams, matrix, workers, device), stage)
    _show_bundle(bundle, out / "bundle")


@app.command("finish-compact")
def finish_compact_bundle(
    run: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of train-compact --no-finish.")],
    validation_exams: ValidationExams = 80,
    test_exams: TestExams = 80,
    matrix: Matrix = 512,
    workers: Simulators = 1,
    device: Device = "auto",
    version: Annotated[str, typer.Option(help="Of the bundle; for weights that are calibrated anew.")] = "",
) -> None:
    """Calibrate and test trained weights and write the bundle: the second half of train-compact, on any machine."""
    with stages() as stage:
        plan = Finish(validation_exams, test_exams, matrix, workers, device, present_command(), version)
        bundle = finish(run, plan, stage)
    _show_bundle(bundle, run / "bundle")


def _show_bundle(bundle: Bundle, folder: Path) -> None:
    print((folder / "metrics.json").read_text())
    print(f"bundle {bundle.identity.name} {bundle.identity.version} {bundle.identity.digest} -> {folder}")


@app.command()
def prepare(  # noqa: PLR0917 (Typer: an option is a parameter)
    kind: Annotated[str, typer.Argument(help=f"What the folder holds: {', '.join(READERS)}.")],
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The data set as it was published.")],
    out: Annotated[Path, typer.Option(help="Folder for the prepared exams; one for each data set.")],
    boxes: Annotated[Path | None, typer.Option(exists=True, help="BHX: the folder with its three tables.")] = None,
    network: Annotated[str, typer.Option(help=f"Whose images: {', '.join(PREPROCESSINGS)}.")] = "compact",
    brain: Annotated[bool, typer.Option(help="Remove scalp, skull and face.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode; 0 for this one.")] = os.cpu_count() or 1,
    rescan: Annotated[bool, typer.Option(help="Look through the folder anew, not only for what is missing.")] = False,
) -> None:
    """Decode a data set once, for training. Stop and rerun at any moment; exit 3 if files are damaged."""
    if kind not in READERS or network not in PREPROCESSINGS:
        wanted = READERS if kind not in READERS else PREPROCESSINGS
        raise typer.BadParameter(f"one of {', '.join(wanted)} is expected")
    preprocessing = replace(PREPROCESSINGS[network], brain_only=brain)
    preparation = Preparation(kind, folder, out, preprocessing, workers=workers, boxes=boxes, rescan=rescan)
    with stages() as stage:
        outcome = prepare_exams(preparation, stage)
    print(f"{outcome.written} exams prepared, {outcome.kept} were there -> {out}; what was not taken: {out / LEFT_OUT}")
    if outcome.left_over:
        warn(
            f"{outcome.left_over} exams of {out} are not in {folder}: they are trained on, and not evaluated; remove "
            "their folders where that is not meant"
        )
    if outcome.unreadable:
        warn(f"{len(outcome.unreadable)} files or exams are damaged: {out / UNREADABLE}")
        sys.exit(REFUSED)


@app.command("split")
def split_exams(
    folders: Annotated[list[Path], typer.Argument(exists=True, file_okay=False, help="Prepared exams to be split.")],
    out: Annotated[Path, typer.Option(help="Folder for the parts: one folder of links for each.")],
    part: Annotated[list[str], typer.Option(help="NAME=SHARE; may be repeated.")] = ["train=80", "test=20"],  # noqa: B006 (Typer reads it)
    hold_out: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER: a part as it is; may be repeated.")] = None,
    drop_overlaps: Annotated[bool, typer.Option(help="Leave out of held-out folders what is elsewhere.")] = False,
    key: Annotated[str, typer.Option(help="Another key gives another split; the same key always the same.")] = "1",
) -> None:
    """Split prepared exams by patient, by equal images and by collection; overlaps are refused by name."""
    shares = {name: _share(share) for name, share in _pairs(part).items()}
    held = {name: Path(folder) for name, folder in _pairs(hold_out or []).items()}
    parts = make_parts(folders, shares, key=key, hold_out=held, drop_overlaps=drop_overlaps)
    write_parts(out, parts, key=key, shares=shares)
    for name, exams in parts.items():
        print(f"{name}: {len(exams)} exams -> {out / name}")


def _pairs(options: list[str]) -> dict[str, str]:
    """NAME=VALUE, each; names are those of folders."""
    pairs = [option.partition("=") for option in options]
    names = [name for name, _, _ in pairs]
    if not all(value and SAFE_NAME.fullmatch(name) for name, _, value in pairs):
        raise typer.BadParameter("NAME=VALUE is expected, with a name that a folder can have")
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"each name once, not {', '.join(names)}")
    return {name: value for name, _, value in pairs}


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise typer.BadParameter(f"a share is a number above 0, as in train=80; not {text}")
    return share


@app.command("measure")
def measure(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle; its metrics.json and CARD.md are written anew.")],
    exams: Annotated[int, typer.Option(min=4, help="Exams of each institution, half of them with blood.")] = 80,
    matrix: Matrix = 512,
    workers: Simulators = 1,
) -> None:
    """Measure a bundle on simulated exams that it was not trained on, and write what came out beside it."""
    loaded = load_bundle(bundle)
    with stages() as stage:
        metrics = held_out_metrics(Predictor(loaded), stage, exams=exams, matrix=matrix, workers=workers)
    write_bundle(bundle, loaded.config, weights=loaded.weights, metrics=metrics, card=card(loaded.config, metrics))
    print((bundle / "metrics.json").read_text())


@app.command("evaluate")
def evaluate_bundle(  # noqa: PLR0917 (Typer: an option is a parameter)
    bundle: Annotated[str, typer.Argument(help="Bundle folder, `default`, or `published` for the set's own scores.")],
    data: Annotated[str, typer.Argument(help="A folder made by `prepare`, or `phantom` for simulated exams.")],
    out: Annotated[Path, typer.Option(help="Folder of the records: <study>/<model>/<set> for `tables`.")],
    images: Annotated[Path | None, typer.Option(exists=True, help="The prepared data set as it was published.")] = None,
    institution: Annotated[str, typer.Option(help="Simulated institution: any, A, B or pediatric.")] = "B",
    exams: Annotated[int, typer.Option(min=2, help="Simulated exams, half of them with blood.")] = 80,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first one.")] = TEST_SEEDS_FROM,
    matrix: Matrix = 512,
    readings: Annotated[int, typer.Option(min=1, max=3, help="Simulated readings of the labels, for Table 4.")] = 1,
    workers: Simulators = 1,
    device: Device = "auto",
    engine: Engine = "auto",
    threads: Threads = None,
) -> None:
    """Record a bundle's answers on labelled exams, for `tables`. Stop and rerun at any moment: finished exams stay."""
    if institution not in INSTITUTIONS:
        raise typer.BadParameter(f"--institution is one of {', '.join(INSTITUTIONS)}, not {institution}")
    source: ExamSource = PhantomSource(institution, first_seed, exams, matrix=matrix, workers=workers)
    if data != "phantom":
        if images is None:
            raise EvaluationError("--images is needed: the folder that `prepare` was given")
        if readings > 1:
            raise EvaluationError(
                "--readings draws further readings of simulated exams; prepare a real set once for each reading "
                f"and evaluate it as {out.name}-reading-2 and so on"
            )
        source = PreparedSource(Path(data), images)
    if bundle == PUBLISHED:
        record_published(source, out)
        return
    predictor = Predictor(load_bundle(bundle), device=device, engine=engine, threads=threads)
    config, identity = predictor.bundle.config, predictor.bundle.identity
    origin = make_origin(out.parent.name, source, identity, config.operating_point)
    with stages() as stage:
        tell = stage("evaluating", len(source.exams))
        records = evaluate(predictor.predict, source, out, origin=origin, readings=readings, progress=tell)
    scores, bleeding = [one.exam_score for one in records.records], [one.bleeding for one in records.records]
    print(f"exam_auc {auc(scores, bleeding):.3f}  ({len(scores)} exams, {sum(bleeding)} with blood) -> {out}")


def record_published(source: ExamSource, out: Path) -> None:
    """The scores that a data set came with, as records: Qure.ai's row of Table 1."""
    if not isinstance(source, PreparedSource):
        raise EvaluationError("simulated exams come without published scores")
    records = source.published()
    exams = tuple(one.exam for one in records)
    write_published(out, Origin(out.parent.name, source.name, exams, present_commit(), present_command()), records)
    print(f"{len(records)} published scores -> {out}")


@app.command("tables")
def write_tables(
    study: Annotated[Path, typer.Argument(file_okay=False, help="Folder with study.json and records.")] = Path("study"),
    out: Annotated[Path | None, typer.Option(help="Folder of the report; <study>/report.")] = None,
    prepared: Annotated[Path | None, typer.Option(exists=True, help="Validation set, for figures 2 and 3.")] = None,
    images: Annotated[Path | None, typer.Option(exists=True, help="That set as it was published.")] = None,
    *,
    data: Annotated[str | None, typer.Option(help="`phantom`: make the study first, or go on with it.")] = None,
    scale: Annotated[str, typer.Option(help="Of that study: small (CPU), medium or paper (GPU).")] = "small",
    device: Annotated[str, typer.Option(help="Of that study: auto, cpu or cuda.")] = "auto",
    precision: Annotated[PrecisionName, typer.Option(help="Of that study's trainings.")] = "float32",
    workers: Annotated[int, typer.Option(min=0, help="Processes that simulate its exams; 0 for this one.")] = 2,
    loader_workers: LoaderWorkers = None,
) -> None:
    """Every table and figure of the paper from a study's records, as Markdown, CSV and PNG."""
    from ml.evaluation.writing import FIGURES, TABLES, write_report  # noqa: PLC0415 (matplotlib loads for a second)

    if data is not None:
        make_study(
            study,
            data=data,
            scale=scale,
            device=device,
            precision=precision,
            workers=workers,
            loader_workers=loader_workers,
        )
    with stages() as stage:
        tell = stage("tables", len(TABLES) + len(FIGURES))
        known = [PreparedSource(prepared, images)] if prepared and images else []
        page = write_report(study, out or study / "report", tell, known=known)
    print(f"-> {page}")


register_self_training(app)
register_study(app)


def _complain(text: str) -> None:
    """One line on standard error; what stands in brackets in a path is no markup."""
    errors.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; errors of `ml` and of files become one line and an exit code."""
    present_commit()
    try:
        app()
    except UnreadableStudy as error:
        _complain(f"{error.code}: {error}")
        sys.exit(REFUSED)
    except MlError as error:
        _complain(f"{error.code}: {error}")
        sys.exit(1)
    except OSError as error:
        if not error.filename:
            raise
        _complain(f"{error.strerror}: {error.filename}")
        sys.exit(1)
