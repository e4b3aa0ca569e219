"""What training shows on a GPU alone. Skipped where there is none; `pytest tests/ml -k gpu` where there is one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ml.data.shards import ExamShard
from ml.errors import TrainingError
from ml.networks.patchfcn import COMPACT, PatchFcn
from ml.training.augmentation import Augmentation
from ml.training.loop import CHECKPOINT, train
from ml.training.lures import find_lures
from ml.training.recipe import COMPACT_RECIPE, Machine, Sampling, Span
from ml.training.sampler import Batch, PatchBatches, Step, to_images
from ml.training.targets import LABELS, Pool
from tests.ml.conftest import TINY_NETWORK, TINY_PREPROCESSING

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

RECIPE = replace(COMPACT_RECIPE, learning_rate=1e-2, warm_up_steps=5, sampling=Sampling(batch=8, patch=32))
GPU = Machine(device="cuda", loader_workers=2, checkpoint_steps=10, tensorboard=False)


def batches(exams: list[ExamShard], steps: int) -> PatchBatches:
    """Of these exams alone."""
    return PatchBatches(
        [Pool(exams, LABELS)],
        TINY_PREPROCESSING,
        sampling=RECIPE.sampling,
        augmentation=Augmentation(),
        seed=1,
        steps=steps,
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_loss_falls(exams: list[ExamShard], tmp_path: Path, precision: str) -> None:
    """On bright squares in dark discs, in every precision."""
    machine = replace(GPU, precision=precision)  # type: ignore[arg-type]
    values: list[float] = []
    train(
        PatchFcn(TINY_NETWORK),
        batches(exams, 80),
        RECIPE,
        Span(80),
        folder=tmp_path / "run",
        machine=machine,
        progress=lambda _, loss: values.append(loss),
    )
    assert len(values) == 80
    assert values[-1] < 0.8 * values[9]


def test_a_deterministic_run_resumes_exactly(exams: list[ExamShard], tmp_path: Path) -> None:
    """Stopped ten steps before its end: the same weights to the last bit."""
    machine = replace(GPU, deterministic=True)
    weights = []
    for name, stops in (("whole", (40,)), ("stopped", (30, 40))):
        for until in stops:
            torch.manual_seed(0)
            kept = train(
                PatchFcn(TINY_NETWORK),
                batches(exams, 40),
                RECIPE,
                Span(40, until=until),
                folder=tmp_path / name,
                machine=machine,
            )
        weights.append(kept)
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recorded_steps_compute_what_single_kernels_do(exams: list[ExamShard], tmp_path: Path, precision: str) -> None:
    """The same weights, running statistics and averages to the last bit, from the same weights and patches."""
    kept = []
    for recorded in (True, False):
        machine = replace(GPU, deterministic=True, recorded=recorded, precision=precision)  # type: ignore[arg-type]
        torch.manual_seed(0)
        folder = tmp_path / str(recorded)
        train(PatchFcn(TINY_NETWORK), batches(exams, 20), RECIPE, Span(20), folder=folder, machine=machine)
        kept.append(torch.load(folder / CHECKPOINT, weights_only=False, map_location="cpu"))
    torch.use_deterministic_algorithms(False)
    for part in ("network", "averaged"):
        assert all(torch.equal(kept[0][part][name], kept[1][part][name]) for name in kept[0][part])
    assert kept[0]["loss"] == kept[1]["loss"]


def test_patches_look_as_they_do_on_a_cpu(exams: list[ExamShard]) -> None:
    """Sharpness, noise and contrast, to a thousandth of the brain's window."""
    for number in range(4):
        (batch,) = batches(exams, 4)[number]
        on_gpu = to_images(Batch(*(part.cuda() for part in batch)), TINY_PREPROCESSING)
        torch.testing.assert_close(on_gpu.cpu(), to_images(batch, TINY_PREPROCESSING), rtol=0, atol=2e-3)


def test_steps_of_another_shape_run_as_they_are(exams: list[ExamShard], tmp_path: Path) -> None:
    """An oracle's steps have whole images beside patches, now one more and now one less."""
    pools = [Pool(exams, LABELS), Pool(exams, LABELS, whole=True)]
    sampling = replace(RECIPE.sampling, labelled_share=0.55)
    drawn = PatchBatches(pools, TINY_PREPROCESSING, sampling=sampling, augmentation=Augmentation(), seed=1, steps=40)
    shapes = {tuple(batch.hu.shape for batch in drawn[step]) for step in range(40)}
    assert len(shapes) > 1
    values: list[float] = []
    train(
        PatchFcn(TINY_NETWORK),
        drawn,
        RECIPE,
        Span(40),
        folder=tmp_path / "run",
        machine=GPU,
        progress=lambda _, loss: values.append(loss),
    )
    assert len(values) == 40
    assert values[-1] < values[9]


class NotANumber(PatchBatches):
    """A pixel of step 13 is not a number."""

    def __getitem__(self, step: int) -> Step:
        (batch,) = super().__getitem__(step)
        if step == 13:
            batch.hu[0, 0, 0, 0] = torch.nan
        return (Batch(*batch),)


def test_a_loss_that_is_not_finite_is_named_by_its_step(exams: list[ExamShard], tmp_path: Path) -> None:
    """It is read a step late on a GPU; the checkpoint is the one before."""
    drawn = NotANumber(
        [Pool(exams, LABELS)],
        TINY_PREPROCESSING,
        sampling=RECIPE.sampling,
        augmentation=Augmentation(),
        seed=1,
        steps=40,
    )
    with pytest.raises(TrainingError, match="at step 13;"):
        train(PatchFcn(TINY_NETWORK), drawn, RECIPE, Span(40), folder=tmp_path / "run", machine=GPU)
    kept = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=False)
    assert kept["step"] == 10
    assert all(torch.isfinite(one).all() for one in kept["averaged"].values())
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 10


def test_lures_are_those_of_the_cpu(exams: list[ExamShard]) -> None:
    """The same slices, weighed alike."""
    torch.manual_seed(0)
    network = PatchFcn(COMPACT)
    torch.nn.init.constant_(network.get_parameter("pixel_score.bias"), 0.0)
    free = [exam for exam in exams if not len(exam.positive_slices)]
    on_cpu = find_lures(network, free, TINY_PREPROCESSING, machine=Machine(loader_workers=0))
    on_gpu = find_lures(network.to("cuda"), free, TINY_PREPROCESSING, machine=GPU)
    assert [(one.exam, one.index) for one in on_gpu] == [(one.exam, one.index) for one in on_cpu]
    assert on_cpu
    assert [one.weight for one in on_gpu] == pytest.approx([one.weight for one in on_cpu], rel=0.02)
