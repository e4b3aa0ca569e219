"""A training from pools of slices to a bundle, for every model alike: teacher, student, oracles, baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from ml.bundle import Bundle, BundleConfig, load_bundle, write_bundle
from ml.config import Preprocessing, Provenance
from ml.data.shards import Grid
from ml.errors import TrainingError
from ml.files import write_atomically
from ml.networks.patchfcn import PatchFcn, PatchFcnConfig
from ml.provenance import present_command, present_commit
from ml.training.calibration import UNCALIBRATED, UNCALIBRATED_POINT
from ml.training.checkpoints import kept_checkpoints
from ml.training.distribution import process_group, rank, wait_for_all, world_size
from ml.training.loop import CHECKPOINT, Progress, train
from ml.training.recipe import Machine, Recipe, Span
from ml.training.sampler import PatchBatches
from ml.training.targets import Pool

BUNDLE = "trained"
"""Folder of the bundle within a run's folder. It is not calibrated."""
RUN = "run.json"
"""In a run's folder: everything that decides what is learned there."""


@dataclass(frozen=True)
class TrainingRun:
    """One model."""

    out: Path
    """Checkpoints, log, events, and in the end the bundle."""
    name: str
    """Of the bundle."""
    data: str
    """What it is trained on, in a sentence, for the card."""
    recipe: Recipe
    network: PatchFcnConfig
    preprocessing: Preprocessing
    machine: Machine
    seed: int = 0
    steps: int | None = None
    """None: the recipe's epochs of the first pool. Else those epochs are shortened to so many steps."""

    def span(self, pools: Sequence[Pool]) -> Span:
        """How long it takes."""
        if self.steps is not None:
            return Span(self.steps)
        return self.recipe.length(len(pools[0].slices()[0]), alone=len(pools) == 1)


def train_bundle(
    run: TrainingRun, pools: Sequence[Pool], *, start: Bundle | None = None, progress: Progress | None = None
) -> Bundle:
    """Train a model, or go on with it, or load it where it is finished; `start`: whose weights it starts from.

    Under torchrun every process calls this; the first one writes.

    Raises:
        TrainingError: see `ml.training.loop.train`; or the data are on another grid than the network's, or the folder
            has a run that learns something else.
    """
    facts = _facts(run, pools, start)
    check_same(run.out, facts)
    if (run.out / BUNDLE / "bundle.json").is_file():
        return load_bundle(run.out / BUNDLE)
    _check(run, pools)
    torch.manual_seed(run.seed)
    network = PatchFcn(run.network)
    if start is not None:
        network.load_state_dict(start.weights)
    with process_group(run.machine.device) as device:
        if rank() == 0:
            note_facts(run.out, facts)
        machine = replace(run.machine, device=device)
        span = run.span(pools)
        batches = PatchBatches(
            pools,
            run.preprocessing,
            sampling=run.recipe.sampling,
            augmentation=run.recipe.augmentation,
            seed=run.seed,
            steps=span.steps,
            part=(rank(), world_size()),
        )
        weights = train(network, batches, run.recipe, span, folder=run.out, machine=machine, progress=progress)
        if rank() == 0:
            _write(run, weights, span.steps)
        wait_for_all()
    return load_bundle(run.out / BUNDLE)


def _facts(run: TrainingRun, pools: Sequence[Pool], start: Bundle | None) -> dict[str, Any]:
    """What RUN holds. A machine changes nothing that is learned."""
    return {
        "recipe": asdict(run.recipe),
        "network": asdict(run.network),
        "preprocessing": asdict(run.preprocessing),
        "seed": run.seed,
        "steps": run.span(pools).steps,
        "start": start.identity.digest if start is not None else "",
        "pools": [pool.name for pool in pools],
        "labels": _labels_of(pools[0]),
    }


def _labels_of(pool: Pool) -> str:
    """Another one where exams were prepared anew with other blood in them."""
    told = repr([(exam.hemorrhage_ml, exam.bleeding) for exam in pool.exams])
    return blake2b(told.encode(), digest_size=8).hexdigest()


def note_facts(out: Path, facts: dict[str, Any]) -> None:
    """Write RUN."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / RUN, json.dumps(facts, indent=1).encode())


def check_same(out: Path, facts: dict[str, Any]) -> None:
    """Raise TrainingError where something was learned in the folder by another run; see `refuse_other`."""
    if kept_checkpoints(out / CHECKPOINT) or (out / BUNDLE).exists():
        refuse_other(out, facts)


def refuse_other(out: Path, facts: dict[str, Any]) -> None:
    """Raise TrainingError where RUN tells of another run; one that was begun before there was a RUN is taken on."""
    path = out / RUN
    if not path.is_file():
        return
    before, now = json.loads(path.read_text()), json.loads(json.dumps(facts))
    other = [name for name in now if name in before and not _agree(before[name], now[name])]
    if other:
        raise TrainingError(
            f"{out} has a training with other {', '.join(other)} ({RUN}): give this one a folder of its own, or remove "
            "that one"
        )


def _agree(before: Any, now: Any) -> bool:
    """Settings that only one of two versions of this program has do not count."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_agree(before[name], now[name]) for name in before.keys() & now.keys())
    return bool(before == now)


def _check(run: TrainingRun, pools: Sequence[Pool]) -> None:
    grid = Grid.of(run.preprocessing)
    other = [exam.exam for pool in pools for exam in pool.exams if exam.grid not in (None, grid)]
    if other:
        raise TrainingError(
            f"{len(other)} exams were prepared for another network (exam {other[0]} is the first): prepare them for "
            "this one, in another folder"
        )
    if run.network.trunk.in_channels != run.preprocessing.channels:
        raise TrainingError("the network takes another number of channels than its images have")


def _config(run: TrainingRun, steps: int) -> BundleConfig:
    return BundleConfig(
        name=run.name,
        version="1",
        network=run.network,
        preprocessing=run.preprocessing,
        operating_point=UNCALIBRATED_POINT,
        calibration=UNCALIBRATED,
        provenance=Provenance(run.data, present_command(), run.seed, present_commit(), steps),
    )


def _write(run: TrainingRun, weights: dict[str, torch.Tensor], steps: int) -> None:
    config = _config(run, steps)
    write_bundle(run.out / BUNDLE, config, weights=weights, metrics={}, card=_card(run, config))


def _card(run: TrainingRun, config: BundleConfig) -> str:
    return f"""# {run.name}

**Research use only: not a medical device, not for diagnosis. Not calibrated, nothing measured.**

- Trained on: {run.data}.
- Recipe: {run.recipe.name}; {config.provenance.steps} steps of {run.recipe.sampling.batch} patches.
- Made by: `{config.provenance.command}` (seed {run.seed}, commit {config.provenance.commit})
"""
