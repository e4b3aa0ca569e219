"""The loop learns, stops safely and resumes exactly."""

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ml.data.shards import ExamShard
from ml.errors import TrainingError
from ml.networks.patchfcn import PatchFcn
from ml.training import loop
from ml.training.augmentation import Augmentation
from ml.training.checkpoints import load_checkpoint, save_checkpoint
from ml.training.loop import CHECKPOINT, train
from ml.training.recipe import COMPACT_RECIPE, PAPER_RECIPE, Machine, PrecisionName, Recipe, Sampling, Span
from ml.training.sampler import PatchBatches
from ml.training.targets import LABELS, Pool
from tests.ml.conftest import TINY_NETWORK, TINY_PREPROCESSING

RECIPE = replace(COMPACT_RECIPE, warm_up_steps=2, sampling=Sampling(batch=4, patch=32))
MACHINE = Machine(checkpoint_steps=2, loader_workers=0, tensorboard=False)


def batches(exams: list[ExamShard], sampling: Sampling, *, steps: int = 8, seed: int = 5) -> PatchBatches:
    """Of these exams alone."""
    return PatchBatches(
        [Pool(exams, LABELS)],
        TINY_PREPROCESSING,
        sampling=sampling,
        augmentation=Augmentation(),
        seed=seed,
        steps=steps,
    )


def run(
    exams: list[ExamShard],
    folder: Path,
    *,
    until: int,
    recipe: Recipe = RECIPE,
    machine: Machine = MACHINE,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Train a tiny network for 8 steps, or stop after `until` of them."""

    class Stopped(Exception):
        pass

    def progress(step: int, _: float) -> None:
        if step == until < 8:
            raise Stopped

    torch.manual_seed(seed)
    network = PatchFcn(TINY_NETWORK)
    drawn = batches(exams, recipe.sampling)
    try:
        return train(network, drawn, recipe, Span(8, 4), folder=folder, machine=machine, progress=progress)
    except Stopped:
        return {}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("base", [COMPACT_RECIPE, PAPER_RECIPE], ids=["compact", "paper"])
def test_stopping_and_resuming_gives_bitwise_the_same_weights(
    base: Recipe, precision: PrecisionName, exams: list[ExamShard], tmp_path: Path
) -> None:
    """Stopped one step after a checkpoint: that step is done again. The last checkpoints are the same in everything,
    whatever the second process began with.
    """
    recipe = replace(base, sampling=replace(base.sampling, batch=4, patch=32), decay_every_epochs=1)
    machine = replace(MACHINE, precision=precision)
    whole = run(exams, tmp_path / "whole", until=8, recipe=recipe, machine=machine)
    run(exams, tmp_path / "stopped", until=5, recipe=recipe, machine=machine)
    resumed = run(exams, tmp_path / "stopped", until=8, recipe=recipe, machine=machine, seed=1)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    one, other = (load_checkpoint(tmp_path / name / CHECKPOINT) for name in ("whole", "stopped"))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_run_goes_on_at_another_precision(precision: PrecisionName, exams: list[ExamShard], tmp_path: Path) -> None:
    """Begun in float32 and taken to a GPU that is fast in another one: the scale of the loss begins there."""
    run(exams, tmp_path, until=5)
    weights = run(exams, tmp_path, until=8, machine=replace(MACHINE, precision=precision))
    assert all(tensor.isfinite().all() for tensor in weights.values())
    kept = load_checkpoint(tmp_path / CHECKPOINT)
    assert kept is not None
    assert kept["step"] == 8
    assert bool(kept["scaler"]) == (precision == "float16")


def test_a_run_that_goes_on_tells_first_where_it_stopped(exams: list[ExamShard], tmp_path: Path) -> None:
    """Whoever watches sees that nothing was lost, also of a run that has nothing left to do."""
    run(exams, tmp_path, until=5)
    for expected in ([4, 5, 6, 7, 8], [8]):
        told: list[int] = []
        train(
            PatchFcn(TINY_NETWORK),
            batches(exams, RECIPE.sampling),
            RECIPE,
            Span(8, 4),
            folder=tmp_path,
            machine=MACHINE,
            progress=lambda step, _, told=told: told.append(step),  # type: ignore[misc]
        )
        assert told == expected


def test_the_loss_falls(exams: list[ExamShard], tmp_path: Path) -> None:
    """On bright squares in dark discs."""
    torch.manual_seed(0)
    recipe = replace(RECIPE, learning_rate=1e-2, warm_up_steps=5, sampling=Sampling(batch=8, patch=32))
    values: list[float] = []
    train(
        PatchFcn(TINY_NETWORK),
        batches(exams, recipe.sampling, steps=60, seed=1),
        recipe,
        Span(60),
        folder=tmp_path,
        machine=MACHINE,
        progress=lambda _, value: values.append(value),
    )
    assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize("base", [COMPACT_RECIPE, PAPER_RECIPE], ids=["compact", "paper"])
def test_rate_momentum_decay_and_clipping_are_the_recipes(base: Recipe, exams: list[ExamShard], tmp_path: Path) -> None:
    """Gradients are clipped to nothing, so every weight shrinks as the recipe alone says."""
    recipe = replace(
        base,
        sampling=replace(base.sampling, batch=4, patch=32),
        learning_rate=0.2,
        weight_decay=0.1,
        clip_norm=1e-20,
        average_decay=0.0,
        warm_up_steps=3,
    )
    torch.manual_seed(0)
    before = {name: one.detach().clone() for name, one in PatchFcn(TINY_NETWORK).named_parameters()}
    weights = run(exams, tmp_path, until=8, recipe=recipe)
    share, speed = 1.0, 0.0
    for step in range(8):
        speed = 0.1 * share + (recipe.momentum * speed if recipe.optimiser == "sgd" else 0.0)
        share -= recipe.rate(step, Span(8, 4)) * speed
    assert 0.5 < share < 0.95
    for name, one in before.items():
        assert torch.allclose(weights[name], share * one, rtol=1e-4, atol=1e-7), name


def test_what_is_kept_is_the_moving_average_of_the_weights(exams: list[ExamShard], tmp_path: Path) -> None:
    """From the first weights on, faster at the start; counters are those of the network, whatever mode it came in."""
    torch.manual_seed(0)
    network = PatchFcn(TINY_NETWORK).eval()
    recipe = replace(RECIPE, average_decay=0.3, learning_rate=0.02)
    expected = {name: one.detach().clone() for name, one in network.state_dict().items()}

    def follow(step: int, _: float) -> None:
        decay = min(0.3, step / (step + 10))
        for name, one in network.state_dict().items():
            kept = decay * expected[name] + (1 - decay) * one if one.is_floating_point() else one
            expected[name] = kept.detach().clone()

    drawn = batches(exams, recipe.sampling)
    weights = train(network, drawn, recipe, Span(8), folder=tmp_path, machine=MACHINE, progress=follow)
    assert weights.keys() == expected.keys()
    for name, one in expected.items():
        assert torch.allclose(weights[name], one, rtol=1e-4, atol=1e-6), name
        if not one.is_floating_point():
            assert one > 0, name


def test_a_recipe_without_averaging_keeps_the_last_weights(exams: list[ExamShard], tmp_path: Path) -> None:
    """The paper's: what the checkpoint holds is what comes back."""
    recipe = replace(PAPER_RECIPE, sampling=replace(PAPER_RECIPE.sampling, batch=4, patch=32))
    weights = run(exams, tmp_path, until=8, recipe=recipe)
    kept = load_checkpoint(tmp_path / CHECKPOINT)
    assert kept is not None
    assert all(torch.equal(kept["network"][name], tensor) for name, tensor in weights.items())


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
    for damage in (b"garbage" * 100, b"hello world\n", bytes(1000)):  # each is another error of torch's
        path.write_bytes(damage)
        assert load_checkpoint(path) == {"step": 1}
        assert path.with_name("checkpoint.pt.damaged").read_bytes() == damage
    path.write_bytes(bytes(1000))
    path.with_name("checkpoint.pt.previous").write_bytes(b"")
    with pytest.raises(TrainingError, match="no checkpoint"):
        load_checkpoint(path)
    assert load_checkpoint(tmp_path / "none.pt") is None


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that went on from the one before is killed while it saves."""
    path, rename = tmp_path / CHECKPOINT, Path.replace
    for step in (1, 2):
        save_checkpoint(path, {"step": step})
    path.write_bytes(b"")
    assert load_checkpoint(path) == {"step": 1}

    def killed(old: Path, new: Path) -> Path:
        if new == path:
            raise KeyboardInterrupt
        return rename(old, new)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"step": 3})
    assert load_checkpoint(path) == {"step": 1}


@pytest.mark.parametrize(("moment", "left"), [("fsync", 2), ("to .previous", 2), ("to checkpoint.pt", 2), ("end", 3)])
def test_a_run_that_is_killed_while_it_saves_has_a_checkpoint(
    moment: str, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment, the one between two names too; and no file has its name before the disk has its bytes."""
    path = tmp_path / CHECKPOINT
    for step in (1, 2):
        save_checkpoint(path, {"step": step})
    moments: list[str] = []

    def reach(name: str) -> None:
        moments.append(name)
        if name == moment:
            raise KeyboardInterrupt

    fsync, rename = os.fsync, Path.replace

    def sync(file: int) -> None:
        fsync(file)
        reach("fsync")

    def give_name(old: Path, new: Path) -> Path:
        reach("to .previous" if new.name.endswith(".previous") else f"to {new.name}")
        return rename(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", give_name)
    with suppress(KeyboardInterrupt):
        save_checkpoint(path, {"step": 3})
    everything = ["fsync", "to .previous", "to checkpoint.pt"]
    assert moments == (everything[: everything.index(moment) + 1] if moment in everything else everything)
    assert load_checkpoint(path) == {"step": left}


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    """Half a cosine after the warm-up."""
    recipe, span = replace(COMPACT_RECIPE, learning_rate=1.0, warm_up_steps=100), Span(1000)
    assert recipe.rate(0, span) == pytest.approx(0.01)
    assert recipe.rate(99, span) == recipe.rate(100, span) == 1.0
    assert recipe.rate(550, span) == pytest.approx(0.5)
    assert recipe.rate(1000, span) == pytest.approx(0.0)


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, [1, 2, 3, 4, 5, 6, 7, 8]), (3600.0, [8])])
def test_checkpoints_go_by_the_clock(exams: list[ExamShard], tmp_path: Path, seconds: float, steps: list[int]) -> None:
    """Where no number of steps is given; the last step always has one."""
    run(exams, tmp_path, until=8, machine=replace(MACHINE, checkpoint_steps=None, checkpoint_s=seconds))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == steps
    assert load_checkpoint(tmp_path / CHECKPOINT) is not None


def test_time_between_checkpoints_begins_at_the_last_one(
    exams: list[ExamShard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of steps that take 20 s each, every third has one after the first 50 s; not all from there on."""
    clock = SimpleNamespace(now=1e6)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def progress(*_: object) -> None:
        clock.now += 20

    machine = replace(MACHINE, checkpoint_steps=None, checkpoint_s=50.0)
    drawn = batches(exams, RECIPE.sampling)
    train(PatchFcn(TINY_NETWORK), drawn, RECIPE, Span(8), folder=tmp_path, machine=machine, progress=progress)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 7, 8]
