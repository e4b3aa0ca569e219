"""Whatever stops a run, it says so, and the run goes on from its last checkpoint as if nothing had been."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ml.data.shards import ExamShard
from ml.errors import TrainingError
from ml.networks.patchfcn import PatchFcn
from ml.training import loop, workers
from ml.training.augmentation import Augmentation
from ml.training.checkpoints import load_checkpoint, save_checkpoint
from ml.training.loop import CHECKPOINT, train
from ml.training.lures import find_lures
from ml.training.recipe import Machine, Span
from ml.training.sampler import PatchBatches, Step
from ml.training.targets import LABELS, Pool
from tests.ml.conftest import TINY_NETWORK, TINY_PREPROCESSING
from tests.ml.processes import REPO, run_python
from tests.ml.training.trainee import RECIPE, run

TRAINEE = Path(__file__).with_name("trainee.py")
STEPS = 8


def batches(exams: list[ExamShard], *, steps: int = STEPS) -> PatchBatches:
    """Crops of these exams."""
    return PatchBatches(
        [Pool(exams, LABELS)],
        TINY_PREPROCESSING,
        sampling=RECIPE.sampling,
        augmentation=Augmentation(),
        seed=0,
        steps=steps,
    )


def go(drawn: PatchBatches, folder: Path, *, steps: int = STEPS, **options: object) -> dict[str, torch.Tensor]:
    """Train a tiny network from the seed, or from what is in the folder."""
    torch.manual_seed(0)
    machine = Machine(checkpoint_steps=2, loader_workers=0, tensorboard=False)
    return train(PatchFcn(TINY_NETWORK), drawn, RECIPE, Span(steps), folder=folder, machine=machine, **options)  # type: ignore[arg-type]


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Bit by bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_second_training_in_a_folder_is_refused(exams: list[ExamShard], tmp_path: Path) -> None:
    """The same command twice: the checkpoints of the slower one would be the newest."""
    program = (
        "import sys, time; from pathlib import Path; from ml.files import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(TrainingError, match="another process trains in"):
            go(batches(exams), tmp_path / "run")
        other.kill()
    go(batches(exams), tmp_path / "run")


def test_a_killed_process_resumes_to_bitwise_the_same_weights(exams: list[ExamShard], tmp_path: Path) -> None:
    """SIGKILL in the middle of a step that no checkpoint knows of."""
    shards, killed, whole = exams[0].folder.parent, tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, str(TRAINEE), str(shards), str(killed), str(STEPS)]
    with subprocess.Popen(
        command, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("5 "):
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
    kept = load_checkpoint(killed / CHECKPOINT)
    assert kept is not None
    assert kept["step"] in (4, 6)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert equal(run(shards, killed, STEPS), run(shards, whole, STEPS))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_as_one(exams: list[ExamShard], tmp_path: Path, processes: int) -> None:
    """torchrun on the CPU: losses and weights of one process with the whole batch, to rounding. Of four processes one
    has none of the three whole images of a step.
    """
    shards, alone, both = exams[0].folder.parent, tmp_path / "alone", tmp_path / "both"
    printed = {}
    for out, count in ((alone, 1), (both, processes)):
        text = run_python([str(TRAINEE), str(shards), str(out), "4"], cwd=REPO, processes=count)
        lines = [line.split() for line in text.splitlines()]
        printed[out] = {int(step): float(loss) for step, loss in lines}
    assert len(printed[alone]) == 4
    assert printed[both] == pytest.approx(printed[alone], abs=2e-5)
    one_weights, two_weights = (torch.load(out / "weights.pt") for out in (alone, both))
    assert one_weights.keys() == two_weights.keys()
    for name, tensor in one_weights.items():
        assert torch.allclose(tensor.float(), two_weights[name].float(), atol=2e-3), name


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_dead_loader_process_stops_the_run(exams: list[ExamShard], tmp_path: Path) -> None:
    """Killed as by the kernel when memory runs out; the run goes on without it.

    PyTorch's signal may strike while PyTorch opens files to see how many it may: one of them is then left unclosed.
    """

    def kill(step: int, _: float) -> None:
        if step == 4:
            for child in multiprocessing.active_children():
                child.kill()

    torch.manual_seed(0)
    machine = Machine(checkpoint_steps=2, loader_workers=1, tensorboard=False)
    drawn = batches(exams, steps=40)
    with pytest.raises(TrainingError, match=r"last checkpoint is usable.*--loader-workers"):
        train(PatchFcn(TINY_NETWORK), drawn, RECIPE, Span(40), folder=tmp_path / "run", machine=machine, progress=kill)
    kept = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert kept is not None
    assert 4 <= kept["step"] < 40


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_dead_loader_process_stops_the_look_for_lures(exams: list[ExamShard]) -> None:
    """As in training: with what to do."""

    def kill() -> None:
        for child in multiprocessing.active_children():
            child.kill()

    machine = Machine(loader_workers=1)
    network = PatchFcn(TINY_NETWORK)
    with pytest.raises(TrainingError, match=r"last checkpoint is usable.*--loader-workers"):
        find_lures(network, exams * 10, TINY_PREPROCESSING, machine=machine, progress=kill)


@pytest.mark.parametrize("broken", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_loader_process_that_dies_while_it_hands_over_is_named(
    broken: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks before PyTorch has heard of the death, and its word of it may come in any line after."""
    monkeypatch.setattr(workers, "SIGNAL_S", 0.0)
    with (
        pytest.raises(TrainingError, match=r"last checkpoint is usable.*--loader-workers"),
        workers.dead_workers_named(),
    ):
        raise broken


def test_only_the_end_of_a_loader_process_is_called_so() -> None:
    """What else stops a run is told as it is."""
    with pytest.raises(RuntimeError, match=r"^CUDA error: unspecified launch failure$"), workers.dead_workers_named():
        raise RuntimeError("CUDA error: unspecified launch failure")


def test_what_fails_within_a_loader_process_is_told_as_it_is(exams: list[ExamShard], tmp_path: Path) -> None:
    """It did not die, and memory did not run out."""

    class Mistaken(PatchBatches):
        def __getitem__(self, step: int) -> Step:
            if step == 3:
                raise RuntimeError("sizes do not match")
            return super().__getitem__(step)

    drawn = batches(exams)
    drawn.__class__ = Mistaken
    machine = Machine(loader_workers=1, tensorboard=False)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        train(PatchFcn(TINY_NETWORK), drawn, RECIPE, Span(STEPS), folder=tmp_path, machine=machine)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_loader_process_that_hangs_stops_the_run(exams: list[ExamShard], tmp_path: Path) -> None:
    """On a network drive that no longer answers: a run of days does not wait for good."""

    class Hanging(PatchBatches):
        def __getitem__(self, step: int) -> Step:
            if step == 6:
                time.sleep(60)
            return super().__getitem__(step)

    drawn = batches(exams)
    drawn.__class__ = Hanging
    machine = Machine(checkpoint_steps=2, loader_workers=1, loader_timeout_s=5.0, tensorboard=False)
    with pytest.raises(TrainingError, match=r"hung .*last checkpoint is usable"):
        train(PatchFcn(TINY_NETWORK), drawn, RECIPE, Span(STEPS), folder=tmp_path, machine=machine)
    kept = load_checkpoint(tmp_path / CHECKPOINT)
    assert kept is not None
    assert kept["step"] == 4


def test_a_full_disk_stops_the_run_and_keeps_the_checkpoint(exams: list[ExamShard], tmp_path: Path) -> None:
    """No file may grow past 8 KB after step 5: the checkpoint of step 6 fails, that of step 4 stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int, _: float) -> None:
        if step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))

    try:
        with pytest.raises(TrainingError, match=r"cannot be written.*free space and run the same command again"):
            go(batches(exams), tmp_path / "run", progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert kept is not None
    assert kept["step"] == 4
    assert not list((tmp_path / "run").glob("*.tmp"))
    assert equal(go(batches(exams), tmp_path / "run"), go(batches(exams), tmp_path / "whole"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("least", [0, 100])
def test_a_disk_that_is_full_for_events_stops_the_run_with_what_to_do(
    least: int, exams: list[ExamShard], tmp_path: Path
) -> None:
    """TensorBoard writes them in a thread, between checkpoints, and fails once more when it is closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int, _: float) -> None:
        if step == 25:
            resource.setrlimit(resource.RLIMIT_FSIZE, (least, hard))

    torch.manual_seed(0)
    machine = Machine(checkpoint_steps=20, loader_workers=0)
    drawn, folder = batches(exams, steps=40), tmp_path / "run"
    try:
        with pytest.raises(TrainingError, match=r"cannot be written.*free space and run the same command again"):
            train(PatchFcn(TINY_NETWORK), drawn, RECIPE, Span(40), folder=folder, machine=machine, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = load_checkpoint(folder / CHECKPOINT)
    assert kept is not None
    assert kept["step"] == 20


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_checkpoint_is_known_wherever_the_damage_is(tmp_path: Path) -> None:
    """The one before is taken; a byte may be wrong where tensors are put together from the rest of the file."""
    path = tmp_path / CHECKPOINT
    network = PatchFcn(TINY_NETWORK)
    for step in (2, 4):
        save_checkpoint(path, {"step": step, "network": network.state_dict(), "random": torch.get_rng_state()})
    whole = path.read_bytes()
    found = set()
    for place in range(whole.index(b"data.pkl"), 1000, 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        kept = load_checkpoint(path)
        assert kept is not None
        found.add(kept.get("step"))
    assert 2 in found


@pytest.mark.parametrize("late", [False, True], ids=["", "as on a GPU"])
def test_a_poisoned_batch_stops_the_run_and_keeps_the_checkpoint(
    exams: list[ExamShard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    """NaN at step 5: the error names the step; without the poison the run goes on from step 4. So it does where the
    loss of a step is not there before the next one begins: no checkpoint is written that was not looked at.
    """
    monkeypatch.setattr(loop._StepLoss, "is_here", not late)

    class Poisoned(PatchBatches):
        def __getitem__(self, step: int) -> Step:
            drawn = super().__getitem__(step)
            if step == 5:
                drawn[0].hu[0, 0, 0, 0] = float("nan")
            return drawn

    drawn = batches(exams)
    drawn.__class__ = Poisoned
    with pytest.raises(TrainingError, match="not finite at step 5"):
        go(drawn, tmp_path / "run")
    kept = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert kept is not None
    assert kept["step"] == 4
    assert equal(go(batches(exams), tmp_path / "run"), go(batches(exams), tmp_path / "whole"))
