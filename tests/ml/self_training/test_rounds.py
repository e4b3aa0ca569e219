"""Teacher, pseudo-labels, ranking, student, by files; and the commands for it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ml.bundle import load_bundle
from ml.cli import app
from ml.data.shards import ExamShard
from ml.errors import DataError, TrainingError
from ml.networks.patchfcn import PAPER
from ml.self_training.cli import make_run
from ml.self_training.models import Model, SelfTraining, make_pools
from ml.self_training.ranker import RankerConfig
from ml.self_training.rounds import self_train
from ml.self_training.scores import ScoreStore
from ml.self_training.targets import PixelThresholds
from ml.training.loop import CHECKPOINT
from ml.training.recipe import COMPACT_RECIPE, Machine, Sampling
from ml.training.runs import TrainingRun, train_bundle
from tests.ml.conftest import TINY_NETWORK, TINY_PREPROCESSING
from tests.ml.processes import run_python
from tests.ml.stages import Stages
from tests.ml.training.conftest import write_exam

RECIPE = replace(COMPACT_RECIPE, warm_up_steps=1, sampling=Sampling(batch=4, patch=32))


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    """Four steps of a tiny network."""
    machine = Machine(loader_workers=0, checkpoint_steps=2, tensorboard=False)
    return TrainingRun(
        tmp_path / "run", "tiny", "discs", RECIPE, TINY_NETWORK, TINY_PREPROCESSING, machine, seed=1, steps=4
    )


def test_two_rounds_make_a_student_of_a_student(
    run: TrainingRun, labelled: list[ExamShard], corpus: list[ExamShard]
) -> None:
    """Every step is on disk, the second teacher is the first student, and nothing is done twice."""
    config = SelfTraining(RankerConfig(30), rounds=2)
    student = self_train(run, labelled, corpus, config, Stages())
    bundles = {
        path.parent.parent.relative_to(run.out).as_posix(): load_bundle(path.parent).identity.digest
        for path in run.out.rglob("bundle.json")
    }
    assert set(bundles) == {"teacher", "round-1/student", "round-2/student"}
    assert len(set(bundles.values())) == 3
    assert student.identity.digest == bundles["round-2/student"]
    teachers = [json.loads((run.out / f"round-{n}" / "ranking.json").read_text())["teacher"] for n in (1, 2)]
    assert teachers == [bundles["teacher"], bundles["round-1/student"]]
    before = {path: path.stat().st_mtime_ns for path in run.out.rglob("*.*") if path.name != "teacher.json"}
    again = self_train(run, labelled, corpus, config, Stages())
    assert again.identity.digest == student.identity.digest
    changed = [path.name for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert set(changed) <= {"ranking.npz", "ranking.json"}


def test_the_student_starts_from_the_weights_of_the_teacher(run: TrainingRun, labelled: list[ExamShard]) -> None:
    """Paper, section 2.2: with a learning rate of 0 it is the teacher still, but for its batch norms."""
    pools = make_pools(Model.BASELINE, labelled, [], None, SelfTraining())
    teacher = train_bundle(run, pools)
    still = replace(run, out=run.out / "still", recipe=replace(RECIPE, learning_rate=0.0), seed=7)
    student = train_bundle(still, pools, start=teacher)
    learned = [name for name in teacher.weights if "running" not in name and "num_batches" not in name]
    assert learned
    for name in learned:
        assert torch.allclose(student.weights[name], teacher.weights[name], atol=1e-6), name


def test_a_folder_goes_on_with_its_own_run_only(
    run: TrainingRun, labelled: list[ExamShard], corpus: list[ExamShard]
) -> None:
    """Stopped or finished: another seed, recipe, start, set of exams or label would be mixed into it, or never used."""
    pools = make_pools(Model.BASELINE, labelled, [], None, SelfTraining())

    def stop(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_bundle(run, pools, progress=stop)
    (run.out / CHECKPOINT).rename(run.out / f"{CHECKPOINT}.previous")  # as where it was killed between two names
    fewer = make_pools(Model.BASELINE, labelled[:3], [], None, SelfTraining())
    oracle = make_pools(Model.SLICE_ORACLE, labelled, corpus, None, SelfTraining())
    other_recipe = replace(run, recipe=replace(RECIPE, learning_rate=0.5))
    for _ in range(2):
        for other, what in ((replace(run, seed=2), "seed"), (replace(run, steps=6), "steps"), (other_recipe, "recipe")):
            with pytest.raises(TrainingError, match=f"other {what} "):
                train_bundle(other, pools)
        for these in (fewer, oracle):
            with pytest.raises(TrainingError, match="other pools"):
                train_bundle(run, these)
        corrected = [replace(labelled[0], hemorrhage_ml=0.5), *labelled[1:]]
        with pytest.raises(TrainingError, match="other labels"):
            train_bundle(run, make_pools(Model.BASELINE, corrected, [], None, SelfTraining()))
        elsewhere = replace(run, machine=replace(run.machine, loader_workers=1, checkpoint_s=1.0))
        assert train_bundle(elsewhere, pools).config.provenance.steps == 4
    (run.out / "run.json").unlink()
    assert train_bundle(replace(run, seed=2), pools).config.provenance.seed == 1


def test_another_c_needs_another_run(run: TrainingRun, labelled: list[ExamShard], corpus: list[ExamShard]) -> None:
    """The student of 30 percent must not stand beside a ranking of 60; K is in the student's own run."""
    config = SelfTraining(RankerConfig(30))
    self_train(run, labelled, corpus, config, Stages())
    with pytest.raises(DataError, match="C = 30"):
        self_train(run, labelled, corpus, SelfTraining(RankerConfig(60)), Stages())
    assert json.loads((run.out / "round-1" / "ranking.json").read_text())["positive_percent"] == 30
    with pytest.raises(TrainingError, match="other pools"):
        self_train(run, labelled, corpus, replace(config, thresholds=PixelThresholds(0.8, 0.2)), Stages())


def test_exams_and_network_must_fit(run: TrainingRun, labelled: list[ExamShard]) -> None:
    """Said before the first step."""
    pools = make_pools(Model.BASELINE, labelled, [], None, SelfTraining())
    with pytest.raises(TrainingError, match="channels"):
        train_bundle(replace(run, network=PAPER), pools)


@pytest.mark.parametrize("epochs", [1, 4, 7, 100])
def test_other_numbers_of_epochs_keep_the_proportion_of_the_decay(epochs: int, tmp_path: Path) -> None:
    """Two, at 0.4 and 0.8 of the training, as with 600 epochs."""
    run = make_run(tmp_path, "n", "paper", Machine(), seed=0, epochs=epochs, steps=None, ema=None)
    span = run.recipe.length(1600, alone=True)
    rates = [run.recipe.rate(step, span) for step in range(span.steps)]
    falls = [step for step in range(1, span.steps) if rates[step] < rates[step - 1]]
    assert falls == [span.steps * 2 // 5, span.steps * 4 // 5]


def test_the_commands_lead_from_exams_to_a_student(tmp_path: Path) -> None:
    """train, pseudo-label, rank --inspect and train --model student, with the compact network for one step each."""
    for seed in range(2):
        write_exam(tmp_path / "a", seed, bleeding=seed == 0, size=256, slices=3)
        write_exam(tmp_path / "b", seed, bleeding=seed == 0, size=256, slices=3)
    a, b, scores = str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "scores")
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    training = ["--network", "compact", "--steps", "1", "--loader-workers", "0", "--device", "cpu"]
    commands = [
        ["train", "--labelled", a, "--out", str(teacher), *training],
        ["pseudo-label", str(teacher / "trained"), "--unlabelled", b, "--out", scores, "--engine", "torch"],
        ["rank", scores, "--unlabelled", b, "--out", str(tmp_path / "ranking"), "--inspect", "--c", "50"],
        ["train", "--model", "student", "--labelled", a, "--unlabelled", b, "--scores", scores, "--out", str(student),
         "--start-from", str(teacher / "trained"), *training],
    ]  # fmt: skip
    for command in commands:
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
    assert load_bundle(student / "trained").config.name == "student"
    assert len(list((tmp_path / "ranking").glob("C*.png"))) == 6
    assert json.loads((tmp_path / "ranking" / "ranking.json").read_text())["slices"] == 6
    assert list((teacher / "tensorboard").iterdir())
    refused = CliRunner().invoke(app, ["train", "--labelled", str(tmp_path), "--out", str(student)])
    assert "no prepared exams" in str(refused.exception)


def test_exams_without_labels_of_pixels_are_not_among_the_labelled(tmp_path: Path) -> None:
    """BHSD and INSTANCE lie with their unlabelled exams in one folder; a set without masks is refused."""
    for seed in range(3):
        write_exam(tmp_path / "a", seed, bleeding=seed == 0, size=256, slices=3)
    facts = tmp_path / "a" / "000002" / "exam.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"level": "none", "hemorrhage_ml": None}))
    arguments = ["--network", "compact", "--steps", "1", "--loader-workers", "0", "--device", "cpu"]
    arguments += ["--labelled", str(tmp_path / "a"), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["train", *arguments])
    assert done.exit_code == 0, done.exception
    assert "1 of 3 exams of --labelled have no labels of their pixels" in done.output
    for seed in range(2):
        shutil.rmtree(tmp_path / "a" / f"{seed:06}")
    refused = CliRunner().invoke(app, ["train", *arguments])
    assert isinstance(refused.exception, DataError)
    assert "none of the 1 exams" in str(refused.exception)


@pytest.mark.parametrize(("model", "missing"), [("slice-oracle", "--unlabelled"), ("student", "--scores")])
def test_what_a_model_needs_is_asked_for(model: str, missing: str, labelled: list[ExamShard]) -> None:
    """As an option that is missing, before anything is read."""
    folder = str(labelled[0].folder.parent)
    corpus = [] if missing == "--unlabelled" else ["--unlabelled", folder]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["train", "--model", model, "--labelled", folder, "--out", folder, *corpus]
    )
    assert done.exit_code == 2
    assert f"--model {model} needs {missing}" in done.output


def test_two_processes_self_train_as_one(tmp_path: Path) -> None:
    """torchrun -m ml self-train: one teacher, one corpus shared out, one student, to rounding that of one process."""
    for seed in range(3):
        write_exam(tmp_path / "a", seed, bleeding=seed == 0, size=256, slices=3)
        write_exam(tmp_path / "b", seed, bleeding=seed == 0, size=256, slices=3)
    options = ["-m", "ml", "self-train", "--labelled", "a", "--unlabelled", "b", "--c", "50", "--network", "compact"]
    options += ["--steps", "1", "--loader-workers", "0", "--device", "cpu", "--threads", "1", "--out"]
    found = {}
    for out, processes in (("alone", 1), ("both", 2)):
        printed = run_python([*options, out], cwd=tmp_path, processes=processes)
        assert printed.count("bundle semi-supervised") == 1
        folder = tmp_path / out / "round-1"
        logits = [ScoreStore(folder / "scores").slice_logits(f"{seed:06}") for seed in range(3)]
        found[out] = logits, load_bundle(folder / "student" / "trained").weights
    (one_logits, one_weights), (two_logits, two_weights) = found["alone"], found["both"]
    for one, two in zip(one_logits, two_logits, strict=True):
        assert one == pytest.approx(two, abs=1e-3)
    for name, tensor in one_weights.items():
        assert torch.allclose(tensor.float(), two_weights[name].float(), atol=2e-3), name
