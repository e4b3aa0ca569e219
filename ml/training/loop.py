"""The one training loop: batches in, averaged weights out, resumable at every checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ml.errors import TrainingError
from ml.networks.patchfcn import PatchFcn
from ml.training.checkpoints import load_checkpoint, save_checkpoint
from ml.training.losses import loss
from ml.training.sampler import Batch, PatchBatches


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    steps: int
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warm_up_steps: int = 100
    average_decay: float = 0.995
    """Of the exponential moving average of the weights, which is what is kept."""
    checkpoint_steps: int = 200
    loader_workers: int = 1
    bfloat16: bool = False
    """Mixed precision: about twice as fast on CPUs with AVX-512 BF16."""

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, then half a cosine to zero."""
        if step < self.warm_up_steps:
            return self.learning_rate * (step + 1) / self.warm_up_steps
        done = (step - self.warm_up_steps) / max(1, self.steps - self.warm_up_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


Progress = Callable[[int, float], None]
"""Called after every step with (steps done, smoothed loss)."""


def train(
    network: PatchFcn,
    batches: PatchBatches,
    schedule: Schedule,
    *,
    folder: Path,
    until: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Train to the last step of the schedule, or to step `until`, and return the averaged weights.

    A run that was stopped goes on from the checkpoint in `folder`.

    Raises:
        TrainingError: the loss is not finite; the last checkpoint is usable.
    """
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch.nn.Module.to has it
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=schedule.weight_decay)
    averaged = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    step, smoothed = 0, math.nan
    state = load_checkpoint(folder / "checkpoint.pt")
    if state is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        averaged, step, smoothed = state["averaged"], state["step"], state["loss"]
    last = schedule.steps if until is None else until
    for batch in _loader(batches, range(step, last), schedule):
        value = _step(network, optimiser, batch, schedule.rate(step), bfloat16=schedule.bfloat16)
        if not math.isfinite(value):
            raise TrainingError(f"the loss is not finite at step {step}; the checkpoint before it is kept")
        smoothed = value if math.isnan(smoothed) else 0.98 * smoothed + 0.02 * value
        step += 1
        _average(averaged, network, min(schedule.average_decay, step / (step + 10)))
        if step % schedule.checkpoint_steps == 0 or step == last:
            _save(folder, network, optimiser, averaged, step, smoothed)
        if progress is not None:
            progress(step, smoothed)
    return averaged


def _step(network: PatchFcn, optimiser: torch.optim.Optimizer, batch: Batch, rate: float, *, bfloat16: bool) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    images = batch.images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = network(images)
    value = loss(logits, batch.pixels, batch.classes)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(value)
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    return float(value.detach())


def _average(averaged: dict[str, Tensor], network: PatchFcn, decay: float) -> None:
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                averaged[name].lerp_(tensor, 1 - decay)
            else:
                averaged[name].copy_(tensor)


def _loader(batches: PatchBatches, steps: range, schedule: Schedule) -> DataLoader[Batch]:
    return DataLoader(
        Subset(batches, steps),
        batch_size=None,
        num_workers=schedule.loader_workers,
        prefetch_factor=4 if schedule.loader_workers else None,
    )


def _save(
    folder: Path,
    network: PatchFcn,
    optimiser: torch.optim.Optimizer,
    averaged: dict[str, Tensor],
    step: int,
    smoothed: float,
) -> None:
    state: dict[str, Any] = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "averaged": averaged,
        "step": step,
        "loss": smoothed,
    }
    save_checkpoint(folder / "checkpoint.pt", state)
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "loss": round(smoothed, 5)}) + "\n")
