"""The default bundle from nothing: simulate, train, calibrate, test, write. Each part resumes where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ml.bundle import Bundle, BundleConfig, identify, load_bundle, write_bundle
from ml.config import COMPACT_PREPROCESSING, Provenance
from ml.inference.predictor import Predictor
from ml.networks.patchfcn import COMPACT, PatchFcn
from ml.provenance import present_commit
from ml.training.augmentation import Augmentation
from ml.training.calibration import UNCALIBRATED, UNCALIBRATED_POINT, calibrate, evaluate_on_phantoms, with_calibration
from ml.training.exams import simulate_exams
from ml.training.loop import Schedule, train
from ml.training.sampler import PatchBatches, Sampling
from ml.training.shards import make_shards, open_shards

VALIDATION_SEEDS_FROM = 1_000_000
TEST_SEEDS_FROM = 2_000_000
INSTITUTIONS = ("any", "A", "B")
"""Training seeds count from 0; the three ranges never meet."""

Stage = Callable[[str, int], Callable[[str], None]]
"""Opens a stage (name, number of parts) and returns what is called, with a note, when a part is done."""


@dataclass(frozen=True)
class CompactRun:
    """A run of `python -m ml train-compact`."""

    out: Path
    shards: Path
    seed: int
    exams: int
    schedule: Schedule
    matrix: int
    workers: int
    validation_exams: int
    test_exams: int
    command: str
    version: str
    start_from: Path | None = None


def run_compact(run: CompactRun, stage: Stage) -> Bundle:
    """Everything; returns the bundle written to `<out>/bundle`."""
    config = COMPACT_PREPROCESSING
    tell = stage("simulating exams", run.exams)
    for seed in make_shards(run.shards, range(run.exams), config, workers=run.workers, matrix=run.matrix):
        tell(f"seed {seed}")
    batches = PatchBatches(
        open_shards(run.shards, range(run.exams)),
        config,
        sampling=Sampling(),
        augmentation=Augmentation(),
        seed=run.seed,
        steps=run.schedule.steps,
    )
    torch.manual_seed(run.seed)
    network = PatchFcn(COMPACT)
    if run.start_from is not None:
        base = load_bundle(run.start_from)
        network.load_state_dict(base.weights)
        run = replace(run, command=f"{base.config.provenance.command} && {run.command}")
    tell = stage("training", run.schedule.steps)
    weights = train(network, batches, run.schedule, folder=run.out, progress=lambda _, loss: tell(f"loss {loss:.4f}"))
    return finish(run, weights, stage)


def finish(run: CompactRun, weights: dict[str, torch.Tensor], stage: Stage) -> Bundle:
    """Calibrate, test and write the bundle of trained weights."""
    config = BundleConfig(
        name="compact",
        version=run.version,
        network=COMPACT,
        preprocessing=COMPACT_PREPROCESSING,
        operating_point=UNCALIBRATED_POINT,
        calibration=UNCALIBRATED,
        provenance=Provenance("simulated", run.command, run.seed, present_commit(), run.schedule.steps),
    )
    predictor = Predictor(Bundle(config, identify(config, "not yet written"), weights), device="cpu")
    tell = stage("calibrating", run.validation_exams * len(INSTITUTIONS))
    seeds = range(VALIDATION_SEEDS_FROM, VALIDATION_SEEDS_FROM + run.validation_exams)
    exams = chain.from_iterable(
        simulate_exams(seeds, matrix=run.matrix, workers=run.workers, institution=institution)
        for institution in INSTITUTIONS
    )
    point, calibration = calibrate(predictor, exams, progress=lambda: tell(""))
    config = replace(config, operating_point=point, calibration=calibration)
    calibrated = with_calibration(predictor, point, calibration)
    metrics = held_out_metrics(calibrated, stage, exams=run.test_exams, matrix=run.matrix, workers=run.workers)
    return write_bundle(run.out / "bundle", config, weights=weights, metrics=metrics, card=card(config, metrics))


def held_out_metrics(predictor: Predictor, stage: Stage, *, exams: int, matrix: int, workers: int) -> dict[str, Any]:
    """metrics.json: figures on exams of each institution whose seeds were not trained on, half of them with blood."""
    metrics: dict[str, Any] = {"data": "simulated head CTs that were not trained on; no statement on clinical accuracy"}
    seeds = range(TEST_SEEDS_FROM, TEST_SEEDS_FROM + exams)
    for institution in INSTITUTIONS:
        tell = stage(f"testing on {institution}", exams)
        stream = simulate_exams(seeds, matrix=matrix, workers=workers, alternate=True, institution=institution)
        metrics[institution] = evaluate_on_phantoms(predictor, stream, progress=lambda tell=tell: tell(""))  # type: ignore[misc]
    return metrics


def card(config: BundleConfig, metrics: dict[str, Any]) -> str:
    """CARD.md."""
    names = [institution for institution in INSTITUTIONS if institution in metrics]
    rows = "\n".join(
        f"| {figure} | {' | '.join(_figure(metrics[name][figure]) for name in names)} |" for figure in metrics[names[0]]
    )
    point = config.operating_point
    return f"""# {config.name} {config.version}

**Trained on simulated scans only. Research use only: not a medical device, not for diagnosis.**

PatchFCN (a dilated residual trunk with a classification and a segmentation branch) in a compact variant: three
neighbouring slices in two windows, {config.preprocessing.pixel_mm} mm pixels. It marks acute intracranial hemorrhage
on non-contrast axial head CT. It does not tell subtypes apart, and says nothing of other findings.

- Trained on: head CTs simulated by `ml.phantom`; no patient's data.
- Made by: `{config.provenance.command}` (seed {config.provenance.seed}, commit {config.provenance.commit})
- A pixel counts as hemorrhage from {point.pixel_prob:g}, an exam as positive from {point.exam_score:.3f}; lesions
  under {point.least_lesion_ml:g} mL are not reported.

## Measured on simulated exams that were not trained on

"any" draws anatomy, contrast, noise and artefacts far wider than nature, as in training; "A" and "B" are two
simulated institutions that differ as real ones do. A missed exam counts with a DSC of 0.

| figure | {" | ".join(names)} |
| --- |{" --- |" * len(names)}
{rows}

## Limits

Simulated anatomy, pathology and scanners are poorer than real ones: expect lower figures on patients. Known to be
hard: thin subarachnoid blood, isodense subdural blood, the skull base, metal, post-operative changes, contrast.
Probabilities are calibrated on simulated exams with as many bleeding as bleed-free exams.
"""


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
