"""The default bundle's making, from simulated exams to a folder that the node can load."""

import json
import resource
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.bundle import BUNDLES, load_bundle
from ml.config import COMPACT_PREPROCESSING, PAPER_PREPROCESSING, Provenance
from ml.errors import TrainingError
from ml.networks.patchfcn import PAPER
from ml.phantom import draw_spec, simulate
from ml.phantom.dicom import write_series
from ml.training import compact
from ml.training.calibration import EXAM_POINT, UNCALIBRATED
from ml.training.compact import TRAINED, CompactRun, Finish, finish, mean_weights, train_compact
from ml.training.recipe import Machine
from ml.training.runs import note_facts
from ml.training.shards import make_shard
from tests.ml.stages import Stages


def compact_run(folder: Path, **values: Any) -> CompactRun:
    """A run of two steps in a folder."""
    small: dict[str, Any] = {"seed": 0, "steps": 2, "batch": 2, "learning_rate": 1e-3, "matrix": 128, "workers": 0}
    machine = Machine(loader_workers=0, tensorboard=False)
    named: dict[str, Any] = {"command": "train-compact", "version": "9", "machine": machine}
    return CompactRun(out=folder / "run", shards=folder / "shards", **small, **named, **values)


def test_weights_are_averaged_and_counters_are_not() -> None:
    """A batch norm's mean is a weight, the number of batches it has seen is not."""
    one = {"conv.weight": torch.tensor([1.0, 3.0]), "norm.num_batches_tracked": torch.tensor(7)}
    other = {"conv.weight": torch.tensor([3.0, 5.0]), "norm.num_batches_tracked": torch.tensor(4)}
    found = mean_weights(one, other)
    assert torch.equal(found["conv.weight"], torch.tensor([2.0, 4.0]))
    assert found["norm.num_batches_tracked"] == 7


def test_a_later_run_trains_on_other_heads(tmp_path: Path) -> None:
    """Within each kind, and never on those that calibrate or test."""
    kinds = {"exams": 3, "layers": 2, "masses": 1, "craniectomies": 1, "children": 1, "moving": 2}
    first = compact_run(tmp_path, **kinds)
    later = compact_run(tmp_path, **kinds, first_seed=3)
    assert first.seeds == [0, 1, 2, 500_000, 500_001, 600_000, 700_000, 800_000, 900_000, 900_001]
    assert later.seeds == [seed + 3 for seed in first.seeds]
    last = compact_run(tmp_path, **kinds, first_seed=90_000)
    assert max(last.seeds) < compact.VALIDATION_SEEDS_FROM
    assert len(set(last.seeds)) == 10


@pytest.mark.parametrize(("stop_at", "end"), [(None, 2), (1, 1), (2, 2), (9, 2)])
def test_a_training_ends_with_its_learning_rate_at_the_latest(tmp_path: Path, stop_at: int | None, end: int) -> None:
    """Steps behind the last have no rate left."""
    assert compact_run(tmp_path, exams=2, stop_at=stop_at).end == end


def test_no_head_is_scanned_twice() -> None:
    """Institutions that share heads would count each of them thrice."""
    for first in (compact.VALIDATION_SEEDS_FROM, compact.TEST_SEEDS_FROM):
        seeds = [seed for _, those in compact.heads_of(compact.TESTED_AT, first, 5) for seed in those]
        assert len(set(seeds)) == len(seeds) == 5 * len(compact.TESTED_AT)


def test_a_training_that_has_not_ended_cannot_be_finished(tmp_path: Path) -> None:
    """The message says what to do."""
    with pytest.raises(TrainingError, match="train-compact again"):
        finish(tmp_path, Finish(2, 2, 128, 0), Stages())


def test_trained_weights_are_whole_or_not_there(tmp_path: Path) -> None:
    """A disk that is full: half of a file could not be finished, and what was there before still can."""
    facts = {"version": "9", "provenance": json.dumps(asdict(Provenance("none", "tests", 0, "none", 4)))}
    before = {"weight": torch.ones(4)}
    compact._keep_trained(tmp_path, before, facts)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(TrainingError, match="free space and run the same command again"):
            compact._keep_trained(tmp_path, {"weight": torch.zeros(10_000)}, facts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    weights, version, provenance = compact._load_trained(tmp_path)
    assert (version, provenance.steps) == ("9", 4)
    assert torch.equal(weights["weight"], before["weight"])
    assert [path.name for path in tmp_path.iterdir()] == [TRAINED]


def test_a_folder_goes_on_with_its_own_run_only(tmp_path: Path) -> None:
    """Else the bundle tells of a seed that it was not made with. Where it ends and on what machine may change."""
    first = compact_run(tmp_path, exams=3, rounds=2)
    note_facts(first.out, compact.facts_of(first))
    (first.out / "checkpoint.pt").write_bytes(b"of it")
    for change in ({"seed": 9}, {"steps": 70}, {"layers": 1}, {"rounds": 1}):
        with pytest.raises(TrainingError, match="a folder of its own"):
            train_compact(replace(first, **change), Stages())  # type: ignore[arg-type]
    later = replace(first, stop_at=1, workers=3, version="7", command="again", learning_rate=0.5)
    assert compact.facts_of(later) == compact.facts_of(first)
    assert not first.shards.exists()


def place_shards(folder: Path) -> None:
    """Shards of the first two training seeds that hold a head with blood and one without."""
    seeds = [next(seed for seed in range(50) if bool(draw_spec(seed).head.bleeds) is bleed) for bleed in (True, False)]
    for place, seed in enumerate(seeds):
        make_shard(folder / "drawn", seed, COMPACT_PREPROCESSING, 128)
        (folder / "shards").mkdir(exist_ok=True)
        (folder / "drawn" / f"{seed:06}").rename(folder / "shards" / f"{place:06}")


@pytest.mark.slow
def test_a_training_may_end_before_its_learning_rate_fell(tmp_path: Path) -> None:
    """With the weights of that step, in the round that it lies in; what is kept says how many steps it was."""
    place_shards(tmp_path)
    run = compact_run(tmp_path, exams=2, rounds=2, stop_at=1)
    stages = Stages()
    train_compact(run, stages)
    assert list(stages.seen) == ["simulating exams", "training to 1"]
    weights, _, provenance = compact._load_trained(run.out)
    kept = torch.load(run.out / "checkpoint.pt", weights_only=False)
    assert (provenance.steps, kept["step"]) == (1, 1)
    assert all(torch.equal(weights[name], kept["averaged"][name]) for name in weights)


def test_the_card_of_a_bundle_that_saw_patients_does_not_deny_it() -> None:
    """`measure` takes any bundle: the paper's network, trained on a laboratory's exams, not calibrated."""
    shipped = load_bundle("default").config
    provenance = replace(shipped.provenance, data="prepared exams")
    lab = replace(
        shipped, network=PAPER, preprocessing=PAPER_PREPROCESSING, calibration=UNCALIBRATED, provenance=provenance
    )
    text = compact.card(lab, {"A": {"exam_auc": 0.9}})
    assert "Trained on: prepared exams.\n" in text
    assert "no patient" not in text
    assert "three\nneighbouring slices in one window, 0.5 mm pixels" in text
    assert "compact variant" not in text
    assert "Scores are not calibrated" in text
    assert "are calibrated" not in text


def test_the_shipped_card_is_what_the_shipped_bundle_and_its_figures_say() -> None:
    """Word by word."""
    folder = BUNDLES / (BUNDLES / "DEFAULT").read_text().strip()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (folder / "CARD.md").read_text() == compact.card(load_bundle("default").config, metrics)


@pytest.mark.slow
def test_a_bundle_says_that_real_heads_were_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that painted into them, and every later one that starts from its weights or takes the mean with them."""
    place_shards(tmp_path)
    monkeypatch.setattr(compact, "CALIBRATED_AT", ("A",))
    monkeypatch.setattr(compact, "TESTED_AT", ("A",))
    monkeypatch.setattr(compact, "VALIDATION_SEEDS_FROM", 1_000_001)  # as below
    head = tmp_path / "head"
    write_series(simulate(draw_spec(21, institution="A", bleed=False), matrix=128), head)

    first = compact_run(tmp_path, exams=2, backgrounds=(head,), painted=2)
    train_compact(first, Stages())
    with pytest.raises(TrainingError, match="a folder of its own"):
        train_compact(replace(first, painted=4), Stages())
    finish(first.out, Finish(2, 2, 128, 0, "cpu"), Stages())
    assert "Trained on simulated scans, and on scans of real heads" in (first.out / "bundle" / "CARD.md").read_text()
    for base in ("start_from", "average_with"):
        later = replace(compact_run(tmp_path, exams=2, **{base: first.out / "bundle"}), out=tmp_path / base)
        train_compact(later, Stages())
        assert compact._load_trained(later.out)[2].data == compact.WITH_BACKGROUNDS


@pytest.mark.slow
def test_a_bundle_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds, the second with lures, then calibrated and tested: it loads, and tells how it was made."""
    place_shards(tmp_path)
    run = compact_run(tmp_path, exams=2, rounds=2)
    stages = Stages()
    train_compact(run, stages)
    assert (run.out / TRAINED).is_file()
    assert (run.out / "lures-1.json").is_file()
    monkeypatch.setattr(compact, "CALIBRATED_AT", ("A",))
    monkeypatch.setattr(compact, "TESTED_AT", ("A",))
    monkeypatch.setattr(compact, "VALIDATION_SEEDS_FROM", 1_000_001)  # a head without blood, and one with it
    finish(run.out, Finish(2, 2, 128, 0, "cpu", "finish-compact", "9.1"), stages)
    bundle = load_bundle(run.out / "bundle")
    assert bundle.config.version == "9.1"
    assert bundle.config.provenance.command == "train-compact && finish-compact"
    assert bundle.config.operating_point.exam_score == EXAM_POINT
    assert list(stages.seen)[:4] == ["simulating exams", "training to 1", "lures at 1", "training to 2"]
    assert (stages.done["training to 1"], stages.done["training to 2"]) == (1, 1)
    assert list(stages.seen)[4:] == ["calibrating", "testing on A"]
    card = (run.out / "bundle" / "CARD.md").read_text()
    assert "Each has heads of its own" in card
    assert "\n1. `train-compact`\n2. `finish-compact`\n" in card
    assert "Trained on simulated scans only" in card
