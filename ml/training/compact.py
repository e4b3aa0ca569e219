"""The default bundle from nothing: simulate, train, calibrate, test, write. Each part resumes where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from ml.bundle import Bundle, BundleConfig, identify, load_bundle, write_bundle
from ml.config import COMPACT_PREPROCESSING, Provenance
from ml.data.shards import SIMULATED, ExamShard
from ml.errors import TrainingError
from ml.files import write_atomically
from ml.inference.predictor import Predictor
from ml.networks.patchfcn import COMPACT, PatchFcn
from ml.phantom import PEDIATRIC
from ml.progress import Stage, Tell
from ml.provenance import present_commit
from ml.training.backgrounds import BLEEDS, exams_of, make_backgrounds, name_heads
from ml.training.calibration import UNCALIBRATED, UNCALIBRATED_POINT, calibrate, evaluate_on_phantoms, with_calibration
from ml.training.exams import simulate_exams
from ml.training.journal import AFTER_FULL_DISK
from ml.training.loop import train
from ml.training.lures import Lure, find_lures, load_lures, save_lures
from ml.training.recipe import COMPACT_RECIPE, Machine, Recipe, Span
from ml.training.runs import check_same, note_facts
from ml.training.sampler import PatchBatches
from ml.training.shards import (
    CHILDREN_FROM,
    CRANIECTOMIES_FROM,
    LAYERS_FROM,
    MASSES_FROM,
    MOVING_FROM,
    make_shards,
    open_shards,
)
from ml.training.targets import LABELS, Pool

VALIDATION_SEEDS_FROM = 1_000_000
TEST_SEEDS_FROM = 19_000_000
"""Of the bundle that is shipped; those of the next begin at 20,000,000. Seeds from 2,000,000 to 4,999,999 and 8,000,000
to 18,999,999 have decided between bundles and tell nothing of the next one; 5,000,000 to
7,999,999 belong to `ml.study`. Training seeds count from 0: the ranges never meet."""
CALIBRATED_AT = ("any", "A", "B")
"""Institutions, each of which scans heads of its own, so that no head counts twice."""
TESTED_AT = (*CALIBRATED_AT, PEDIATRIC)
"""The children are other heads again: scores are not calibrated for them, as adults are what most nodes are sent."""
WITH_BACKGROUNDS = "simulated and real backgrounds"
TRAINED_ON = {
    SIMULATED: "simulated scans only",
    WITH_BACKGROUNDS: "simulated scans, and on scans of real heads without hemorrhage that blood was painted into",
}
"""What a bundle's card says, by the data of its provenance."""
LIMITS = """\
Simulated anatomy, pathology and scanners are poorer than real ones, and those of children poorer than those of adults:
expect lower figures on patients. Known to be hard: bleeds under 1 mL, thin subarachnoid blood, layers thinner than
5 mm, isodense subdural blood, solid tumours as dense as blood, tissue where a bone flap is missing, the skull base,
metal, heads that move during the scan, other post-operative changes, contrast."""
OTHER_LIMITS = """\
Simulated anatomy, pathology and scanners are poorer than real ones. What it does on patients was not measured."""
CALIBRATED_LIMIT = "Probabilities are calibrated on simulated exams with as many bleeding as bleed-free exams."
UNCALIBRATED_LIMIT = "Scores are not calibrated: they are no probabilities, and no threshold was fitted."
TRAINED = "trained.safetensors"
"""In the run's folder: the weights, and as metadata what a bundle tells of how they came about."""


@dataclass(frozen=True)
class CompactRun:
    """A run of `python -m ml train-compact`, up to the trained weights."""

    out: Path
    shards: Path
    seed: int
    exams: int
    steps: int
    batch: int
    learning_rate: float
    machine: Machine
    matrix: int
    workers: int
    command: str
    version: str
    start_from: Path | None = None
    average_with: Path | None = None
    """An earlier bundle of the same line: the mean of its weights and the new ones is what is calibrated."""
    rounds: int = 1
    stop_at: int | None = None
    """Step at which training ends although its learning rate has not fallen yet, as it does by the last of `steps`."""
    layers: int = 0
    masses: int = 0
    craniectomies: int = 0
    children: int = 0
    moving: int = 0
    first_seed: int = 0
    """Of the exams, within each kind: a later run of a line learns from other heads."""
    backgrounds: tuple[Path, ...] = ()
    """Folders of DICOM, each a real head CT without hemorrhage (`ml.training.backgrounds`)."""
    painted: int = BLEEDS
    """Exams with blood painted into each of those heads."""

    @property
    def end(self) -> int:
        """The step that training ends at."""
        return self.steps if self.stop_at is None else min(self.stop_at, self.steps)

    @property
    def seeds(self) -> list[int]:
        """Of the exams to train on."""
        kinds = (
            (0, self.exams),
            (LAYERS_FROM, self.layers),
            (MASSES_FROM, self.masses),
            (CRANIECTOMIES_FROM, self.craniectomies),
            (CHILDREN_FROM, self.children),
            (MOVING_FROM, self.moving),
        )
        return [first + self.first_seed + number for first, count in kinds for number in range(count)]


@dataclass(frozen=True)
class Finish:
    """How trained weights become a bundle: `python -m ml finish-compact`."""

    validation_exams: int
    """To calibrate on, at each of CALIBRATED_AT."""
    test_exams: int
    """At each of TESTED_AT, half of them with blood."""
    matrix: int
    workers: int
    device: str = "auto"
    command: str = ""
    """What was typed, where it is not the command that trained."""
    version: str = ""
    """Of the bundle, where it is not that of the run: its weights were finished before, otherwise."""


def train_compact(run: CompactRun, stage: Stage) -> None:
    """Simulate and train; the weights are then in `<out>/trained.safetensors`.

    Raises:
        TrainingError: see `ml.training.loop.train`; or the folder has a run that learns something else.
    """
    facts = facts_of(run)
    check_same(run.out, facts)
    config = COMPACT_PREPROCESSING
    painted: list[ExamShard] = []
    if run.backgrounds:  # first: a head that is of no use is told before hours of simulating
        tell = stage("painting into heads", exams_of(run.backgrounds, run.painted))
        painted = make_backgrounds(run.shards, run.backgrounds, config, tell, bleeds=run.painted)
    tell = stage("simulating exams", len(run.seeds))
    for seed in make_shards(run.shards, run.seeds, config, workers=run.workers, matrix=run.matrix):
        tell(f"seed {seed}")
    recipe = replace(
        COMPACT_RECIPE,
        learning_rate=run.learning_rate,
        sampling=replace(COMPACT_RECIPE.sampling, batch=run.batch),
    )
    batches = PatchBatches(
        [Pool([*open_shards(run.shards, run.seeds), *painted], LABELS)],
        config,
        sampling=recipe.sampling,
        augmentation=recipe.augmentation,
        seed=run.seed,
        steps=run.steps,
    )
    torch.manual_seed(run.seed)
    network = PatchFcn(COMPACT)
    command, data = run.command, {WITH_BACKGROUNDS if run.backgrounds else SIMULATED}
    if run.start_from is not None:
        base = load_bundle(run.start_from)
        network.load_state_dict(base.weights)
        command = f"{base.config.provenance.command} && {command}"
        data.add(base.config.provenance.data)
    note_facts(run.out, facts)
    weights = _train_in_rounds(run, recipe, network, batches, stage)
    if run.average_with is not None:
        other = load_bundle(run.average_with)
        weights = mean_weights(weights, other.weights)
        data.add(other.config.provenance.data)
    if WITH_BACKGROUNDS in data:
        data -= {SIMULATED}
    provenance = Provenance(" and ".join(sorted(data)), command, run.seed, present_commit(), run.end)
    _keep_trained(run.out, weights, {"version": run.version, "provenance": json.dumps(asdict(provenance))})


def facts_of(run: CompactRun) -> dict[str, Any]:
    """What decides what is learned, but for the learning rate, which may be lowered where the loss is not finite."""
    return {
        "seed": run.seed,
        "steps": run.steps,
        "batch": run.batch,
        "rounds": run.rounds,
        "matrix": run.matrix,
        "exams": run.seeds,
        "heads": name_heads(run.backgrounds),
        "painted": run.painted if run.backgrounds else 0,
        "start": load_bundle(run.start_from).identity.digest if run.start_from is not None else "",
    }


def mean_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of two networks of one line of training; counters are those of the first.

    Weights that lie on one path of fine-tuning average well, and hold better on data of another kind than either
    (Wortsman et al., Model soups, ICML 2022).
    """
    return {
        name: (tensor + other[name]) / 2 if tensor.is_floating_point() else tensor.clone()
        for name, tensor in one.items()
    }


def _train_in_rounds(
    run: CompactRun, recipe: Recipe, network: PatchFcn, batches: PatchBatches, stage: Stage
) -> dict[str, torch.Tensor]:
    """Rounds of training; each but a fresh network's first begins with a look for what is taken for blood."""
    starts = [run.steps * number // run.rounds for number in range(run.rounds)]
    starts = [start for start in starts if start < run.end] + [run.end]
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for first, last in pairwise(starts):
        if first or run.start_from is not None:
            batches.look_at(_lures(run, weights, batches, first, stage))
        tell = stage(f"training to {last}", last - first)
        weights = train(
            network,
            batches,
            recipe,
            Span(run.steps, until=last),
            folder=run.out,
            machine=run.machine,
            progress=partial(_tell_loss, tell, first),
        )
    return weights


def _tell_loss(tell: Tell, first: int, step: int, loss: float) -> None:
    tell(f"loss {loss:.4f}", step - first)


def _lures(
    run: CompactRun, weights: dict[str, torch.Tensor], batches: PatchBatches, step: int, stage: Stage
) -> list[Lure]:
    """Those of the weights at `step`, found once and kept in the run's folder."""
    path = run.out / f"lures-{step}.json"
    if not path.is_file():
        judge = PatchFcn(COMPACT)
        judge.load_state_dict(weights)
        judge.to(run.machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload] # as in loop.py
        tell = stage(f"lures at {step}", len(batches.bleed_free))
        run.out.mkdir(parents=True, exist_ok=True)
        lures = find_lures(judge, batches.bleed_free, batches.config, machine=run.machine, progress=partial(tell, ""))
        save_lures(path, lures)
    return load_lures(path)


def finish(folder: Path, plan: Finish, stage: Stage) -> Bundle:
    """Calibrate and test the weights in a run's folder; returns the bundle, which is in `<folder>/bundle`.

    Raises:
        TrainingError: the training has not ended.
    """
    weights, version, provenance = _load_trained(folder)
    if plan.command:
        provenance = replace(provenance, command=f"{provenance.command} && {plan.command}")
    config = BundleConfig(
        name="compact",
        version=plan.version or version,
        network=COMPACT,
        preprocessing=COMPACT_PREPROCESSING,
        operating_point=UNCALIBRATED_POINT,
        calibration=UNCALIBRATED,
        provenance=provenance,
    )
    predictor = Predictor(Bundle(config, identify(config, "not yet written"), weights), device=plan.device)
    tell = stage("calibrating", plan.validation_exams * len(CALIBRATED_AT))
    exams = chain.from_iterable(
        simulate_exams(seeds, matrix=plan.matrix, workers=plan.workers, institution=institution)
        for institution, seeds in heads_of(CALIBRATED_AT, VALIDATION_SEEDS_FROM, plan.validation_exams)
    )
    point, calibration = calibrate(predictor, exams, progress=lambda: tell(""))
    config = replace(config, operating_point=point, calibration=calibration)
    calibrated = with_calibration(predictor, point, calibration)
    metrics = held_out_metrics(calibrated, stage, exams=plan.test_exams, matrix=plan.matrix, workers=plan.workers)
    return write_bundle(folder / "bundle", config, weights=weights, metrics=metrics, card=card(config, metrics))


def _keep_trained(folder: Path, weights: dict[str, torch.Tensor], facts: dict[str, str]) -> None:
    """Whole or not at all. Raises TrainingError: the disk is full."""
    content = save({name: tensor.contiguous() for name, tensor in weights.items()}, metadata=facts)
    try:
        write_atomically(folder / TRAINED, content)
    except OSError as error:
        raise TrainingError(f"the weights cannot be written ({error.strerror}); {AFTER_FULL_DISK}") from error


def _load_trained(folder: Path) -> tuple[dict[str, torch.Tensor], str, Provenance]:
    """Weights, version and provenance."""
    path = folder / TRAINED
    if not path.is_file():
        raise TrainingError(
            f"{folder} has no {TRAINED}: its training has not ended. Run train-compact again, it goes on"
        )
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return weights, facts["version"], Provenance(**json.loads(facts["provenance"]))


def heads_of(institutions: Sequence[str], first_seed: int, count: int) -> list[tuple[str, range]]:
    """The seeds of every institution: `count` heads each, none twice."""
    return [
        (institution, range(first_seed + number * count, first_seed + (number + 1) * count))
        for number, institution in enumerate(institutions)
    ]


def held_out_metrics(predictor: Predictor, stage: Stage, *, exams: int, matrix: int, workers: int) -> dict[str, Any]:
    """metrics.json: figures on exams of each institution whose seeds were not trained on, half of them with blood."""
    metrics: dict[str, Any] = {"data": "simulated head CTs that were not trained on; no statement on clinical accuracy"}
    for institution, seeds in heads_of(TESTED_AT, TEST_SEEDS_FROM, exams):
        tell = stage(f"testing on {institution}", exams)
        stream = simulate_exams(seeds, matrix=matrix, workers=workers, alternate=True, institution=institution)
        metrics[institution] = evaluate_on_phantoms(predictor, stream, progress=lambda tell=tell: tell(""))  # type: ignore[misc]
    return metrics


def card(config: BundleConfig, metrics: dict[str, Any]) -> str:
    """CARD.md."""
    names = [institution for institution in TESTED_AT if institution in metrics]
    rows = "\n".join(
        f"| {figure} | {' | '.join(_figure(metrics[name][figure]) for name in names)} |" for figure in metrics[names[0]]
    )
    point, data = config.operating_point, config.provenance.data
    ours = data in TRAINED_ON  # of another bundle, which `measure` takes too, no more is known than it says itself
    trained_on = TRAINED_ON.get(data, data)
    simulated = " (`ml.phantom`, `ml.training.backgrounds`); no patient's hemorrhage" if ours else ""
    as_trained = ", as in training" if ours else ""
    children = f'; "{PEDIATRIC}" scans children' if PEDIATRIC in names else ""
    variant = " in a compact variant" if config.network == COMPACT else ""
    windows = {1: "one window", 2: "two windows"}.get(len(config.preprocessing.windows), "several windows")
    return f"""# {config.name} {config.version}

**Trained on {trained_on}. Research use only: not a medical device, not for diagnosis.**

PatchFCN (a dilated residual trunk with a classification and a segmentation branch){variant}: three
neighbouring slices in {windows}, {config.preprocessing.pixel_mm} mm pixels. It marks acute intracranial hemorrhage
on non-contrast axial head CT. It does not tell subtypes apart, and says nothing of other findings.

- Trained on: {trained_on}{simulated}.
- A pixel counts as hemorrhage from {point.pixel_prob:g}, an exam as positive from {point.exam_score:.3f}; lesions
  under {point.least_lesion_ml:g} mL are not reported.

## Measured on simulated exams that were not trained on

"any" draws anatomy, contrast, noise and artefacts far wider than nature{as_trained}; "A" and "B" are two
simulated institutions that differ as real ones do{children}. Each has heads of its own. A missed exam counts with a
DSC of 0.

| figure | {" | ".join(names)} |
| --- |{" --- |" * len(names)}
{rows}

## Limits

{LIMITS if ours else OTHER_LIMITS}
{UNCALIBRATED_LIMIT if config.calibration == UNCALIBRATED else CALIBRATED_LIMIT}

## Made by

{_made_by(config.provenance)}
"""


def _made_by(provenance: Provenance) -> str:
    """The commands one after the other; seed and commit are those of the last training."""
    commands = provenance.command.split(" && ")
    steps = "\n".join(f"{number}. `{command}`" for number, command in enumerate(commands, start=1))
    return f"{steps}\n\nSeed {provenance.seed}, commit {provenance.commit}."


def _figure(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
