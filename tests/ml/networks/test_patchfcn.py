"""Two branches on one trunk, patches or whole slices."""

import pytest
import torch
from torch.nn import functional

from ml.networks.drn import Drn, DrnConfig, Level
from ml.networks.patchfcn import COMPACT, PAPER, BilinearUpsampling, PatchFcn, PatchFcnConfig

TRUNK = DrnConfig(2, 4, 3, 1, (Level("conv", 16, 1, stride=2), Level("residual", 6, 1, stride=2, dilation=2)))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_upsampling_equals_bilinear_interpolation_and_is_not_trained(factor: int) -> None:
    """Fixed weights: nothing to learn, nothing in the state dict."""
    upsampling = BilinearUpsampling(factor, 3)
    x = torch.randn(2, 3, 5, 7)
    wanted = functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert torch.allclose(upsampling(x), wanted, atol=1e-5)
    assert not list(upsampling.parameters())
    assert not upsampling.state_dict()


@pytest.mark.parametrize("config", [PAPER, COMPACT])
def test_branches_have_the_shapes_of_the_input(config: PatchFcnConfig) -> None:
    """A pixel logit for every input pixel, a class logit for every patch."""
    network = PatchFcn(config).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(2, config.trunk.in_channels, 64, 32))
    assert logits.pixels.shape == (2, 64, 32)
    assert logits.classes.shape == (2,)


def test_the_papers_network_is_the_trunk_and_two_1x1_convolutions() -> None:
    """513 parameters for each branch on top of DRN-D-38's trunk."""
    branches = sum(one.numel() for one in PatchFcn(PAPER).parameters()) - sum(
        one.numel() for one in Drn(PAPER.trunk).parameters()
    )
    assert branches == 2 * (512 + 1)


def test_a_fresh_network_expects_few_bleeding_pixels() -> None:
    """The segmentation bias starts at the prior, so the first steps are calm."""
    network = PatchFcn(PatchFcnConfig(TRUNK)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 2, 8, 8)).pixels.sigmoid().max() == pytest.approx(0.01, abs=1e-4)


def test_smooth_max_pooling_does_not_depend_on_the_patch_size() -> None:
    """One bright spot gives the same class logit in a patch and in a whole slice; a mean would dilute it."""
    network = PatchFcn(PatchFcnConfig(TRUNK, class_pooling="smooth-max"))
    evidence = torch.full((1, 6, 4, 4), -20.0)
    evidence[0, :, 1, 1] = 2.0
    torch.nn.init.constant_(network.class_score.weight, 1.0)
    small = network._classify(evidence)
    large = network._classify(functional.pad(evidence, (0, 12, 0, 12), value=-20.0))
    assert small.item() == pytest.approx(large.item(), abs=1e-6)


def test_every_parameter_of_the_compact_network_gets_a_gradient() -> None:
    """No branch is left out of training."""
    network = PatchFcn(COMPACT).train()
    logits = network(torch.randn(2, COMPACT.trunk.in_channels, 32, 32))
    (logits.pixels.mean() + logits.classes.mean()).backward()
    assert [name for name, one in network.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0] == []
