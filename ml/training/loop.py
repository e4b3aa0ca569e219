"""The one training loop: batches in, weights out, resumable at every checkpoint, on one device or several."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ml.errors import TrainingError
from ml.files import alone_in
from ml.networks.patchfcn import PatchFcn
from ml.training.checkpoints import load_checkpoint, save_checkpoint
from ml.training.distribution import rank, share_batch_norms, world_size
from ml.training.journal import Journal
from ml.training.loader import load_steps
from ml.training.losses import Losses
from ml.training.recipe import Machine, Recipe, Span
from ml.training.sampler import PatchBatches, Step
from ml.training.steps import Gradients, LossOfStep, is_recorded
from ml.training.workers import dead_workers_named

Progress = Callable[[int, float], None]
"""Called after every step with (steps done, smoothed loss), and first where a run goes on."""

CHECKPOINT = "checkpoint.pt"


class _StepLoss:
    """The loss of a step on its way from the device: a GPU is not waited for before the next step is under way."""

    def __init__(self, step: int, loss: Tensor) -> None:
        self.step = step
        self._loss = loss.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if loss.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record()

    @property
    def is_here(self) -> bool:
        """Without waiting; always on a CPU."""
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]

    def read(self) -> float:
        """Wait for it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._loss)


@dataclass
class _State:
    """What changes while a network is trained; all of it is in a checkpoint."""

    network: PatchFcn
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averaged: dict[str, Tensor]
    step: int = 0
    loss: float = math.nan
    """Smoothed."""

    def __post_init__(self) -> None:
        """Both sides of the average, as they stay in memory."""
        weights = self.network.state_dict()
        pairs = [(kept, weights[name]) for name, kept in self.averaged.items()]
        self._means, self._weights = _columns(pair for pair in pairs if pair[0].is_floating_point())
        self._counts, self._counters = _columns(pair for pair in pairs if not pair[0].is_floating_point())

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Take the network's weights into the averaged ones; counters are those of the network."""
        if self.averaged:
            torch._foreach_lerp_(self._means, self._weights, 1 - decay)
            torch._foreach_copy_(self._counts, self._counters)

    def to_checkpoint(self) -> dict[str, Any]:
        """Also the random state, for networks that draw."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averaged": self.averaged,
            "step": self.step,
            "loss": self.loss,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """The opposite of `to_checkpoint`."""
        self.network.load_state_dict(kept["network"])
        self.optimiser.load_state_dict(kept["optimiser"])
        if kept["scaler"]:  # empty where the loss was not scaled: the run went on at another precision
            self.scaler.load_state_dict(kept["scaler"])
        for name, tensor in self.averaged.items():
            tensor.copy_(kept["averaged"][name])
        self.step, self.loss = kept["step"], kept["loss"]
        torch.set_rng_state(kept["random"])
        if torch.cuda.is_available() and len(kept["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(kept["random_cuda"])

    def smooth(self, found: _StepLoss) -> None:
        """Take in the loss of a step.

        Raises:
            TrainingError: it is not finite.
        """
        value = found.read()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is not finite at step {found.step}; the checkpoint before it is kept. Look at the data "
                "with that step's number and run the same command again, of train-compact with a lower --learning-rate"
            )
        self.loss = value if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * value

    def weights(self) -> dict[str, Tensor]:
        """What is kept of the training: the averaged weights, or the last ones."""
        return {name: tensor.detach().cpu() for name, tensor in (self.averaged or self.network.state_dict()).items()}


class _Clock:
    """When a checkpoint is due."""

    def __init__(self, machine: Machine) -> None:
        self.steps, self.seconds, self._last = machine.checkpoint_steps, machine.checkpoint_s, time.monotonic()

    def is_due(self, step: int) -> bool:
        """After this many steps."""
        if self.steps is not None:
            return step % self.steps == 0
        if time.monotonic() - self._last < self.seconds:
            return False
        self._last = time.monotonic()
        return True


def _columns(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    rows = list(pairs)
    return [one for one, _ in rows], [other for _, other in rows]


def train(
    network: PatchFcn,
    batches: PatchBatches,
    recipe: Recipe,
    span: Span,
    *,
    folder: Path,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Train to the end of the span and return the weights that the recipe keeps, on the CPU.

    A run that was stopped goes on from the checkpoint in `folder`. Under torchrun, within `process_group`, every
    process calls this with its own part of the batches; the first one writes.

    Raises:
        TrainingError: the loss is not finite, a loader worker died or the disk is full; the last checkpoint is usable.
            Or another process trains in that folder.
    """
    with alone_in(folder) if rank() == 0 else nullcontext(True) as alone:
        if not alone:
            raise TrainingError(f"another process trains in {folder}: wait for it, stop it, or choose another folder")
        return _train(network, batches, recipe, span, folder, machine or Machine(), progress)


def _train(
    network: PatchFcn,
    batches: PatchBatches,
    recipe: Recipe,
    span: Span,
    folder: Path,
    machine: Machine,
    progress: Progress | None,
) -> dict[str, Tensor]:
    _prepare(machine)
    state = _start(network, recipe, machine)
    kept = load_checkpoint(folder / CHECKPOINT)
    if kept is not None:
        state.restore(kept)
        if progress is not None:
            progress(state.step, state.loss)
    of_step: nn.Module = LossOfStep(network, batches.config, recipe.loss, machine.precision)
    if world_size() > 1:
        of_step = DistributedDataParallel(of_step, broadcast_buffers=False)
    sample = batches[state.step] if is_recorded(machine, world_size()) and state.step < span.end else None
    gradients = Gradients(of_step, state.scaler, machine, sample)
    with (
        closing(Journal(folder if rank() == 0 else None, first=state.step, tensorboard=machine.tensorboard)) as journal,
        dead_workers_named(),
        closing(load_steps(batches, state.step, span.end, machine)) as steps,
    ):
        under_way: deque[_StepLoss] = deque()
        clock = _Clock(machine)
        for step in steps:
            rate = recipe.rate(state.step, span)
            found, norm = _learn(gradients, state, step, rate, recipe)
            under_way.append(_StepLoss(state.step, found.sum))
            state.step += 1
            due = state.step == span.end or clock.is_due(state.step)
            while under_way and (due or len(under_way) > 1 or under_way[0].is_here):
                state.smooth(under_way.popleft())
            state.average(min(recipe.average_decay, state.step / (state.step + 10)))
            if journal.is_due(state.step):
                journal.note(state.step, _figures(found, step, rate, norm))
            if due:
                if rank() == 0:
                    save_checkpoint(folder / CHECKPOINT, state.to_checkpoint())
                journal.flush(state.step, state.loss)
            if progress is not None:
                progress(state.step, state.loss)
    return state.weights()


def _prepare(machine: Machine) -> None:
    if machine.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    elif machine.device != "cpu":
        torch.backends.cudnn.benchmark = True


def _start(network: PatchFcn, recipe: Recipe, machine: Machine) -> _State:
    if world_size() > 1:
        share_batch_norms(network)
    network.train().to(machine.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch.nn.Module.to has it
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(
            network.parameters(), lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    else:
        # fused is one kernel on a GPU; on a CPU the plain one keeps its bits between versions
        fused = torch.device(machine.device).type == "cuda"
        optimiser = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=recipe.weight_decay, fused=fused)
    scaler = torch.amp.GradScaler(torch.device(machine.device).type, enabled=machine.precision == "float16")
    averaged = {}
    if recipe.average_decay:
        averaged = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return _State(network, optimiser, scaler, averaged)


def _learn(gradients: Gradients, state: _State, step: Step, rate: float, recipe: Recipe) -> tuple[Losses, Tensor]:
    """One step of the optimiser; (losses before it, length of the gradient)."""
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    found = gradients.compute(step)
    state.scaler.unscale_(state.optimiser)
    norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip_norm)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    return found, norm


def _figures(found: Losses, step: Step, rate: float, norm: Tensor) -> dict[str, float]:
    """What the journal notes of a step; the shares are of this process's patches."""
    patches = torch.cat([batch.classes for batch in step])
    pixels = torch.cat([batch.pixels.flatten() for batch in step])
    loss, of_pixels, of_classes, gradient = torch.stack([found.sum, found.pixels, found.classes, norm]).tolist()
    return {
        "loss": loss,
        "loss_pixels": of_pixels,
        "loss_classes": of_classes,
        "learning_rate": rate,
        "gradient": gradient,
        "positive_patches": float(patches.mean()),
        "positive_pixels": float((pixels == 1).float().mean()),
    }
