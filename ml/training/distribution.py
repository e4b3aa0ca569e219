"""Several processes, one per device, that train one network: sums and batch norms over all of them.

Started by torchrun. Every process draws its own places of the same batch; sums run over all of them, so that the
losses, the batch norms and with them the weights are those of one process with the whole batch (to rounding). Work on
exams that are independent of each other is shared out (`share`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from ml.device import choose_device

Item = TypeVar("Item")

LONGEST_WAIT = timedelta(hours=6)
"""For the slowest process of a group, which may have a large exam more to score or a corpus to rank. torchrun ends the
others at once when one dies."""


def rank() -> int:
    """Which of the processes this is."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait_for_all() -> None:
    """Until every process is here."""
    if distributed.is_initialized():
        distributed.barrier()


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This process's part of them; together the processes have all, each once."""
    return items[rank() :: world_size()]


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """The group that torchrun's environment describes, if there is one; yields this process's device.

    `device`: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1". Within a group, that group.
    Raises DeviceError where there is none, or torchrun started more processes than there are GPUs.
    """
    device = choose_device(device)
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    own = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}") if device.startswith("cuda") else device
    if distributed.is_initialized():
        yield own
        return
    if own != "cpu":
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own != "cpu" else "gloo", timeout=LONGEST_WAIT)
    try:
        yield own
        distributed.barrier()  # nobody leaves while another still sends
    finally:
        distributed.destroy_process_group()


class _Total(torch.autograd.Function):
    """Sum over the processes; the gradient of a sum that all of them use is the sum of their gradients."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        summed = value.detach().clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        distributed.all_reduce(summed)
        return summed


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, with gradient; the tensor itself where there is one process."""
    if world_size() == 1:
        return value
    summed: Tensor = _Total.apply(value)  # type: ignore[no-untyped-call] # torch.autograd.Function
    return summed


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes, on a CPU as on a GPU (torch's own is for GPUs alone)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Same shape."""
        if not self.training:
            return super().forward(x_NCHW)
        x = x_NCHW.float()
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        sums = total(torch.cat([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count]))
        mean, square = sums[:-1].chunk(2)
        mean, square = mean / sums[-1], square / sums[-1]
        variance = (square - mean.square()).clamp(min=0)
        self._follow(mean.detach(), variance.detach(), float(sums[-1].detach()))
        scale = (variance + self.eps).rsqrt() * self.weight
        normed = (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normed.to(x_NCHW.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """The running statistics, as nn.BatchNorm2d keeps them (unbiased variance)."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        share = 0.1 if self.momentum is None else self.momentum
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(1.0, count - 1)), share)


def share_batch_norms(network: nn.Module) -> None:
    """Replaces every batch norm by one with shared statistics and the same values: before an optimiser is made."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            setattr(network, name, shared)
        else:
            share_batch_norms(child)
