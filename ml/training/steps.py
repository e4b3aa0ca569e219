"""What a step of training computes: the losses of its patches and their gradients, on a GPU as one recorded run.

A step of small patches is some hundred kernels of a few microseconds, which take longer to start one by one than to
run. CUDA graphs start them together.
"""

from __future__ import annotations

import torch
from torch import nn

from ml.config import Preprocessing
from ml.networks.patchfcn import Logits, PatchFcn
from ml.training.losses import Losses, losses
from ml.training.recipe import LossWeights, Machine, PrecisionName
from ml.training.sampler import Batch, Step, to_images

AUTOCAST: dict[PrecisionName, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}
WARM_UP_RUNS = 3
"""Before a step is recorded: cuDNN looks for its fastest kernels, and memory finds its place."""


class LossOfStep(nn.Module):
    """The network on all patches of a step, and their losses.

    Pixels of every size stand in one row, classes in another.
    """

    def __init__(
        self, network: PatchFcn, config: Preprocessing, weights: LossWeights, precision: PrecisionName
    ) -> None:
        super().__init__()
        self.network, self.config, self.weights, self.precision = network, config, weights, precision

    def forward(self, step: Step) -> Losses:
        """With gradient; the step must lie on the network's device."""
        dtype = AUTOCAST.get(self.precision)
        with torch.no_grad():
            images = [to_images(batch, self.config).contiguous(memory_format=torch.channels_last) for batch in step]
        # casts are remembered where a weight is used more than once; a recorded step must not remember any
        with torch.autocast(
            step[0].hu.device.type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=len(step) > 1
        ):
            outputs = [self.network(one) for one in images]
        return losses(
            Logits(torch.cat([one.pixels.flatten() for one in outputs]), torch.cat([one.classes for one in outputs])),
            torch.cat([batch.pixels.flatten() for batch in step]),
            torch.cat([batch.classes for batch in step]),
            self.weights,
        )


class Gradients:
    """Computes the losses of a step and leaves their gradients, scaled, in the network's parameters."""

    def __init__(self, of_step: nn.Module, scaler: torch.amp.GradScaler, machine: Machine, sample: Step | None) -> None:
        """`of_step`: a LossOfStep, or what distributes it.

        Steps of the shape of `sample`, if one is given, are recorded. Recording must be over before another thread of
        this process speaks to the GPU, as a loader's does.
        """
        self.of_step, self.scaler, self.device = of_step, scaler, torch.device(machine.device)
        self._recorded = None
        if sample is not None:
            with torch.cuda.device(self.device):  # a graph is of the device that is current
                self._recorded = _Recorded(self, to_device(sample, self.device))

    def compute(self, step: Step) -> Losses:
        """Of patches on any device."""
        if self._recorded is not None and self._recorded.fits(step):
            return self._recorded.run(step)
        return self.run(to_device(step, self.device))

    def run(self, step: Step) -> Losses:
        """Kernel by kernel, of patches on the network's device."""
        for parameter in self.of_step.parameters():
            parameter.grad = None
        found: Losses = self.of_step(step)
        torch.autograd.backward(self.scaler.scale(found.sum))
        return Losses(found.pixels.detach(), found.classes.detach())


class _Recorded:
    """One step whose patches, losses and gradients have fixed places in the GPU's memory."""

    def __init__(self, gradients: Gradients, sample: Step) -> None:
        """Leaves the network's running statistics as they were."""
        buffers = list(gradients.of_step.buffers())
        kept = [buffer.clone() for buffer in buffers]
        self.step = tuple(Batch(*(part.clone() for part in batch)) for batch in sample)
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP_RUNS):
                gradients.run(self.step)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.losses = gradients.run(self.step)
        self.parameters = [(one, one.grad) for one in gradients.of_step.parameters()]
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)

    def fits(self, step: Step) -> bool:
        """Whether it has the recorded shape."""
        return [batch.hu.shape for batch in step] == [batch.hu.shape for batch in self.step]

    def run(self, step: Step) -> Losses:
        """The losses are overwritten by the next run."""
        for place, batch in zip(self.step, step, strict=True):
            for to, part in zip(place, batch, strict=True):
                to.copy_(part, non_blocking=True)
        for parameter, gradient in self.parameters:
            parameter.grad = gradient
        self.graph.replay()
        return self.losses


def is_recorded(machine: Machine, processes: int) -> bool:
    """Whether steps are recorded: on one GPU. Several exchange sums within a step."""
    return machine.recorded and torch.device(machine.device).type == "cuda" and processes == 1


def to_device(step: Step, device: torch.device) -> Step:
    """The same patches there."""
    return tuple(Batch(*(part.to(device, non_blocking=True) for part in batch)) for batch in step)
