"""PatchFCN (Kuo, Haene, Mukherjee, Malik, Yuh): a dilated trunk with a classification and a segmentation branch.

Fully convolutional: trained on patches, run on patches or whole slices. Tensor legend: N patches, C channels,
H rows, W columns; logits, not probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.networks.drn import DRN_D_38, ConvBlock, Drn, DrnConfig, Level, initialise

BLEED_PRIOR = 0.01
"""Probability that a fresh network gives a pixel: about the share of blood in a positive slice."""

SMOOTH_MAX_PIXELS = 16.0
"""Output pixels of even evidence that keep a patch's logit unchanged: a constant, so patch size does not matter."""


@dataclass(frozen=True)
class PatchFcnConfig:
    """The two branches on a trunk."""

    trunk: DrnConfig
    class_pooling: Literal["mean", "smooth-max"] = "mean"
    """How a patch becomes one class logit. "mean" is the trunk's own classifier. "smooth-max" pools a map of
    class evidence by log-mean-exp: the patch label means "any positive pixel", at any patch size."""
    fine_levels: tuple[int, ...] = ()
    """Empty: the segmentation logits are a 1x1 convolution on the trunk's output, as in the paper. Numbers: the
    trunk's features are upsampled and joined with these finer levels in turn (0 = stem), for small bleeds."""
    fine_channels: tuple[int, ...] = ()


class Logits(NamedTuple):
    """What the two branches say, before the sigmoid."""

    pixels: Tensor
    """(N, H, W)"""
    classes: Tensor
    """(N,)"""


class BilinearUpsampling(nn.Module):
    """Fixed bilinear upsampling by a whole factor, as a grouped transposed convolution that is not trained.

    As in DRN's segmentation head; its gradient is deterministic, which interpolation's is not on every device.
    """

    kernel: Tensor

    def __init__(self, factor: int, channels: int) -> None:
        super().__init__()
        self.factor, self.channels = factor, channels
        steps = (torch.arange(2 * factor, dtype=torch.float64) + 0.5) / factor - 1
        triangle = 1 - steps.abs()
        kernel = torch.outer(triangle, triangle).float().expand(channels, 1, 2 * factor, 2 * factor)
        self.register_buffer("kernel", kernel.contiguous(), persistent=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, factor H, factor W); the border is repeated, as interpolation does."""
        padded = functional.pad(x_NCHW, (1, 1, 1, 1), mode="replicate")
        return functional.conv_transpose2d(
            padded, self.kernel, stride=self.factor, padding=self.factor // 2 + self.factor, groups=self.channels
        )


class Refinement(nn.Module):
    """Joins coarse features with those of a finer level: project, upsample, concatenate, convolve."""

    def __init__(self, coarse_channels: int, fine_channels: int, *, channels: int, factor: int) -> None:
        super().__init__()
        self.project = ConvBlock(coarse_channels, channels)
        self.upsample: nn.Module = BilinearUpsampling(factor, channels) if factor > 1 else nn.Identity()
        self.join = ConvBlock(channels + fine_channels, channels)

    def forward(self, coarse_NCHW: Tensor, fine_NCHW: Tensor) -> Tensor:
        """(N, channels, H, W) at the fine level's size."""
        raised = self.upsample(self.project(coarse_NCHW))
        joined: Tensor = self.join(torch.cat([raised, fine_NCHW], dim=1))
        return joined


class PatchFcn(nn.Module):
    """images (N, C, H, W) -> Logits(pixels (N, H, W), classes (N,)); H and W multiples of the output stride."""

    def __init__(self, config: PatchFcnConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Drn(config.trunk)
        features, stride = config.trunk.out_channels, config.trunk.output_stride
        self.class_score = nn.Conv2d(features, 1, 1)
        self.refinements = nn.ModuleList()
        for level, channels in zip(config.fine_levels, config.fine_channels, strict=True):
            fine_stride, fine_channels = _level_shape(config.trunk, level)
            self.refinements.append(
                Refinement(features, fine_channels, channels=channels, factor=stride // fine_stride)
            )
            features, stride = channels, fine_stride
        self.pixel_score = nn.Conv2d(features, 1, 1)
        self.raise_pixels: nn.Module = BilinearUpsampling(stride, 1) if stride > 1 else nn.Identity()
        initialise(self.refinements)
        for score, bias in ((self.class_score, 0.0), (self.pixel_score, math.log(BLEED_PRIOR / (1 - BLEED_PRIOR)))):
            nn.init.normal_(score.weight, 0.0, math.sqrt(1.0 / score.in_channels))
            if score.bias is not None:
                nn.init.constant_(score.bias, bias)

    def forward(self, images_NCHW: Tensor) -> Logits:
        """Both branches in one pass over the trunk."""
        pyramid = self.trunk.pyramid(images_NCHW)
        features = pyramid[-1]
        classes = self._classify(features)
        for level, refine in zip(self.config.fine_levels, self.refinements, strict=True):
            features = refine(features, pyramid[level])
        pixels: Tensor = self.raise_pixels(self.pixel_score(features))
        return Logits(pixels[:, 0], classes)

    def _classify(self, features_NCHW: Tensor) -> Tensor:
        """(N,) class logits."""
        if self.config.class_pooling == "mean":
            pooled: Tensor = self.class_score(features_NCHW.mean(dim=(2, 3), keepdim=True))
            return pooled.flatten()
        evidence: Tensor = self.class_score(features_NCHW).flatten(1)
        return torch.logsumexp(evidence, dim=1) - math.log(SMOOTH_MAX_PIXELS)


def _level_shape(trunk: DrnConfig, level: int) -> tuple[int, int]:
    """(stride, channels) of an entry of `Drn.pyramid`."""
    if level == 0:
        return trunk.stem_stride, trunk.stem_channels
    stride = trunk.stem_stride * math.prod(one.stride for one in trunk.levels[:level])
    return stride, trunk.levels[level - 1].channels


PAPER = PatchFcnConfig(trunk=DRN_D_38)
"""The paper's network (paper section 2.2, Implementation Details)."""

COMPACT = PatchFcnConfig(
    trunk=DrnConfig(
        in_channels=6,
        stem_channels=16,
        stem_kernel=5,
        stem_stride=2,
        levels=(
            Level("conv", 24, 1),
            Level("residual", 48, 2, stride=2),
            Level("residual", 64, 2, stride=2),
            Level("residual", 96, 2, dilation=2),
            Level("residual", 96, 1, dilation=4),
            Level("conv", 96, 1, dilation=2),
            Level("conv", 64, 1),
        ),
    ),
    class_pooling="smooth-max",
    fine_levels=(2, 1),
    fine_channels=(48, 32),
)
"""The compact variant: three adjacent slices in two windows as channels, output stride 2 for small bleeds."""
