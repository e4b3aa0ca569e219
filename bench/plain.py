"""A straightforward DRN with two branches and a plain training loop: what `bench/training.py` measures against.

Written as one would from the papers, with nothing done for speed: contiguous tensors, interpolation, AdamW as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.networks.drn import DrnConfig
from ml.networks.patchfcn import PatchFcnConfig


class PlainBlock(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same, divided by the stride."""
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def conv(channels_in: int, channels: int, stride: int = 1, dilation: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    padding = kernel // 2 * dilation
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class PlainDrn(nn.Module):
    """The same layers as `PatchFcn` has by the same description: (N, C, H, W) -> pixels (N, H, W), classes (N,)."""

    def __init__(self, config: PatchFcnConfig) -> None:
        super().__init__()
        trunk = config.trunk
        self.levels = nn.ModuleList(_levels(trunk))
        widths = [trunk.stem_channels, *(level.channels for level in trunk.levels)]
        self.classify = nn.Conv2d(widths[-1], 1, 1)
        self.fine_levels = config.fine_levels
        self.projections, self.joins = nn.ModuleList(), nn.ModuleList()
        width = widths[-1]
        for level, channels in zip(config.fine_levels, config.fine_channels, strict=True):
            self.projections.append(conv(width, channels))
            self.joins.append(conv(channels + widths[level], channels))
            width = channels
        self.segment = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both branches."""
        outputs = [images]
        for level in self.levels:
            outputs.append(level(outputs[-1]))
        outputs = outputs[1:]
        features = outputs[-1]
        classes = torch.logsumexp(self.classify(features).flatten(1), dim=1)
        for number, project, join in zip(self.fine_levels, self.projections, self.joins, strict=True):
            fine = outputs[number]
            raised = functional.interpolate(project(features), size=fine.shape[2:], mode="bilinear")
            features = join(torch.cat([raised, fine], dim=1))
        pixels = functional.interpolate(self.segment(features), size=images.shape[2:], mode="bilinear")
        return pixels[:, 0], classes


def _levels(trunk: DrnConfig) -> list[nn.Module]:
    levels: list[nn.Module] = [
        conv(trunk.in_channels, trunk.stem_channels, trunk.stem_stride, kernel=trunk.stem_kernel)
    ]
    channels = trunk.stem_channels
    for level in trunk.levels:
        parts: list[nn.Module] = []
        for number in range(level.blocks):
            stride = level.stride if number == 0 else 1
            if level.kind == "conv":
                parts.append(conv(channels, level.channels, stride, level.dilation))
            else:
                parts.append(PlainBlock(channels, level.channels, stride, level.dilation))
            channels = level.channels
        levels.append(nn.Sequential(*parts))
    return levels


def train_plainly(network: PlainDrn, steps: Iterable[tuple[Tensor, Tensor, Tensor]], *, device: str) -> list[float]:
    """Cross-entropy of both branches and AdamW; the moment, in seconds, at which each step was done."""
    network.train().to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    moments = []
    for step in steps:
        images, targets, labels = (part.to(device) for part in step)
        pixels, classes = network(images)
        loss = functional.binary_cross_entropy_with_logits(pixels, targets.float())
        loss = loss + functional.binary_cross_entropy_with_logits(classes, labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        loss.item()
        moments.append(time.perf_counter())
    return moments
