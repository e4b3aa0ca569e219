"""What travels with the weights: how a volume becomes images, and how outputs become an answer. Frozen, torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Window(NamedTuple):
    """HU from `low` to `high` are stretched over -1 to 1; outside they are clipped."""

    low_hu: float
    high_hu: float


@dataclass(frozen=True)
class Preprocessing:
    """A volume as the network sees it: one square image per slice, neighbours and windows as channels."""

    pixel_mm: float
    size: int
    """Rows and columns: `size * pixel_mm` around the skull must hold a head (ears may be cut)."""
    windows: tuple[Window, ...]
    slab_mm: float
    """Slices under 2/3 of this height are averaged over it, less what they overlap: the thickness trained on."""
    neighbour_mm: float
    """The neighbour channels are the slices nearest to this distance below and above."""

    brain_only: bool = False
    """Everything outside the skull's inside becomes air (`ml.inference.brain`), as in the paper's Atlantis exams."""
    adult_size: bool = False
    """A head that is clearly smaller than an adult's is shown as large as one (`ml.inference.head_size`)."""

    @property
    def channels(self) -> int:
        """Three slices in every window."""
        return 3 * len(self.windows)


PAPER_PREPROCESSING = Preprocessing(
    pixel_mm=0.5,
    size=512,
    windows=(Window(-10.0, 110.0),),
    slab_mm=5.0,
    neighbour_mm=5.0,
)
"""For the paper's network, as far as it is known (docs/training.md): slices about as they are stored, 512 x 512 at
0.5 mm (measured: 0.43 to 0.49), three adjacent ones as the three channels of DRN, in a window for blood in brain."""

COMPACT_PREPROCESSING = Preprocessing(
    pixel_mm=0.95,
    size=256,
    windows=(Window(-10.0, 110.0), Window(-300.0, 900.0)),
    slab_mm=5.0,
    neighbour_mm=5.0,
    adult_size=True,
)
"""A head of up to 243 mm at 0.95 mm; a window for blood in brain and one for bone, fat and air."""

PREPROCESSINGS = {"compact": COMPACT_PREPROCESSING, "paper": PAPER_PREPROCESSING}
"""By the name that `python -m ml prepare` takes."""


@dataclass(frozen=True)
class Logistic:
    """A logistic function of named features: sigmoid(bias + weights . features)."""

    weights: tuple[float, ...]
    bias: float


@dataclass(frozen=True)
class OperatingPoint:
    """Where probabilities become findings."""

    pixel_prob: float
    """A pixel at or above it is hemorrhage."""
    exam_score: float
    """An exam at or above it is positive."""
    least_lesion_ml: float
    """Smaller islands are not reported."""


@dataclass(frozen=True)
class Calibration:
    """Features of `ml.inference.scores` to probabilities."""

    slice_score: Logistic
    exam_score: Logistic


@dataclass(frozen=True)
class Provenance:
    """Where weights come from."""

    data: str
    command: str
    seed: int
    commit: str
    steps: int
