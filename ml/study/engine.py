"""A study from nothing to the records that the tables are made of. Every step is found on disk when it is done.

study.json, <model>/<set>/     what `python -m ml tables` reads (`ml.evaluation.study`)
work/run.json                  scale, seed, C and K: a run with others is refused here
work/exams/<part>/             exams on the network's grid, and whole exams of the sets
work/models/<model>/           runs; `trained/` and, with its operating points fitted, `bundle/`
work/teacher/                  what the baseline says of the corpus, and the ranking
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ml.bundle import Bundle, load_bundle, write_bundle
from ml.data.exams import LabelledExam
from ml.data.shards import ExamShard
from ml.errors import DataError
from ml.evaluation.judging import evaluate, make_origin
from ml.evaluation.study import SetRole, Study, StudyModel, StudySet, read_study, record_folder, write_study
from ml.inference.engines import EngineName
from ml.inference.predictor import Predictor
from ml.labels import is_blood
from ml.progress import Stage
from ml.provenance import present_command, present_commit
from ml.self_training.models import Model, SelfTraining, make_pools
from ml.self_training.rounds import label, train_shown
from ml.self_training.scores import ScoreStore
from ml.study.exams import KeptSource, Part, Parts, prepare_part
from ml.study.models import ENTRIES, TEACHER, Entry
from ml.study.scales import Scale
from ml.training.calibration import calibrate, with_calibration
from ml.training.recipe import Machine
from ml.training.runs import BUNDLE, TrainingRun, note_facts, refuse_other
from ml.volume import MaskArray, Volume

READINGS = 3
"""Of the test set's pixel labels, for Table 4."""
SETS = {SetRole.TEST: Part.TEST, SetRole.VALIDATION: Part.VALIDATION, SetRole.IN_DISTRIBUTION: Part.IN_DISTRIBUTION}
NOT_YET = "the study was not finished: run the same command again"


@dataclass(frozen=True)
class StudyRun:
    """What is asked for."""

    out: Path
    scale: Scale
    machine: Machine
    config: SelfTraining
    seed: int = 0
    engine: EngineName = "auto"
    threads: int | None = None
    """Of the CPU, for predictions; None for all."""
    entries: tuple[Entry, ...] = ENTRIES


@dataclass(frozen=True, eq=False)
class _Teaching:
    """What all trainings of a study share."""

    labelled: list[ExamShard]
    corpus: list[ExamShard]
    teacher: Bundle
    store: ScoreStore


def train_models(run: StudyRun, names: Sequence[str], parts: Parts, stage: Stage) -> None:
    """Train some models and judge none: `run_study` does, on this machine or another.

    Once the baseline is trained and has labelled the corpus, several processes may do this in the same folder.
    """
    _open(run, parts, shared=True)
    teaching = _teach(run, parts, stage)
    for entry in run.entries:
        if entry.row.name in names:
            _trained(run, entry, lambda: teaching, stage)


def run_study(run: StudyRun, parts: Parts, stage: Stage) -> Study:
    """Train what is not trained yet, rank, judge; returns the finished study, whose records lie in `run.out`."""
    began = time.monotonic()
    study = _open(run, parts)
    before_s = study.seconds
    sources = {one: KeptSource(parts[part], run.out / "work" / "exams" / part) for one, part in SETS.items()}
    teach = cache(lambda: _teach(run, parts, stage))
    try:
        for role, source in sources.items():
            source.keep(stage(f"exams: {role}", len(source.exams)))
        for entry in run.entries:
            bundle = _calibrated(run, entry, teach, sources[SetRole.VALIDATION], stage)
            for role in entry.sets:
                _judge(run, entry, bundle, role, sources[role], stage)
            models = tuple(entry.row if one.name == entry.row.name else one for one in study.models)
            study = replace(study, models=models)
            write_study(run.out, replace(study, seconds=None))
    finally:  # a run that is killed leaves None: nobody knows then how long it was at it
        seconds = None if before_s is None or study.shared else round(before_s + time.monotonic() - began, 1)
        study = replace(study, seconds=seconds)
        write_study(run.out, study)
    return study


def _open(run: StudyRun, parts: Parts, *, shared: bool = False) -> Study:
    """The study as it stands: one that was stopped keeps what it has, the time that it took, and where it ran.

    Raises TrainingError where the folder has a study that learns something else.
    """
    facts = _facts(run, parts)
    refuse_other(run.out / "work", facts)
    note_facts(run.out / "work", facts)
    models = tuple(replace(entry.row, not_run=NOT_YET) for entry in run.entries)
    before = read_study(run.out) if (run.out / "study.json").is_file() else None
    study = Study(
        title=f"Simulated institutions, {run.scale.name} scale",
        data=run.scale.sentence,
        command=present_command(),
        commit=present_commit(),
        machine=_joined(before.machine if before else "", _machine(run.machine)),
        models=tuple(_known(model, before) for model in models),
        sets=_sets(),
        seconds=before.seconds if before else 0.0,
        shared=shared or (before is not None and before.shared),
    )
    write_study(run.out, replace(study, seconds=None))
    return study


def _facts(run: StudyRun, parts: Parts) -> dict[str, Any]:
    """What decides every figure, but for the program and its machine."""
    return {
        "scale": asdict(replace(run.scale, sentence="")),
        "seed": run.seed,
        "pseudo-labels": asdict(run.config),
        "exams": {part: source.name for part, source in parts.items()},
    }


def _known(model: StudyModel, before: Study | None) -> StudyModel:
    return next((one for one in before.models if one.name == model.name), model) if before else model


def _sets() -> tuple[StudySet, ...]:
    return (
        StudySet(SetRole.TEST, SetRole.TEST, "Held-out exams of institution B"),
        *(
            StudySet(f"{SetRole.TEST}-reading-{number}", SetRole.READING, f"Reading {number} of them", reading=number)
            for number in range(2, READINGS + 1)
        ),
        StudySet(SetRole.VALIDATION, SetRole.VALIDATION, "Exams of neither institution"),
        StudySet(SetRole.IN_DISTRIBUTION, SetRole.IN_DISTRIBUTION, "Held-out exams of institution A"),
    )


def _machine(machine: Machine) -> str:
    if machine.device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"


def _joined(before: str, machine: str) -> str:
    """All machines of a study, in the order in which they took part."""
    return machine if not before else before if machine in before.split("; ") else f"{before}; {machine}"


def _teach(run: StudyRun, parts: Parts, stage: Stage) -> _Teaching:
    """Train the baseline, which is the teacher, and have it label the corpus."""
    work, config = run.out / "work", run.scale.preprocessing
    labelled, corpus = (
        prepare_part(parts[part], work / "exams" / part, config, stage(f"exams: {part}", len(parts[part].exams)))
        for part in (Part.LABELLED, Part.CORPUS)
    )
    pools = make_pools(Model.BASELINE, labelled, corpus, None, run.config)
    teacher = train_shown(_training(run, TEACHER), pools, stage, TEACHER.row.name)
    device = run.machine.device
    store = label(teacher, corpus, work / "teacher", run.config, stage, device=device, engine=run.engine)
    return _Teaching(labelled, corpus, teacher, store)


def _training(run: StudyRun, entry: Entry) -> TrainingRun:
    recipe = run.scale.recipe
    augmentation = replace(recipe.augmentation, contrasts=entry.contrasts)
    return TrainingRun(
        out=run.out / "work" / "models" / entry.row.name,
        name=entry.row.name,
        data=run.scale.sentence,
        recipe=replace(recipe, augmentation=augmentation),
        network=run.scale.network,
        preprocessing=run.scale.preprocessing,
        machine=run.machine,
        seed=run.seed,
        steps=run.scale.steps,
    )


def _trained(run: StudyRun, entry: Entry, teach: Callable[[], _Teaching], stage: Stage) -> Bundle:
    """A model without operating points: loaded, or trained now; only then `teach` is called."""
    training = _training(run, entry)
    if (training.out / BUNDLE / "bundle.json").is_file():
        return load_bundle(training.out / BUNDLE)
    teaching = teach()
    if entry.row.name == TEACHER.row.name:
        return teaching.teacher
    pools = make_pools(entry.model, teaching.labelled, teaching.corpus, teaching.store, run.config)
    start = teaching.teacher if entry.from_teacher else None
    return train_shown(training, pools, stage, entry.row.name, start=start)


def _calibrated(
    run: StudyRun, entry: Entry, teach: Callable[[], _Teaching], validation: KeptSource, stage: Stage
) -> Bundle:
    """The bundle of a model with operating points fitted on the validation exams: made now, loaded or another's."""
    folder = run.out / "work" / "models" / (entry.same_as or entry.row.name) / "bundle"
    if (folder / "bundle.json").is_file():
        return load_bundle(folder)
    bundle = _trained(run, entry, teach, stage)
    tell = stage(f"calibrating {entry.row.name}", len(validation.exams))
    predictor = _predictor(run, bundle)
    exams = (_with_truth(exam) for exam in validation.read(validation.exams))
    point, calibration = calibrate(predictor, exams, progress=lambda: tell(""))
    config = with_calibration(predictor, point, calibration).bundle.config
    card = (
        (_training(run, entry).out / BUNDLE / "CARD.md")
        .read_text()
        .replace("Not calibrated", "Calibrated on simulated exams")
    )
    return write_bundle(folder, config, weights=bundle.weights, metrics={}, card=card)


def _judge(run: StudyRun, entry: Entry, bundle: Bundle, role: SetRole, source: KeptSource, stage: Stage) -> None:
    tell = stage(f"{entry.row.name} on {role}", len(source.exams))
    predictor = _predictor(run, bundle)
    origin = make_origin(entry.row.name, source, bundle.identity, bundle.config.operating_point)
    readings = READINGS if role is SetRole.TEST else 1
    folder = record_folder(run.out, entry.row.name, role)
    evaluate(predictor.predict, source, folder, origin=origin, readings=readings, progress=tell)


def _predictor(run: StudyRun, bundle: Bundle) -> Predictor:
    return Predictor(bundle, device=run.machine.device, engine=run.engine, threads=run.threads)


@dataclass(frozen=True, eq=False)
class _WithTruth:
    """An exam as `calibrate` wants it."""

    volume: Volume
    truth: MaskArray
    hemorrhage_ml: float


def _with_truth(exam: LabelledExam) -> _WithTruth:
    if exam.pixels is None or exam.hemorrhage_ml is None:
        raise DataError(f"exam {exam.exam} has no pixel labels, which calibration needs")
    return _WithTruth(exam.volume, is_blood(exam.pixels), exam.hemorrhage_ml)
