"""How a network is trained: one frozen description, for teacher, student, oracles, baseline and compact bundle alike.

`PAPER_RECIPE` is the paper's (Lin and Yuh, section 2.2) wherever the paper states a value. What it leaves open is an
assumption; each one stands in docs/training.md with its source. `COMPACT_RECIPE` is that of the default bundle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ml.training.augmentation import Augmentation

PrecisionName = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LossWeights:
    """What is summed to the loss of a batch (`ml.training.losses`)."""

    entropy: float = 1.0
    """Cross-entropy, mean over labelled pixels."""
    positive_pixel: float = 1.0
    """Of a positive pixel within that mean; a negative one has 1."""
    dice: float = 0.0
    """One minus the Dice coefficient of the whole batch."""
    classes: float = 1.0
    """Cross-entropy of the patch label, mean over patches."""


@dataclass(frozen=True)
class Sampling:
    """What a batch is made of."""

    batch: int = 16
    """Patches of one step, over all devices together."""
    patch: int = 160
    """Rows and columns of a patch, in pixels of the network's grid."""
    labelled_share: float = 0.6
    """Of every batch where there is a second pool of slices: the paper's mix of 0.6 to 0.4."""
    positive: float = 0.5
    """Share of each pool's patches that is drawn around blood."""
    bleed_free: float | None = 0.6
    """Share of the others that comes from exams without blood. None: any slice, every slice once per epoch."""
    lures: float = 0.5
    """Share of those others that shows a lure (`ml.training.lures`), where lures are known."""


@dataclass(frozen=True)
class Recipe:
    """Everything that changes what is learned, but for the data and the network. Steps count from 0."""

    name: str
    optimiser: Literal["sgd", "adamw"]
    learning_rate: float
    """At its peak."""
    weight_decay: float
    loss: LossWeights
    sampling: Sampling
    augmentation: Augmentation
    epochs: int | None
    """Passes over the labelled slices. None: the number of steps is given instead."""
    decay: Literal["step", "cosine"]
    decay_every_epochs: float = 240
    """"step": the rate is multiplied by `decay_factor` after so many epochs, and again after as many more."""
    decay_factor: float = 0.1
    momentum: float = 0.9
    """Of "sgd"."""
    warm_up_steps: int = 0
    """Over which the rate rises linearly."""
    average_decay: float = 0.0
    """Of an exponential moving average of the weights, which then is what is kept; 0: the last weights are kept."""
    clip_norm: float = math.inf
    """Longer gradients are shortened to it."""

    def length(self, labelled_slices: int, *, alone: bool) -> Span:
        """How long training takes with so many labelled slices; `alone`: without a second pool.

        Raises ValueError for a recipe that is given by steps.
        """
        if self.epochs is None:
            raise ValueError(f"recipe {self.name} is given by steps, not epochs")
        share = 1.0 if alone else self.sampling.labelled_share
        per_epoch = max(1, math.ceil(labelled_slices / (self.sampling.batch * share)))
        return Span(self.epochs * per_epoch, per_epoch)

    def rate(self, step: int, span: Span) -> float:
        """Learning rate of a step."""
        if step < self.warm_up_steps:
            return self.learning_rate * (step + 1) / self.warm_up_steps
        if self.decay == "step":
            epoch = step * self.epochs / span.steps if self.epochs else step / span.steps_per_epoch
            passed = epoch // self.decay_every_epochs
            return float(self.learning_rate * self.decay_factor**passed)
        done = (step - self.warm_up_steps) / max(1, span.steps - self.warm_up_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class Span:
    """How long a training is."""

    steps: int
    steps_per_epoch: int = 1
    """Steps in which the labelled slices are drawn once."""
    until: int | None = None
    """Where to stop for now, as if the run had been interrupted there."""

    @property
    def end(self) -> int:
        """Where to stop."""
        return self.steps if self.until is None else self.until


PAPER_AUGMENTATION = Augmentation(
    rotation_degrees=0.0,
    scale=(0.9, 1.1),
    shear=0.0,
    mirror=0.5,
    reverse_slices=0.0,
    same_slices=0.0,
    gain=(1.0, 1.0),
    offset_hu=0.0,
    blur_probability=0.0,
    sharpen_probability=0.0,
    noise_probability=0.0,
)
"""Contrast and independent height and width (paper section 2.2, Table 2); the mirror is that of fyu/drn. The range of
the scale is not stated: 10 % either way is about two standard deviations of adult head size."""

PAPER_RECIPE = Recipe(
    name="paper",
    optimiser="sgd",
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=1e-4,
    loss=LossWeights(),
    sampling=Sampling(batch=16, patch=240, labelled_share=0.6, positive=0.0, bleed_free=None),
    augmentation=PAPER_AUGMENTATION,
    epochs=600,
    decay="step",
    decay_every_epochs=240,
    decay_factor=0.1,
)
"""600 epochs, step 240, batch 16, crop 240, mix 0.6 to 0.4 (paper section 2.2). Optimiser, learning rate, momentum,
weight decay and the meaning of "step": the defaults of segment.py in fyu/drn, the code that the paper builds on. The
losses of both branches are summed, as neither the paper nor PatchFCN's says otherwise."""

COMPACT_RECIPE = Recipe(
    name="compact",
    optimiser="adamw",
    learning_rate=2e-3,
    weight_decay=1e-4,
    loss=LossWeights(entropy=2.0, positive_pixel=3.0, dice=1.0, classes=0.4),
    sampling=Sampling(),
    augmentation=Augmentation(),
    epochs=None,
    decay="cosine",
    warm_up_steps=100,
    average_decay=0.995,
    clip_norm=5.0,
)
"""Of the default bundle: found by trial on simulated exams, for few steps on a CPU."""


@dataclass(frozen=True)
class Machine:
    """How a training is run; nothing here changes what is learned, but for the rounding of `precision`."""

    device: str = "cpu"
    """"cpu", "cuda", or "cuda:1"; under torchrun every process takes the GPU of its own rank."""
    precision: PrecisionName = "float32"
    """Of the forward pass. bfloat16 is twice as fast on CPUs with AVX-512 BF16 and on GPUs since Ampere; float16 is
    for older GPUs, with a scaled loss."""
    loader_workers: int = 1
    """Processes that make patches; 0: this one does."""
    loader_timeout_s: float = 600.0
    """A worker that is silent for so long is taken for dead."""
    checkpoint_steps: int | None = None
    """None: by the clock, every `checkpoint_s`. A GPU makes a hundred steps in a second, a CPU one."""
    checkpoint_s: float = 60.0
    deterministic: bool = False
    """Only algorithms that give the same bits each time; slower on a GPU. On a CPU they always do."""
    recorded: bool = True
    """On one GPU: the kernels of a step start together (`ml.training.steps`), not one by one."""
    tensorboard: bool = True
    """Events for TensorBoard beside the checkpoint."""
