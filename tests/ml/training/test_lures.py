"""What an untrained network takes for blood is found, kept and shown to it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml.config import Preprocessing
from ml.data.shards import ExamShard, open_exam
from ml.networks.patchfcn import Logits
from ml.training.augmentation import Augmentation
from ml.training.lures import Lure, find_lures, load_lures, save_lures
from ml.training.recipe import Machine, Sampling
from ml.training.sampler import PatchBatches
from ml.training.targets import LABELS, Pool
from tests.ml.conftest import TINY_PREPROCESSING

BRIGHT_AT = (40, 20)


class TakesBrightForBlood(nn.Module):
    """Every pixel in the upper half of the first window is blood; no slice is, says its classification."""

    def forward(self, images_NCHW: Tensor) -> Logits:
        """The middle slice of the first window decides."""
        middle = images_NCHW[:, 1]
        return Logits(torch.where(middle > 0.5, 8.0, -8.0), torch.full((len(images_NCHW),), -9.0))


@pytest.fixture
def free(exams: list[ExamShard]) -> list[ExamShard]:
    """The bleed-free exams; slice 2 of the first has a bright spot."""
    free = [exam for exam in exams if not len(exam.positive_slices)]
    hu = np.array(free[0].hu)
    hu[2, BRIGHT_AT[0] - 2 : BRIGHT_AT[0] + 3, BRIGHT_AT[1] - 2 : BRIGHT_AT[1] + 3] = 100
    np.save(free[0].folder / "hu.npy", hu)
    return [open_exam(one.folder) for one in free]


def found(free: list[ExamShard], config: Preprocessing = TINY_PREPROCESSING) -> list[Lure]:
    """By the network above."""
    return find_lures(TakesBrightForBlood().train(), free, config, machine=Machine(loader_workers=0))


def test_the_slice_and_the_place_are_found(free: list[ExamShard]) -> None:
    """One slice of one exam, at its bright spot, weighing its pixels."""
    (lure,) = found(free)
    assert (lure.exam, lure.index) == (free[0].folder.name, 2)
    assert abs(lure.v - BRIGHT_AT[0]) <= 2
    assert abs(lure.u - BRIGHT_AT[1]) <= 2
    assert lure.weight == pytest.approx(25, abs=0.5)


def test_lures_are_kept_whole(tmp_path: Path) -> None:
    """A round that is resumed sees the lures of its first start."""
    lures = [Lure(exam="000003", index=1, v=5, u=6, weight=2.5)]
    save_lures(tmp_path / "lures.json", lures)
    assert load_lures(tmp_path / "lures.json") == lures


def test_half_of_the_patches_without_blood_show_lures(exams: list[ExamShard], free: list[ExamShard]) -> None:
    """The bright spot of one slice of sixteen is in about half of them, and in few of them before."""

    def share(lures: list[Lure]) -> float:
        batches = PatchBatches(
            [Pool([*[exam for exam in exams if len(exam.positive_slices)], *free], LABELS)],
            TINY_PREPROCESSING,
            sampling=Sampling(batch=8, patch=32, positive=0.0, bleed_free=1.0),
            augmentation=Augmentation(),
            seed=1,
            steps=30,
        )
        batches.look_at(lures)
        bright = [(batches[step][0].hu[:, 1] > 80).sum(dim=(1, 2)) > 4 for step in range(30)]
        return float(torch.cat(bright).float().mean())

    assert share([]) < 0.3
    assert share(found(free)) > share([]) + 0.2


def test_an_exam_that_is_there_twice_is_drawn_twice_as_often(exams: list[ExamShard], free: list[ExamShard]) -> None:
    """Among exams and among lures; it is looked through once."""
    bleeding = [exam for exam in exams if len(exam.positive_slices)]
    batches = PatchBatches(
        [Pool([*bleeding, free[0], free[0], free[0], free[1]], LABELS)],
        TINY_PREPROCESSING,
        sampling=Sampling(batch=8, patch=32, positive=0.0, bleed_free=1.0),
        augmentation=Augmentation(),
        seed=1,
        steps=1,
    )
    assert [exam.exam for exam in batches.bleed_free] == [exam.exam for exam in free]
    drawer, rng = batches.drawers[0], np.random.default_rng(0)

    def share() -> float:
        drawn = [drawer.draw(rng, turn, around_blood=False).exam for turn in range(1000)]
        return float(np.mean([exam.exam == free[0].exam for exam in drawn]))

    assert share() == pytest.approx(0.75, abs=0.05)
    batches.look_at([Lure(one.folder.name, index=1, v=5, u=6, weight=2.0) for one in free])
    assert share() == pytest.approx(0.75, abs=0.05)
    drawn = [drawer.draw(rng, turn, around_blood=False) for turn in range(1000)]
    lured = [choice.exam.exam == free[0].exam for choice in drawn if choice.spot is not None]
    assert np.mean(lured) == pytest.approx(0.75, abs=0.06)
