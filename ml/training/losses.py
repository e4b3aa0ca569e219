"""Losses of the two branches. Pixels with the target IGNORE give no loss and no gradient.

All sums run over the whole batch, over every device that has a part of it: a patch without blood says nothing by
itself of a Dice coefficient, and the mean over labelled pixels is one mean however the batch is divided.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ml.labels import IGNORE
from ml.networks.patchfcn import Logits
from ml.training.distribution import total
from ml.training.recipe import LossWeights


class Losses(NamedTuple):
    """Of one batch, each a scalar; the same on every device."""

    pixels: Tensor
    classes: Tensor

    @property
    def sum(self) -> Tensor:
        """What is minimised."""
        return self.pixels + self.classes


def losses(logits: Logits, pixels: Tensor, classes_N: Tensor, weights: LossWeights) -> Losses:
    """Weighted losses of both branches. `pixels` has the shape of `logits.pixels`, whatever that is.

    Where no pixel has a label (image-level labels alone) the segmentation loss is 0 and gives no gradient.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits.classes.float(), classes_N, reduction="sum")
    count = total(torch.full((), float(len(classes_N)), device=classes_N.device))
    return Losses(
        segmentation_loss(logits.pixels.float(), pixels, weights), weights.classes * total(entropy) / count.clamp(min=1)
    )


def segmentation_loss(logits: Tensor, pixels: Tensor, weights: LossWeights) -> Tensor:
    """Cross-entropy over labelled pixels, and one minus the Dice coefficient; any shape."""
    labelled = pixels != IGNORE
    target = (pixels == 1).float()
    weight = labelled * (1 + (weights.positive_pixel - 1) * target)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
    if not weights.dice:
        entropy, count = total(torch.stack([entropy, labelled.sum().float()])).unbind()
        return weights.entropy * entropy / count.clamp(min=1)
    prob = logits.sigmoid() * labelled
    target = target * labelled
    entropy, count, overlap, sizes = total(
        torch.stack([entropy, labelled.sum().float(), (prob * target).sum(), prob.sum() + target.sum()])
    ).unbind()
    dice = (2 * overlap + 1) / (sizes + 1)
    return weights.entropy * entropy / count.clamp(min=1) + weights.dice * (1 - dice)
