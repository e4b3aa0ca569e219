"""Which patches a step is made of. Every patch is a function of (seed, step, place in the batch): a run that
resumes at a step sees what it would have seen, whatever the number of loader processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ml.config import Preprocessing
from ml.inference.preprocessing import to_channels
from ml.training.augmentation import IGNORE, Augmentation, augment
from ml.training.shards import ExamShard

TISSUE_HU = -200


class Batch(NamedTuple):
    """Patches and their labels."""

    images: Tensor
    """(N, C, H, W) float32."""
    pixels: Tensor
    """(N, H, W) uint8: 0, 1 or IGNORE."""
    classes: Tensor
    """(N,) float32: 1 where any pixel is positive (paper section 2.2)."""


@dataclass(frozen=True)
class Sampling:
    """The mix of a batch."""

    batch: int = 16
    patch: int = 160
    positive: float = 0.5
    """Share of patches drawn around blood; the others come from any place of any exam, mostly bleed-free ones."""
    bleed_free: float = 0.6
    """Share of those others that come from exams without blood."""


class PatchBatches(Dataset[Batch]):
    """Item `i` is the batch of step `i`."""

    def __init__(
        self,
        exams: Sequence[ExamShard],
        config: Preprocessing,
        *,
        sampling: Sampling,
        augmentation: Augmentation,
        seed: int,
        steps: int,
    ) -> None:
        self.config, self.sampling, self.augmentation = config, sampling, augmentation
        self.seed, self.steps = seed, steps
        self.bleeding = [exam for exam in exams if len(exam.positive_slices)]
        self.bleed_free = [exam for exam in exams if not len(exam.positive_slices)]
        if not self.bleeding or not self.bleed_free:
            raise ValueError("training needs exams with and without blood")

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        patches = [
            self._patch(np.random.default_rng((self.seed, step, place)), place) for place in range(self.sampling.batch)
        ]
        images, pixels = (np.stack(part) for part in zip(*patches, strict=True))
        positive = (pixels == 1).any(axis=(1, 2)).astype(np.float32)
        return Batch(torch.from_numpy(images), torch.from_numpy(pixels), torch.from_numpy(positive))

    def _patch(self, rng: np.random.Generator, place: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """(C, H, W) and (H, W)."""
        around_blood = place < round(self.sampling.batch * self.sampling.positive)
        free = not around_blood and rng.random() < self.sampling.bleed_free
        exams = self.bleed_free if free else self.bleeding
        exam = exams[rng.integers(len(exams))]
        if around_blood:
            index = int(rng.choice(exam.positive_slices))
            below, middle, above = exam.neighbours[index]
            spots = np.argwhere(exam.blood[middle])
        else:
            below, middle, above = exam.neighbours[rng.integers(len(exam.neighbours))]
            spots = np.argwhere(exam.hu[middle, ::8, ::8] > TISSUE_HU) * 8
            if not len(spots):
                spots = np.array([[self.config.size // 2, self.config.size // 2]])
        jitter = rng.uniform(-0.35, 0.35, size=2) * self.sampling.patch
        centre = spots[rng.integers(len(spots))] + (jitter if around_blood else 0)
        stack = np.stack([exam.hu[below], exam.hu[middle], exam.hu[above]]).astype(np.float32)
        hu, target = augment(
            stack, exam.blood[middle], (centre[0], centre[1]), self.sampling.patch, self.augmentation, rng
        )
        return to_channels(hu[None], self.config)[0], target


__all__ = ["IGNORE", "Batch", "PatchBatches", "Sampling"]
