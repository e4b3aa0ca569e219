"""The trunk is the published one, to the last parameter."""

import pytest
import torch
from torch import nn

from ml.networks.drn import DRN_D_22, DRN_D_38, Drn, DrnClassifier, DrnConfig, Level


def parameters(network: nn.Module) -> int:
    """Trained numbers in a network."""
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("config", "count"), [(DRN_D_22, 16_393_752), (DRN_D_38, 26_501_912)])
def test_the_classifiers_have_the_published_number_of_parameters(config: DrnConfig, count: int) -> None:
    """DRN's README says 16.4 M for D-22 and 26.5 M for D-38, with 1000 classes."""
    assert parameters(DrnClassifier(config)) == count


def test_the_trunk_of_d_38_has_25_988_912_parameters() -> None:
    """Without the 1000-class layer, as PatchFCN uses it."""
    assert parameters(Drn(DRN_D_38)) == 25_988_912


def test_d_38_has_the_published_strides_and_dilations() -> None:
    """Output stride 8, 512 features, no max-pool, dilations 2, 4, 2, 1 in the last four levels."""
    trunk = Drn(DRN_D_38)
    assert (DRN_D_38.output_stride, DRN_D_38.out_channels) == (8, 512)
    assert not [module for module in trunk.modules() if isinstance(module, nn.MaxPool2d)]
    dilations = [
        {
            module.dilation[0]
            for module in level.modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size[0] == 3
        }
        for level in trunk.levels
    ]
    assert dilations == [{1}, {1}, {1}, {1}, {2}, {4}, {2}, {1}]


def test_pyramid_gives_every_level_at_its_stride() -> None:
    """The stem first; the last entry is what forward returns."""
    config = DrnConfig(3, 4, 3, 2, (Level("conv", 16, 1), Level("residual", 6, 1, stride=2)))
    trunk = Drn(config).eval()
    images = torch.randn(2, 3, 16, 24)
    pyramid = trunk.pyramid(images)
    assert [tuple(one.shape) for one in pyramid] == [(2, 4, 8, 12), (2, 16, 8, 12), (2, 6, 4, 6)]
    assert torch.equal(pyramid[-1], trunk(images))


def test_a_stride_on_few_channels_is_refused() -> None:
    """Its backward pass would write past its memory, and the process would die much later, somewhere else."""
    with pytest.raises(ValueError, match="needs 16 input channels, not 15"):
        Drn(DrnConfig(3, 15, 3, 1, (Level("residual", 32, 1, stride=2),)))


def test_the_classifier_gives_one_logit_per_class() -> None:
    """Any image size goes in."""
    config = DrnConfig(1, 2, 3, 1, (Level("conv", 3, 1),))
    assert DrnClassifier(config, classes=7).eval()(torch.zeros(2, 1, 9, 11)).shape == (2, 7)
