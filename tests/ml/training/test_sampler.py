"""Batches are what their seed, step and mix say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.data.shards import ExamShard
from ml.errors import DataError
from ml.inference.preprocessing import to_channels
from ml.labels import IGNORE, unknown
from ml.training.augmentation import Augmentation
from ml.training.intensity import CALM, change_intensity
from ml.training.recipe import PAPER_AUGMENTATION, Sampling
from ml.training.sampler import Batch, Choice, PatchBatches, to_images
from ml.training.targets import LABELS, ImageLabels, Pool
from tests.ml.conftest import TINY_PREPROCESSING

SAMPLING = Sampling(batch=8, patch=32)


PAPER_LIKE = Sampling(batch=16, patch=32, labelled_share=0.6, positive=0.0, bleed_free=None)


def batches(exams: list[ExamShard], *, seed: int = 0) -> list[Batch]:
    """Four steps of eight small patches."""
    drawn = draw([Pool(exams, LABELS)], SAMPLING, seed=seed, steps=4)
    return [batch for step in range(4) for batch in drawn[step]]


def draw(
    pools: list[Pool], sampling: Sampling, *, seed: int = 0, steps: int = 10, part: tuple[int, int] = (0, 1)
) -> PatchBatches:
    """Batches of these pools."""
    return PatchBatches(
        pools, TINY_PREPROCESSING, sampling=sampling, augmentation=Augmentation(), seed=seed, steps=steps, part=part
    )


def test_a_batch_has_the_stated_shapes_and_values(exams: list[ExamShard]) -> None:
    """HU of three slices; targets 0, 1 and ignore."""
    batch = batches(exams)[0]
    assert batch.hu.shape == (8, 3, 32, 32)
    assert set(batch.pixels.flatten().tolist()) <= {0, 1, IGNORE}


def test_a_patch_shows_the_slice_between_its_neighbours(exams: list[ExamShard]) -> None:
    """From below upwards, as `Predictor` shows them; here nothing is changed in it."""
    for exam in exams:
        np.save(exam.folder / "hu.npy", exam.hu + 9 * np.arange(len(exam.hu), dtype=np.int16)[:, None, None])
    drawn = PatchBatches(
        [Pool(exams, ImageLabels(), whole=True)],
        TINY_PREPROCESSING,
        sampling=PAPER_LIKE,
        augmentation=replace(PAPER_AUGMENTATION, scale=(1.0, 1.0), mirror=0.0, contrasts=("none",)),
        seed=0,
        steps=1,
    )
    known = [exam.hu[index] for exam in exams for index in exam.neighbours]
    for patch in drawn[0][0].hu.float().numpy():
        assert min(np.abs(patch - one).max() for one in known) < 0.6  # in half precision, 1000 HU are 0.5 apart


def test_the_network_sees_in_training_what_it_sees_at_work(exams: list[ExamShard]) -> None:
    """Windows of half-precision HU, and those of `Predictor`: within a tenth of a HU of the brain's window."""
    batch = batches(exams)[0]
    images = to_images(batch, TINY_PREPROCESSING)
    assert images.shape == (8, TINY_PREPROCESSING.channels, 32, 32)
    assert images.abs().max() <= 1
    changed = change_intensity(batch.hu, batch.intensity).numpy()
    assert np.abs(changed - batch.hu.float().numpy()).max() > 1
    np.testing.assert_allclose(images.numpy(), to_channels(changed, TINY_PREPROCESSING), atol=1e-6)
    hu = np.linspace(-10, 110, 3 * 64, dtype=np.float32).reshape(1, 3, 8, 8)
    rounded = to_images(
        batch._replace(hu=torch.from_numpy(hu.astype(np.float16)), intensity=torch.tensor([CALM])), TINY_PREPROCESSING
    )
    assert np.abs(rounded.numpy() - to_channels(hu, TINY_PREPROCESSING)).max() * 60 < 0.1


def test_the_patch_label_says_whether_any_pixel_is_positive(exams: list[ExamShard]) -> None:
    """Paper, section 2.2; the first half of a batch is drawn around blood."""
    for step in range(4):
        batch = batches(exams)[step]
        assert torch.equal(batch.classes, (batch.pixels == 1).any(dim=2).any(dim=1).float())
    assert torch.stack([batches(exams)[step].classes[:4] for step in range(4)]).mean() > 0.7
    drawn = draw([Pool(exams, LABELS)], PAPER_LIKE)  # a patch beside the blood of its slice among them
    for (batch,) in (drawn[step] for step in range(5)):
        assert torch.equal(batch.classes, (batch.pixels == 1).any(dim=2).any(dim=1).float())


def test_a_step_is_the_same_whenever_it_is_drawn(exams: list[ExamShard]) -> None:
    """So a resumed run sees what it would have seen; another seed sees something else."""
    one, two = batches(exams)[2], batches(exams)[2]
    assert torch.equal(one.hu, two.hu)
    assert not torch.equal(one.hu, batches(exams)[3].hu)
    assert not torch.equal(one.hu, batches(exams, seed=1)[2].hu)


def test_every_minibatch_is_mixed_as_the_paper_says(exams: list[ExamShard]) -> None:
    """0.6 of 16 patches are 9.6: 9 or 10 of every batch from the labelled pool, and 0.6 of all of them."""
    drawn = draw([Pool(exams[:2], LABELS), Pool(exams[2:], LABELS)], PAPER_LIKE, steps=1000)
    shares = [drawn.shares(step) for step in range(1000)]
    assert all([count for _, count in one] in ([9, 7], [10, 6]) for one in shares)
    assert sum(one[0][1] for one in shares) == 9600
    assert all(one[0][0] == sum(earlier[0][1] for earlier in shares[:step]) for step, one in enumerate(shares[:50]))


def test_the_second_pool_gives_its_patches(exams: list[ExamShard]) -> None:
    """Of every batch, behind those of the labelled pool: here the only ones with blood."""
    drawn = draw([Pool(exams[1::2], LABELS), Pool(exams[::2], LABELS)], PAPER_LIKE)
    for step in range(10):
        (batch,) = drawn[step]
        assert not batch.classes[: drawn.shares(step)[0][1]].any()
    assert torch.cat([drawn[step][0].classes for step in range(10)]).any()


def test_an_epoch_shows_every_slice_once(exams: list[ExamShard]) -> None:
    """4 exams of 4 slices are the 16 patches of one step, in another order in the next."""
    drawer = draw([Pool(exams, LABELS)], PAPER_LIKE).drawers[0]
    rng = np.random.default_rng(0)
    epochs = [[drawer.draw(rng, 16 * epoch + turn, around_blood=False) for turn in range(16)] for epoch in range(2)]
    named = [[(exam.exam, index) for exam, index, *_ in epoch] for epoch in epochs]
    assert all(len(set(epoch)) == 16 for epoch in named)
    assert named[0] != named[1]


def test_steps_go_on_through_the_epoch(exams: list[ExamShard], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes up where the one before it stopped, in either pool, or most slices would never be seen."""
    drawn = draw([Pool(exams, LABELS), Pool(exams, LABELS)], PAPER_LIKE)
    for drawer in drawn.drawers:
        turns: list[int] = []
        real = drawer.draw
        monkeypatch.setattr(
            drawer,
            "draw",
            lambda rng, turn, turns=turns, real=real, **how: turns.append(turn) or real(rng, turn, **how),
        )
        for step in range(5):
            assert drawn[step]
        assert turns == list(range(len(turns)))
        assert len(turns) in (48, 32)


def test_whole_images_are_a_batch_of_their_own(exams: list[ExamShard]) -> None:
    """The image-slice oracle: the image is the patch, its label that of the curators, its pixels unknown."""
    drawn = draw([Pool(exams, LABELS), Pool(exams, ImageLabels(), whole=True)], PAPER_LIKE)
    labels = []
    for step in range(10):
        patches, images = drawn[step]
        assert patches.hu.shape[2:] == (32, 32)
        assert images.hu.shape[2:] == (64, 64)
        assert (images.pixels == IGNORE).all()
        assert len(patches.hu) + len(images.hu) == 16
        labels += images.classes.tolist()
    assert np.mean(labels) == pytest.approx(0.25, abs=0.1)  # two of four slices of two of four exams


def test_processes_share_one_batch(exams: list[ExamShard]) -> None:
    """Two processes draw, between them, the patches that one would."""
    pools = [Pool(exams, LABELS), Pool(exams, LABELS)]
    (whole,) = draw(pools, PAPER_LIKE)[3]
    (first,), (second,) = (draw(pools, PAPER_LIKE, part=(rank, 2))[3] for rank in range(2))
    assert torch.equal(whole.hu[::2], first.hu)
    assert torch.equal(whole.hu[1::2], second.hu)


def test_processes_have_batches_of_the_same_sizes(exams: list[ExamShard]) -> None:
    """Each of eight, though only three patches of a step are whole images: the others would wait for ever."""
    pools = [Pool(exams, LABELS), Pool(exams, ImageLabels(), whole=True)]
    steps = [draw(pools, SAMPLING, part=(rank, 8))[0] for rank in range(8)]
    assert [[batch.hu.shape[1:] for batch in step] for step in steps] == [[(3, 32, 32), (3, 64, 64)]] * 8
    assert [sum(len(batch.classes) for batch in step) for step in steps] == [1] * 8


def test_training_needs_exams_of_both_kinds(exams: list[ExamShard]) -> None:
    """Said at the start, not by a crash at some step."""
    with pytest.raises(DataError, match="with and without"):
        batches(exams[::2])


def test_a_pool_without_labels_is_refused(exams: list[ExamShard]) -> None:
    """An oracle of slices on a corpus of which nothing is known."""
    told = unknown(len(exams[0].neighbours))
    corpus = [replace(exam, told_slices=told) for exam in exams]
    with pytest.raises(DataError, match="no slice to learn from"):
        draw([Pool(exams, LABELS), Pool(corpus, ImageLabels(), whole=True)], PAPER_LIKE)


@pytest.mark.parametrize("size", [64, 72])
@pytest.mark.parametrize("around_blood", [False, True])
def test_a_slice_that_shows_nothing_is_shown_in_its_middle(
    exams: list[ExamShard], size: int, *, around_blood: bool
) -> None:
    """Air alone, or a bleeding slice whose pixels are ignored; an odd number of places to look at included."""
    choice = Choice(exams[0], 0, around_blood=around_blood)
    drawn = draw([Pool(exams, LABELS)], SAMPLING)
    air, nothing = np.full((size, size), -1000, dtype=np.int16), np.full((size, size), IGNORE, dtype=np.uint8)
    centre = drawn._centre(choice, air, nothing, np.zeros(2), np.random.default_rng(0))
    assert np.abs(centre - size / 2).max() <= 4
