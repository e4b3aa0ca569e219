"""Dilated residual networks, architecture D (Yu, Koltun, Funkhouser 2017; github.com/fyu/drn).

The family as one frozen description: a stem, then levels of plain convolutions or residual blocks, each with a
stride and a dilation. `DRN_D_38` is the trunk that the paper's PatchFCN builds on; smaller trunks are other
descriptions of the same classes. Tensor legend: N exams' slices or patches, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

LEAST_STRIDED = 16
"""Channels that a block with a stride needs at its input: with fewer, the backward pass of its shortcut writes past its
memory (a 1x1 convolution with stride 2, channels last, on a CPU with AVX-512, in torch 2.13)."""


@dataclass(frozen=True)
class Level:
    """One level of the trunk: `blocks` convolutions or residual blocks; the first one carries the stride."""

    kind: Literal["conv", "residual"]
    channels: int
    blocks: int
    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class DrnConfig:
    """A trunk. `in_channels` is 3 in the published network."""

    in_channels: int
    stem_channels: int
    stem_kernel: int
    stem_stride: int
    levels: tuple[Level, ...]

    @property
    def out_channels(self) -> int:
        """C of the last level."""
        return self.levels[-1].channels

    @property
    def output_stride(self) -> int:
        """Input pixels per pixel of the trunk's output."""
        return self.stem_stride * math.prod(level.stride for level in self.levels)


def _drn_d(third: int, fourth: int, fifth: int, sixth: int) -> DrnConfig:
    """The D architecture with the given numbers of residual blocks in its levels 3 to 6."""
    return DrnConfig(
        in_channels=3,
        stem_channels=16,
        stem_kernel=7,
        stem_stride=1,
        levels=(
            Level("conv", 16, 1),
            Level("conv", 32, 1, stride=2),
            Level("residual", 64, third, stride=2),
            Level("residual", 128, fourth, stride=2),
            Level("residual", 256, fifth, dilation=2),
            Level("residual", 512, sixth, dilation=4),
            Level("conv", 512, 1, dilation=2),
            Level("conv", 512, 1),
        ),
    )


DRN_D_22 = _drn_d(2, 2, 2, 2)
DRN_D_38 = _drn_d(3, 4, 6, 3)


class ConvBlock(nn.Sequential):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; a 1x1 convolution fits the shortcut where the shape changes.

    Raises:
        ValueError: a stride on fewer than LEAST_STRIDED channels.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        if stride != 1 and in_channels < LEAST_STRIDED:
            raise ValueError(f"a residual block with a stride needs {LEAST_STRIDED} input channels, not {in_channels}")
        super().__init__()
        self.first = ConvBlock(in_channels, channels, stride=stride, dilation=dilation)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Same height and width, divided by the stride."""
        out: Tensor = self.relu(self.second(self.first(x_NCHW)) + self.shortcut(x_NCHW))
        return out


class Drn(nn.Module):
    """A trunk: images (N, in_channels, H, W) -> features (N, out_channels, H / stride, W / stride)."""

    def __init__(self, config: DrnConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Sequential(
            nn.Conv2d(
                config.in_channels,
                config.stem_channels,
                config.stem_kernel,
                config.stem_stride,
                padding=config.stem_kernel // 2,
                bias=False,
            ),
            nn.BatchNorm2d(config.stem_channels),
            nn.ReLU(inplace=True),
        )
        channels = config.stem_channels
        levels = []
        for level in config.levels:
            levels.append(_level(channels, level))
            channels = level.channels
        self.levels = nn.ModuleList(levels)
        initialise(self)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Features of the last level."""
        return self.pyramid(images_NCHW)[-1]

    def pyramid(self, images_NCHW: Tensor) -> list[Tensor]:
        """Outputs of the stem and of every level, in that order."""
        outputs = [self.stem(images_NCHW)]
        for level in self.levels:
            outputs.append(level(outputs[-1]))
        return outputs


class DrnClassifier(nn.Module):
    """The published image classifier: trunk, mean over the image, 1x1 convolution to the classes."""

    def __init__(self, config: DrnConfig, *, classes: int = 1000) -> None:
        super().__init__()
        self.trunk = Drn(config)
        self.fc = nn.Conv2d(config.out_channels, classes, 1)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Class logits (N, classes)."""
        logits: Tensor = self.fc(self.trunk(images_NCHW).mean(dim=(2, 3), keepdim=True))
        return logits.flatten(1)


def _level(in_channels: int, level: Level) -> nn.Sequential:
    block = ConvBlock if level.kind == "conv" else ResidualBlock
    first = block(in_channels, level.channels, stride=level.stride, dilation=level.dilation)
    rest = [block(level.channels, level.channels, dilation=level.dilation) for _ in range(level.blocks - 1)]
    return nn.Sequential(first, *rest)


def initialise(network: nn.Module) -> None:
    """Random weights as DRN's: convolutions N(0, sqrt(2 / (k k out))), biases 0, batch norms 1 and 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
