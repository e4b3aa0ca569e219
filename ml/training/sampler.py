"""Which patches a step is made of. Every patch is a function of (seed, step, place in the batch): a run that
resumes at a step sees what it would have seen, whatever the number of loader processes and devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ml.config import Preprocessing
from ml.data.shards import TISSUE_HU, ExamShard
from ml.errors import DataError
from ml.training.augmentation import Augmentation, augment, draw_intensity
from ml.training.intensity import Intensity, change_intensity
from ml.training.lures import Lure
from ml.training.recipe import Sampling
from ml.training.targets import Indices, Pool

F32Array = npt.NDArray[np.float32]
I16Array = npt.NDArray[np.int16]
U8Array = npt.NDArray[np.uint8]
Place = npt.NDArray[np.float64]
Patch = tuple[F32Array, Intensity[float], U8Array, float]
"""(3, H, W) HU and what is to be done to it, (H, W) target, class label."""


class Batch(NamedTuple):
    """Patches of one size and their labels."""

    hu: Tensor
    """(N, 3, H, W) float16 HU of the slice below, the slice itself and the one above: a quarter of the bytes of the
    network's images, which are made where the network is (`to_images`). Rounds 100 HU by 0.03."""
    intensity: Tensor
    """(N, K) float32: the Intensity of every patch, which is still to be applied."""
    pixels: Tensor
    """(N, H, W) uint8: 0, 1 or IGNORE."""
    classes: Tensor
    """(N,) float32: 1 where any pixel is positive (paper section 2.2), or the label of the whole image."""


def to_images(batch: Batch, config: Preprocessing) -> Tensor:
    """(N, C, H, W) float32, windows outermost, values in -1 to 1: intensity, then `preprocessing.to_channels`, on the
    device of the batch.
    """
    hu = change_intensity(batch.hu, batch.intensity)
    channels = [
        (hu.clamp(window.low_hu, window.high_hu) - window.low_hu) * (2 / (window.high_hu - window.low_hu)) - 1
        for window in config.windows
    ]
    return torch.cat(channels, dim=1)


Step = tuple[Batch, ...]
"""The patches of one step: one batch, or two where one pool gives whole images. Of several processes each has as many,
some of them empty perhaps: batch norms exchange their sums batch by batch."""


class PatchBatches(Dataset[Step]):
    """Item `i` holds the patches of step `i`: those of the first pool, then those of the second."""

    def __init__(
        self,
        pools: Sequence[Pool],
        config: Preprocessing,
        *,
        sampling: Sampling,
        augmentation: Augmentation,
        seed: int,
        steps: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """`part` (r, n): the places r, r + n, ... of every batch, for process r of n.

        Raises DataError where a pool lacks what the sampling asks for.
        """
        self.config, self.sampling, self.augmentation = config, sampling, augmentation
        self.seed, self.steps, self.part = seed, steps, part
        if len(pools) not in (1, 2):
            raise ValueError(f"a batch is drawn from one or two pools, not {len(pools)}")
        self.drawers = [_Drawer(pool, number, sampling, seed) for number, pool in enumerate(pools)]
        first = self.drawers[0]
        if sampling.bleed_free is not None and not (first.bleeding and first.bleed_free):
            raise DataError("training needs exams with and without blood")

    @property
    def bleed_free(self) -> list[ExamShard]:
        """The exams without blood of the first pool, each once."""
        exams = [self.drawers[0].pool.exams[number] for number in self.drawers[0].bleed_free]
        return list({exam.folder: exam for exam in exams}.values())

    def look_at(self, lures: Sequence[Lure]) -> None:
        """From now on show these lures of the first pool, each as often as it weighs and its exam is in the pool."""
        self.drawers[0].look_at(lures)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Step:
        rank, ranks = self.part
        sizes: dict[int, list[Patch]] = {}
        place = 0
        for drawer, (first, count) in zip(self.drawers, self.shares(step), strict=True):
            for number in range(count):
                patches = sizes.setdefault(self._size(drawer), [])
                if place % ranks == rank:
                    rng = np.random.default_rng((self.seed, step, place))
                    patches.append(self._patch(drawer, rng, number, count, first))
                place += 1
        return tuple(_stack(patches, size) for size, patches in sizes.items())

    def shares(self, step: int) -> list[tuple[int, int]]:
        """(patches drawn before this step, patches of this step) of every pool.

        16 patches at 0.6 are 9.6: steps have 9 or 10, so that any number of steps has its share to the nearest patch.
        """
        batch = self.sampling.batch
        if len(self.drawers) == 1:
            return [(step * batch, batch)]
        before, after = (round(one * batch * self.sampling.labelled_share) for one in (step, step + 1))
        return [(before, after - before), (step * batch - before, batch - (after - before))]

    def _size(self, drawer: _Drawer) -> int:
        """Rows and columns of the drawer's patches."""
        return self.config.size if drawer.pool.whole else self.sampling.patch

    def _patch(self, drawer: _Drawer, rng: np.random.Generator, number: int, count: int, first: int) -> Patch:
        jitter = rng.uniform(-0.35, 0.35, size=2) * self.sampling.patch
        around_blood = number < round(count * self.sampling.positive)
        choice = drawer.draw(rng, first + number, around_blood=around_blood)
        exam, targets = choice.exam, drawer.pool.targets
        slices = [exam.hu[index] for index in exam.neighbours[choice.row]]
        target = targets.pixels(exam, choice.row)
        size = self._size(drawer)
        if drawer.pool.whole:
            centre = np.full(2, (size - 1) / 2)
        else:
            centre = self._centre(choice, slices[1], target, jitter, rng)
        hu, pixels = augment(slices, target, (centre[0], centre[1]), size, self.augmentation, rng)
        label = targets.image_label(exam, choice.row)
        positive = float((pixels == 1).any()) if label is None else label
        return hu, draw_intensity(self.augmentation, rng), pixels, positive

    def _centre(
        self, choice: Choice, hu_vu: I16Array, target_vu: U8Array, jitter: Place, rng: np.random.Generator
    ) -> Place:
        """Of a patch, as (v, u): at its lure, around blood, anywhere in the image, or anywhere in the head."""
        size = self.config.size
        if choice.spot is not None:
            return np.asarray(np.array(choice.spot) + jitter, dtype=np.float64)
        if self.sampling.bleed_free is None and not choice.around_blood:  # the RandomCrop of fyu/drn
            half = min(self.sampling.patch, size) / 2
            v, u = rng.uniform(half, size - half, size=2)
            return np.array([v, u])
        step = 1 if choice.around_blood else 8
        shown = target_vu == 1 if choice.around_blood else hu_vu[::step, ::step] > TISSUE_HU
        spots = np.flatnonzero(shown)
        middle = (shown.shape[0] // 2, shown.shape[1] // 2)
        spot = divmod(int(spots[rng.integers(len(spots))]), shown.shape[1]) if len(spots) else middle
        centre = step * np.array(spot, dtype=np.float64)
        return np.asarray(centre + jitter if choice.around_blood else centre, dtype=np.float64)


class Choice(NamedTuple):
    """A slice to show."""

    exam: ExamShard
    row: int
    """Of the exam's `neighbours`."""
    around_blood: bool = False
    spot: tuple[int, int] | None = None
    """Where to look at it, as (v, u)."""


class _Drawer:
    """Chooses slices of one pool."""

    def __init__(self, pool: Pool, number: int, sampling: Sampling, seed: int) -> None:
        self.pool, self.sampling, self.seed = pool, sampling, (seed, number)
        needs_kinds = sampling.positive > 0 or sampling.bleed_free is not None
        positive = [pool.targets.positive_slices(exam) for exam in pool.exams] if needs_kinds else []
        self.bleeding = [number for number, slices in enumerate(positive) if len(slices)]
        self.bleed_free = [number for number, slices in enumerate(positive) if not len(slices)]
        self.positive = positive
        self.slices = pool.slices()
        if not len(self.slices[0]):
            raise DataError("there is no slice to learn from: none of the exams has labels that this model uses")
        self._starts = np.searchsorted(self.slices[0], np.arange(len(pool.exams) + 1))
        used = np.flatnonzero(np.diff(self._starts)).tolist()
        kinds = (self.bleed_free, self.bleeding)
        self._kinds = [sorted({*kind} & {*used}) or used for kind in kinds]
        self._by_name = {exam.folder.name: exam for exam in pool.exams}
        self.look_at(())

    def look_at(self, lures: Sequence[Lure]) -> None:
        """See PatchBatches."""
        self._lures = list(lures)
        times = Counter(exam.folder.name for exam in self.pool.exams)
        self._reach = np.cumsum([lure.weight * times[lure.exam] for lure in lures])

    def draw(self, rng: np.random.Generator, turn: int, *, around_blood: bool) -> Choice:
        """`turn` counts the draws from this pool."""
        if around_blood and self.bleeding:
            which = self.bleeding[rng.integers(len(self.bleeding))]
            return Choice(self.pool.exams[which], int(rng.choice(self.positive[which])), around_blood=True)
        if self._lures and rng.random() < self.sampling.lures:
            drawn = int(np.searchsorted(self._reach, rng.uniform(0, self._reach[-1])))
            lure = self._lures[min(drawn, len(self._lures) - 1)]
            return Choice(self._by_name[lure.exam], lure.index, spot=(lure.v, lure.u))
        if self.sampling.bleed_free is None:
            number = self._order(turn // len(self.slices[0]))[turn % len(self.slices[0])]
            which, index = (int(one[number]) for one in self.slices)
            return Choice(self.pool.exams[which], index)
        kind = self._kinds[0 if rng.random() < self.sampling.bleed_free else 1]
        which = kind[rng.integers(len(kind))]
        first, last = self._starts[which], self._starts[which + 1]
        return Choice(self.pool.exams[which], int(self.slices[1][rng.integers(first, last)]))

    def _order(self, epoch: int) -> Indices:
        """The slices of one epoch, each once."""
        return _shuffled((*self.seed, epoch), len(self.slices[0]))


@lru_cache(maxsize=4)
def _shuffled(seed: tuple[int, ...], count: int) -> Indices:
    return np.random.default_rng(seed).permutation(count)


def _stack(patches: list[Patch], size: int) -> Batch:
    count = len(patches)
    batch = Batch(
        torch.empty((count, 3, size, size), dtype=torch.float16),
        torch.tensor([intensity for _, intensity, _, _ in patches]).reshape(count, len(Intensity._fields)),
        torch.empty((count, size, size), dtype=torch.uint8),
        torch.tensor([label for *_, label in patches], dtype=torch.float32),
    )
    for place, (hu, _, pixels, _) in enumerate(patches):
        batch.hu[place].copy_(torch.from_numpy(hu))
        batch.pixels[place].copy_(torch.from_numpy(pixels))
    return batch
