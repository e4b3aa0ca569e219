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
from ml.training.lures import Lure
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
    lures: float = 0.5
    """Share of those others that show a lure, where lures are known."""


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
        self.by_name = {exam.folder.name: exam for exam in exams}
        self.lures: list[Lure] = []
        self.reach = np.zeros(0)
        self.bleeding = [exam for exam in exams if len(exam.positive_slices)]
        self.bleed_free = [exam for exam in exams if not len(exam.positive_slices)]
        if not self.bleeding or not self.bleed_free:
            raise ValueError("training needs exams with and without blood")

    def look_at(self, lures: Sequence[Lure]) -> None:
        """From now on show these lures, each as often as it weighs."""
        self.lures = list(lures)
        self.reach = np.cumsum([lure.weight for lure in lures])

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
        jitter = rng.uniform(-0.35, 0.35, size=2) * self.sampling.patch
        if around_blood:
            exam = self.bleeding[rng.integers(len(self.bleeding))]
            below, middle, above = exam.neighbours[int(rng.choice(exam.positive_slices))]
            spots = np.argwhere(exam.blood[middle])
            centre = spots[rng.integers(len(spots))] + jitter
        elif self.lures and rng.random() < self.sampling.lures:
            drawn = min(int(np.searchsorted(self.reach, rng.uniform(0, self.reach[-1]))), len(self.lures) - 1)
            lure = self.lures[drawn]
            exam = self.by_name[lure.exam]
            below, middle, above = exam.neighbours[lure.index]
            centre = np.array([lure.v, lure.u]) + jitter
        else:
            exams = self.bleed_free if rng.random() < self.sampling.bleed_free else self.bleeding
            exam = exams[rng.integers(len(exams))]
            below, middle, above = exam.neighbours[rng.integers(len(exam.neighbours))]
            spots = np.argwhere(exam.hu[middle, ::8, ::8] > TISSUE_HU) * 8
            if not len(spots):
                spots = np.array([[self.config.size // 2, self.config.size // 2]])
            centre = spots[rng.integers(len(spots))]
        stack = np.stack([exam.hu[below], exam.hu[middle], exam.hu[above]]).astype(np.float32)
        hu, target = augment(
            stack, exam.blood[middle], (centre[0], centre[1]), self.sampling.patch, self.augmentation, rng
        )
        return to_channels(hu[None], self.config)[0], target


__all__ = ["IGNORE", "Batch", "PatchBatches", "Sampling"]
