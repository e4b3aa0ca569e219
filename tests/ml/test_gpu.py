"""What only a GPU can show. Skipped where there is none; `pytest tests/ml/test_gpu.py` on a machine that has one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.bundle import Bundle, load_bundle
from ml.errors import TrainingError
from ml.inference.engines import AGREEMENT
from ml.inference.predictor import GPU_BATCH, Predictor
from ml.networks.patchfcn import COMPACT, PatchFcn
from ml.phantom import draw_spec, simulate
from ml.training.augmentation import Augmentation
from ml.training.loop import CHECKPOINT, train
from ml.training.lures import find_lures
from ml.training.recipe import COMPACT_RECIPE, Machine, Sampling, Span
from ml.training.sampler import Batch, PatchBatches, Step
from ml.training.shards import ExamShard, open_shards
from ml.training.targets import LABELS, Pool
from tests.ml.conftest import TINY_NETWORK, TINY_PREPROCESSING, MakeVolume
from tests.ml.training.conftest import write_exam

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

RECIPE = replace(COMPACT_RECIPE, learning_rate=1e-2, warm_up_steps=5, sampling=Sampling(batch=8, patch=32))
GPU = Machine(device="cuda", loader_workers=2, checkpoint_steps=10, tensorboard=False)


@pytest.fixture
def exams(tmp_path: Path) -> list[ExamShard]:
    """Two with blood, two without."""
    for seed in range(4):
        write_exam(tmp_path / "shards", seed, bleeding=seed % 2 == 0)
    return open_shards(tmp_path / "shards", range(4))


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


@pytest.mark.parametrize("engine", ["auto", "torch", "torch-channels-last"])
def test_the_default_bundle_answers_as_on_a_cpu(engine: str) -> None:
    """1e-3 in the probability of every pixel, whatever `auto` chose."""
    exam = simulate(draw_spec(3_000_000, bleed=True), matrix=256)
    wanted = Predictor(load_bundle("default"), device="cpu", engine="torch").predict(exam.volume)
    found = Predictor(load_bundle("default"), device="cuda", engine=engine).predict(exam.volume)  # type: ignore[arg-type]
    assert wanted.prob.max() > 0.5
    assert np.abs(found.prob - wanted.prob).max() <= AGREEMENT
    assert found.exam_score == pytest.approx(wanted.exam_score, abs=0.01)


def test_a_full_gpu_loses_no_exam(tiny_bundle: Bundle, make_volume: MakeVolume) -> None:
    """Real memory, and too little of it: smaller batches are tried (the CPU, when one image is too much)."""
    wanted = Predictor(tiny_bundle, device="cpu", engine="torch").predict(make_volume())
    predictor = Predictor(tiny_bundle, device="cuda", engine="torch")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-9)
    try:
        found = predictor.predict(make_volume())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert predictor._batch < GPU_BATCH
    assert np.abs(found.prob - wanted.prob).max() < AGREEMENT


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
