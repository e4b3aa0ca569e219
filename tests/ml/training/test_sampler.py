"""Batches are what their seed, step and mix say."""

import numpy as np
import pytest
import torch

from ml.training.augmentation import IGNORE, Augmentation, augment, change_contrast
from ml.training.sampler import PatchBatches, Sampling
from ml.training.shards import ExamShard
from tests.ml.conftest import TINY_PREPROCESSING

SAMPLING = Sampling(batch=8, patch=32)


def batches(exams: list[ExamShard], *, seed: int = 0) -> PatchBatches:
    """Four steps of eight small patches."""
    return PatchBatches(exams, TINY_PREPROCESSING, sampling=SAMPLING, augmentation=Augmentation(), seed=seed, steps=4)


def test_a_batch_has_the_stated_shapes_and_values(exams: list[ExamShard]) -> None:
    """Channels of two windows in -1 to 1; targets 0, 1 and ignore."""
    batch = batches(exams)[0]
    assert batch.images.shape == (8, 6, 32, 32)
    assert batch.images.abs().max() <= 1
    assert set(batch.pixels.flatten().tolist()) <= {0, 1, IGNORE}


def test_the_patch_label_says_whether_any_pixel_is_positive(exams: list[ExamShard]) -> None:
    """Paper, section 2.2; the first half of a batch is drawn around blood."""
    for step in range(4):
        batch = batches(exams)[step]
        assert torch.equal(batch.classes, (batch.pixels == 1).any(dim=2).any(dim=1).float())
    assert torch.stack([batches(exams)[step].classes[:4] for step in range(4)]).mean() > 0.7


def test_a_step_is_the_same_whenever_it_is_drawn(exams: list[ExamShard]) -> None:
    """So a resumed run sees what it would have seen; another seed sees something else."""
    one, two = batches(exams)[2], batches(exams)[2]
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, batches(exams)[3].images)
    assert not torch.equal(one.images, batches(exams, seed=1)[2].images)


def test_training_needs_exams_of_both_kinds(exams: list[ExamShard]) -> None:
    """Said at the start, not by a crash at some step."""
    with pytest.raises(ValueError, match="with and without"):
        batches(exams[::2])


def test_blood_stays_on_blood_through_every_warp() -> None:
    """Image and target move together; what lies outside the source is air and ignored."""
    hu = np.full((3, 64, 64), 30, dtype=np.float32)
    blood = np.zeros((64, 64), dtype=np.uint8)
    blood[20:40, 24:36] = 1
    hu[:, blood == 1] = 90
    calm = Augmentation(blur_probability=0, sharpen_probability=0, noise_probability=0, offset_hu=0, gain=(1, 1))
    for seed in range(20):
        patch, target = augment(hu, blood, (30, 30), 48, calm, np.random.default_rng(seed))
        bright = patch[1] > 62
        agreement = (bright == (target == 1))[target != IGNORE].mean()
        assert agreement > 0.96
        assert np.all(patch[1][target == IGNORE] < 29.9)


def test_contrast_rules_keep_the_order_of_tissues() -> None:
    """Air below brain below blood below bone, in all three thirds."""
    hu = np.array([-1000.0, 0.0, 30.0, 70.0, 300.0], dtype=np.float32).reshape(1, 1, 5)
    changed = [change_contrast(hu, Augmentation(), np.random.default_rng(seed)).ravel() for seed in range(30)]
    assert all(np.all(np.diff(one) > 0) for one in changed)
    assert np.std([one[2] for one in changed]) > 1
