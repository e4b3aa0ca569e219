"""Losses of the two branches. Pixels with the target IGNORE give no loss and no gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ml.networks.patchfcn import Logits
from ml.training.augmentation import IGNORE

CLASS_WEIGHT = 0.4
"""Of the classification loss beside the two segmentation losses of weight 1 (the paper states none)."""


def loss(logits: Logits, pixels_NHW: Tensor, classes_N: Tensor) -> Tensor:
    """Sum of the segmentation losses and the weighted classification loss."""
    classes = functional.binary_cross_entropy_with_logits(logits.classes.float(), classes_N)
    return segmentation_loss(logits.pixels.float(), pixels_NHW) + CLASS_WEIGHT * classes


def segmentation_loss(logits_NHW: Tensor, pixels_NHW: Tensor) -> Tensor:
    """Cross-entropy over labelled pixels, positives weighted, plus one minus the Dice coefficient of the batch."""
    labelled = pixels_NHW != IGNORE
    target = (pixels_NHW == 1).float()
    weight = labelled * (1 + 2 * target)
    entropy = functional.binary_cross_entropy_with_logits(logits_NHW, target, weight=weight, reduction="sum")
    entropy = entropy / labelled.sum().clamp(min=1)
    prob = logits_NHW.sigmoid() * labelled
    target = target * labelled
    # Over the whole batch: in a patch without blood a Dice coefficient says nothing.
    dice = (2 * (prob * target).sum() + 1) / (prob.sum() + target.sum() + 1)
    return torch.as_tensor(2 * entropy + (1 - dice))
