"""What gives a gradient, and what must not."""

import pytest
import torch

from ml.networks.patchfcn import Logits
from ml.training.augmentation import IGNORE
from ml.training.losses import CLASS_WEIGHT, loss, segmentation_loss


def test_ignored_pixels_give_no_loss_and_no_gradient() -> None:
    """Whatever the network says there."""
    logits = torch.randn(2, 6, 6, requires_grad=True)
    pixels = torch.zeros(2, 6, 6, dtype=torch.uint8)
    pixels[:, :3] = 1
    pixels[:, 4:] = IGNORE
    value = segmentation_loss(logits, pixels)
    torch.autograd.backward(value)
    assert logits.grad is not None
    assert not logits.grad[:, 4:].any()
    assert logits.grad[:, :4].abs().min() > 0
    other = logits.detach().clone()
    other[:, 4:] = 50.0
    assert segmentation_loss(other, pixels).item() == pytest.approx(value.item())


def test_a_batch_of_ignored_pixels_has_a_finite_loss() -> None:
    """A patch beside the head."""
    value = segmentation_loss(torch.randn(1, 4, 4), torch.full((1, 4, 4), IGNORE, dtype=torch.uint8))
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_better_maps_have_lower_losses() -> None:
    """Right, undecided, wrong."""
    pixels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    pixels[0, 2:5, 2:5] = 1
    right = torch.where(pixels == 1, 4.0, -4.0)
    values = [segmentation_loss(right * sign, pixels).item() for sign in (1.0, 0.0, -1.0)]
    assert values == sorted(values)


def test_the_class_branch_weighs_as_stated() -> None:
    """Beside the same pixels."""
    pixels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    maps = torch.zeros(1, 4, 4)
    sure = loss(Logits(maps, torch.tensor([50.0])), pixels, torch.ones(1))
    undecided = loss(Logits(maps, torch.tensor([0.0])), pixels, torch.ones(1))
    assert (undecided - sure).item() == pytest.approx(CLASS_WEIGHT * 0.6931, abs=1e-3)
