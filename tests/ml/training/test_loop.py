"""The loop learns, stops safely and resumes exactly."""

from pathlib import Path

import pytest
import torch

from ml.errors import TrainingError
from ml.networks.patchfcn import PatchFcn
from ml.training.augmentation import Augmentation
from ml.training.checkpoints import load_checkpoint, save_checkpoint
from ml.training.loop import Schedule, train
from ml.training.sampler import PatchBatches, Sampling
from ml.training.shards import ExamShard
from tests.ml.conftest import TINY_NETWORK, TINY_PREPROCESSING


def run(
    exams: list[ExamShard], folder: Path, *, until: int, losses: list[float] | None = None
) -> dict[str, torch.Tensor]:
    """Train a tiny network for 8 steps, or stop after `until` of them."""

    class Stopped(Exception):
        pass

    def progress(step: int, value: float) -> None:
        if losses is not None:
            losses.append(value)
        if step == until < schedule.steps:
            raise Stopped

    schedule = Schedule(8, checkpoint_steps=2, loader_workers=0, warm_up_steps=2)
    torch.manual_seed(0)
    network = PatchFcn(TINY_NETWORK)
    batches = PatchBatches(
        exams,
        TINY_PREPROCESSING,
        sampling=Sampling(batch=4, patch=32),
        augmentation=Augmentation(),
        seed=5,
        steps=schedule.steps,
    )
    try:
        return train(network, batches, schedule, folder=folder, progress=progress)
    except Stopped:
        return {}


def test_stopping_and_resuming_gives_bitwise_the_same_weights(exams: list[ExamShard], tmp_path: Path) -> None:
    """Stopped one step after a checkpoint: that step is done again."""
    whole = run(exams, tmp_path / "whole", until=8)
    run(exams, tmp_path / "stopped", until=5)
    resumed = run(exams, tmp_path / "stopped", until=8)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_loss_falls(exams: list[ExamShard], tmp_path: Path) -> None:
    """On bright squares in dark discs."""
    torch.manual_seed(0)
    batches = PatchBatches(
        exams,
        TINY_PREPROCESSING,
        sampling=Sampling(batch=8, patch=32),
        augmentation=Augmentation(),
        seed=1,
        steps=60,
    )
    values: list[float] = []
    schedule = Schedule(60, learning_rate=1e-2, warm_up_steps=5, loader_workers=0)
    train(PatchFcn(TINY_NETWORK), batches, schedule, folder=tmp_path, progress=lambda _, value: values.append(value))
    assert values[-1] < 0.7 * values[0]


def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint_kept(exams: list[ExamShard], tmp_path: Path) -> None:
    """A poisoned exam: the error says what is left."""
    run(exams, tmp_path / "run", until=5)
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state is not None
    state["network"]["stem" if "stem" in state["network"] else next(iter(state["network"]))].fill_(float("nan"))
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", state)
    with pytest.raises(TrainingError, match="step 4"):
        run(exams, tmp_path / "run", until=8)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    """Power lost while the newer one was written by an older program."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 2}
    path.write_bytes(path.read_bytes()[:100])
    assert load_checkpoint(path) == {"step": 1}
    path.with_name("checkpoint.pt.previous").write_bytes(b"")
    with pytest.raises(TrainingError, match="no checkpoint"):
        load_checkpoint(path)
    assert load_checkpoint(tmp_path / "none.pt") is None


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    """Half a cosine after the warm-up."""
    schedule = Schedule(1000, learning_rate=1.0, warm_up_steps=100)
    assert schedule.rate(0) == pytest.approx(0.01)
    assert schedule.rate(99) == schedule.rate(100) == 1.0
    assert schedule.rate(550) == pytest.approx(0.5)
    assert schedule.rate(1000) == pytest.approx(0.0)
