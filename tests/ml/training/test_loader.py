"""Steps arrive as they were made, in their order, whoever makes them."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ml.data.shards import ExamShard
from ml.training.intensity import CALM
from ml.training.loader import load_steps, pack, unpack
from ml.training.recipe import Machine
from ml.training.sampler import Batch, PatchBatches, Step, to_images
from ml.training.targets import LABELS, Pool
from tests.ml.conftest import TINY_PREPROCESSING
from tests.ml.training.test_sampler import PAPER_LIKE, draw


@pytest.fixture
def drawn(exams: list[ExamShard]) -> PatchBatches:
    """Eleven steps, each of a batch of patches and one of whole images."""
    return draw([Pool(exams, LABELS), Pool(exams, LABELS, whole=True)], PAPER_LIKE, steps=11)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_step_arrives_once_and_in_its_order(drawn: PatchBatches, workers: int) -> None:
    """From any step on, also where the last ones are fewer than travel together."""
    arrived = list(load_steps(drawn, 2, 11, Machine(loader_workers=workers)))
    assert len(arrived) == 9
    for number, step in enumerate(arrived, start=2):
        for batch, made in zip(step, drawn[number], strict=True):
            assert torch.equal(batch.pixels, made.pixels)
            assert torch.equal(batch.classes, made.classes)
            assert torch.equal(batch.intensity, torch.tensor([CALM] * len(made.hu)))
            images, expected = to_images(batch, TINY_PREPROCESSING), to_images(made, TINY_PREPROCESSING)
            assert (images - expected).abs().max() * 60 < 0.1  # HU; in half precision twice for once


def test_patches_for_a_gpu_are_changed_there(drawn: PatchBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    """They arrive as they were cut, with what is to be done to them."""

    def unpinned(steps: Dataset[Step], *, pin_memory: bool, **options: Any) -> DataLoader[Step]:
        assert pin_memory
        return DataLoader(steps, **options)

    monkeypatch.setattr("ml.training.loader.DataLoader", unpinned)  # memory is pinned for a GPU alone
    for number, step in enumerate(load_steps(drawn, 2, 11, Machine(device="cuda", loader_workers=1)), start=2):
        assert_same(step, drawn[number])


def test_tensors_keep_their_bits_their_shapes_and_their_types() -> None:
    """Sizes that are no multiple of anything, and an empty batch beside them."""
    random = torch.Generator().manual_seed(0)

    def batch(count: int, size: int) -> Batch:
        hu = torch.randn((count, 3, size, size), generator=random).half()
        pixels = torch.randint(0, 256, (count, size, size), generator=random, dtype=torch.uint8)
        return Batch(hu, torch.rand((count, 9), generator=random), pixels, torch.rand(count, generator=random))

    steps = [(batch(3, 7), batch(1, 13)), (batch(5, 3),), (batch(0, 7), batch(2, 5))]
    row = pack(steps)
    for step, made in zip(unpack(row), steps, strict=True):
        assert_same(step, made)
        assert all(part.untyped_storage().data_ptr() == row.row.untyped_storage().data_ptr() for part in step[0])


def assert_same(step: Step, made: Step) -> None:
    """To the bit."""
    assert len(step) == len(made)
    for arrived, batch in zip(step, made, strict=True):
        for part, other in zip(arrived, batch, strict=True):
            torch.testing.assert_close(part, other, rtol=0, atol=0)
