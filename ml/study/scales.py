"""How large a study is. The design is the same at every scale; what differs is how many exams, pixels and steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ml.config import COMPACT_PREPROCESSING, PAPER_PREPROCESSING, Preprocessing
from ml.networks.drn import DrnConfig, Level
from ml.networks.patchfcn import PAPER, PatchFcnConfig
from ml.training.recipe import COMPACT_RECIPE, PAPER_AUGMENTATION, PAPER_RECIPE, Recipe, Sampling


@dataclass(frozen=True)
class Scale:
    """Of every part half of the exams have blood; RSNA has 40.8 % such exams, CQ500 41.8 %."""

    name: str
    sentence: str
    """For the head of every table."""
    matrix: int
    """Rows and columns of the simulated scans."""
    labelled: int
    """Exams of institution A with pixel labels; Atlantis has 457."""
    corpus: int
    """Exams of institution B without; Kaggle-25K has 25,000."""
    validation: int
    """Exams of neither; the paper has 93."""
    test: int
    """Other exams of B; CQ500 has 481."""
    in_distribution: int
    """Other exams of A; the paper has none."""
    network: PatchFcnConfig
    preprocessing: Preprocessing
    recipe: Recipe
    steps: int | None
    """Of every training; None: the recipe's epochs."""


SMALL_NETWORK = PatchFcnConfig(
    trunk=DrnConfig(
        in_channels=6,
        stem_channels=12,
        stem_kernel=5,
        stem_stride=2,
        levels=(
            Level("conv", 16, 1),
            Level("residual", 32, 1, stride=2),
            Level("residual", 48, 1, stride=2),
            Level("residual", 64, 1, dilation=2),
            Level("conv", 64, 1),
        ),
    ),
    class_pooling="smooth-max",
    fine_levels=(2, 1),
    fine_channels=(32, 16),
)
"""The compact network with a quarter of its weights."""

SMALL = Scale(
    name="small",
    sentence=(
        "Simulated head CTs at a small scale, for two CPU cores: 60 labelled exams of institution A, 160 unlabelled "
        "ones of B, a network of 0.2 million weights. No statement on clinical accuracy."
    ),
    matrix=256,
    labelled=60,
    corpus=160,
    validation=40,
    test=60,
    in_distribution=30,
    network=SMALL_NETWORK,
    preprocessing=replace(COMPACT_PREPROCESSING, pixel_mm=1.4, size=176),
    recipe=replace(
        COMPACT_RECIPE,
        name="small",
        sampling=Sampling(batch=16, patch=112, positive=0.5, bleed_free=0.6),
        augmentation=PAPER_AUGMENTATION,
    ),
    steps=2500,
)
"""Contrast and scale are varied as in the paper and nothing else is, so that institutions stay apart. Optimiser, losses
and sampling are those of the compact bundle, because 600 epochs of the paper's recipe take weeks on two cores."""

MEDIUM = replace(
    SMALL,
    name="medium",
    sentence=(
        "Simulated head CTs at a medium scale, for one GPU: 120 labelled exams of institution A, 400 unlabelled ones "
        "of B, a network of 0.2 million weights. No statement on clinical accuracy."
    ),
    labelled=120,
    corpus=400,
    validation=60,
    test=200,
    in_distribution=60,
    steps=10_000,
)
"""What the small scale cannot tell: models that are trained until further steps gain little, and enough test exams to
see a difference of some hundredths of exam AUC."""

PAPER_SCALE = Scale(
    name="paper",
    sentence=(
        "Simulated head CTs at the paper's scale: 457 labelled exams of institution A, 25,000 unlabelled ones of B, "
        "DRN-D-38, 600 epochs. No statement on clinical accuracy."
    ),
    matrix=512,
    labelled=457,
    corpus=25_000,
    validation=93,
    test=481,
    in_distribution=100,
    network=PAPER,
    preprocessing=PAPER_PREPROCESSING,
    recipe=PAPER_RECIPE,
    steps=None,
)

SCALES = {scale.name: scale for scale in (SMALL, MEDIUM, PAPER_SCALE)}
