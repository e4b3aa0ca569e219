"""What gives a gradient, and what must not."""

import numpy as np
import pytest
import torch

from ml.labels import IGNORE
from ml.networks.patchfcn import Logits
from ml.training.losses import losses, segmentation_loss
from ml.training.recipe import COMPACT_RECIPE, PAPER_RECIPE, LossWeights

COMPACT, PAPER = COMPACT_RECIPE.loss, PAPER_RECIPE.loss


@pytest.mark.parametrize("weights", [COMPACT, PAPER], ids=["compact", "paper"])
def test_ignored_pixels_give_no_loss_and_no_gradient(weights: LossWeights) -> None:
    """Whatever the network says there."""
    logits = torch.randn(2, 6, 6, requires_grad=True)
    pixels = torch.zeros(2, 6, 6, dtype=torch.uint8)
    pixels[:, :3] = 1
    pixels[:, 4:] = IGNORE
    value = segmentation_loss(logits, pixels, weights)
    torch.autograd.backward(value)
    assert logits.grad is not None
    assert not logits.grad[:, 4:].any()
    assert logits.grad[:, :4].abs().min() > 0
    other = logits.detach().clone()
    other[:, 4:] = 50.0
    assert segmentation_loss(other, pixels, weights).item() == pytest.approx(value.item())


def test_a_batch_of_ignored_pixels_has_a_finite_loss() -> None:
    """A patch beside the head."""
    value = segmentation_loss(torch.randn(1, 4, 4), torch.full((1, 4, 4), IGNORE, dtype=torch.uint8), COMPACT)
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_better_maps_have_lower_losses() -> None:
    """Right, undecided, wrong."""
    pixels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    pixels[0, 2:5, 2:5] = 1
    right = torch.where(pixels == 1, 4.0, -4.0)
    values = [segmentation_loss(right * sign, pixels, COMPACT).item() for sign in (1.0, 0.0, -1.0)]
    assert values == sorted(values)


def test_the_class_branch_weighs_as_stated() -> None:
    """Beside the same pixels."""
    pixels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    maps = torch.zeros(1, 4, 4)
    sure = losses(Logits(maps, torch.tensor([50.0])), pixels, torch.ones(1), COMPACT).sum
    undecided = losses(Logits(maps, torch.tensor([0.0])), pixels, torch.ones(1), COMPACT).sum
    assert (undecided - sure).item() == pytest.approx(COMPACT.classes * 0.6931, abs=1e-3)


def test_image_labels_alone_teach_the_class_branch_alone() -> None:
    """The segmentation loss is silent where no pixel has a label (the image-slice oracle, paper section 2.3)."""
    maps, classes = torch.randn(2, 6, 6, requires_grad=True), torch.randn(2, requires_grad=True)
    pixels = torch.full((2, 6, 6), IGNORE, dtype=torch.uint8)
    found = losses(Logits(maps, classes), pixels, torch.tensor([1.0, 0.0]), PAPER)
    torch.autograd.backward(found.sum)
    assert found.pixels.item() == 0
    assert maps.grad is not None
    assert not maps.grad.any()
    assert classes.grad is not None
    assert classes.grad[0] < 0 < classes.grad[1]


def test_the_paper_loss_is_the_mean_over_labelled_pixels() -> None:
    """As the loss of fyu/drn with its ignored label."""
    logits = torch.tensor([[[0.0, 3.0, -1.0]]])
    pixels = torch.tensor([[[1, 0, IGNORE]]], dtype=torch.uint8)
    by_hand = (torch.log1p(torch.exp(torch.tensor(-0.0))) + torch.log1p(torch.exp(torch.tensor(3.0)))) / 2
    assert segmentation_loss(logits, pixels, PAPER).item() == pytest.approx(by_hand.item())


def test_the_compact_loss_is_worked_out_by_hand() -> None:
    """Blood weighs more, an ignored pixel nothing; one Dice coefficient and one mean over the whole batch."""
    maps = np.array([[[0.0, 2.0], [-1.0, 3.0]], [[1.0, -2.0], [0.5, -3.0]]])
    pixels = np.array([[[1, 0], [1, IGNORE]], [[0, 0], [IGNORE, 0]]])
    classes, bleeds = np.array([0.5, 2.0]), np.array([1.0, 0.0])
    found = losses(
        Logits(torch.tensor(maps), torch.tensor(classes)),
        torch.tensor(pixels, dtype=torch.uint8),
        torch.tensor(bleeds, dtype=torch.float32),
        COMPACT,
    )
    prob = 1 / (1 + np.exp(-maps))
    blood, rest = pixels == 1, pixels == 0
    entropy = -(COMPACT.positive_pixel * np.log(prob[blood]).sum() + np.log(1 - prob[rest]).sum()) / 6
    dice = (2 * prob[blood].sum() + 1) / (prob[blood | rest].sum() + 2 + 1)
    assert found.pixels.item() == pytest.approx(COMPACT.entropy * entropy + COMPACT.dice * (1 - dice), rel=1e-5)
    of_classes = (np.log1p(np.exp(-0.5)) + np.log1p(np.exp(2.0))) / 2
    assert found.classes.item() == pytest.approx(COMPACT.classes * of_classes, rel=1e-5)
    assert found.sum.item() == pytest.approx(found.pixels.item() + found.classes.item())
