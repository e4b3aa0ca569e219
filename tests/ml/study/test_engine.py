"""The whole study in small: a teacher, its pseudo-labels, a ranking, a student, oracles, and their records.

The heads are drawn in milliseconds, the network and the steps are tiny; everything else is what a real study runs.
"""

import json
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.bundle import load_bundle
from ml.data.exams import LabelledExam, patient_key
from ml.data.shards import open_folder
from ml.errors import TrainingError
from ml.evaluation.metrics import auc
from ml.evaluation.records import RecordSet
from ml.evaluation.study import ModelRole, Study, read_study
from ml.evaluation.writing import write_report
from ml.labels import IGNORE, Subtype
from ml.progress import Tell
from ml.self_training.models import Model, SelfTraining, make_pools
from ml.self_training.ranker import RankerConfig
from ml.self_training.scores import ScoreStore
from ml.study import engine
from ml.study.engine import NOT_YET, StudyRun, run_study, train_models
from ml.study.exams import KeptSource, Part, Parts
from ml.study.models import ENTRIES
from ml.study.scales import PAPER_SCALE, SCALES, Scale
from ml.training.losses import segmentation_loss
from ml.training.recipe import COMPACT_RECIPE, PAPER_AUGMENTATION, Machine, Sampling
from ml.training.sampler import PatchBatches
from ml.volume import Volume
from tests.ml.conftest import TINY_NETWORK, TINY_PREPROCESSING, geometry
from tests.ml.stages import Stages

RECIPE = replace(
    COMPACT_RECIPE,
    learning_rate=1e-2,
    warm_up_steps=2,
    average_decay=0.9,
    sampling=Sampling(batch=5, patch=32),
    augmentation=PAPER_AUGMENTATION,
)
TINY = Scale("tiny", "Discs.", 128, 4, 8, 4, 4, 2, TINY_NETWORK, TINY_PREPROCESSING, RECIPE, steps=20)


@dataclass(frozen=True)
class DrawnHeads:
    """Noisy discs of brain in a ring of bone; every other one has a bright ball in it."""

    institution: str
    count: int
    offset_hu: float = 0.0
    noise_hu: float = 3.0

    @property
    def name(self) -> str:
        """See ExamSource."""
        return f"drawn:{self.institution}+{self.count}"

    @property
    def exams(self) -> tuple[str, ...]:
        """See ExamSource."""
        return tuple(f"{self.institution}{number}" for number in range(self.count))

    def read(self, wanted: Sequence[str]) -> Iterator[LabelledExam]:
        """See ExamSource."""
        for exam in wanted:
            yield self._draw(exam, bleeding=int(exam.removeprefix(self.institution)) % 2 == 0)

    def _draw(self, exam: str, *, bleeding: bool) -> LabelledExam:
        rng = np.random.default_rng(zlib.crc32(exam.encode()))
        z, y, x = np.mgrid[:6, :64, :64].astype(np.float32)
        radius = np.hypot(y - 32, x - 32)
        hu = np.where(radius < 27, 30 + self.offset_hu + rng.normal(0, self.noise_hu, radius.shape), -1000)
        hu[(radius >= 24) & (radius < 27)] = 900
        centre = rng.uniform(20, 44, size=2)
        ball = (np.hypot(y - centre[0], x - centre[1]) < 6) & (abs(z - 2.5) < 2) & bleeding
        hu[ball] = 70 + self.offset_hu
        volume = Volume(hu.astype(np.float32), geometry(np.arange(0.0, 30.0, 5.0), spacing_mm=(3.5, 3.5)))
        pixels = np.where(ball, Subtype.IPH, 0).astype(np.uint8)
        return LabelledExam("drawn", exam, patient_key("drawn", exam), volume, pixels)


PARTS: Parts = {
    Part.LABELLED: DrawnHeads("a", TINY.labelled),
    Part.CORPUS: DrawnHeads("b", TINY.corpus, offset_hu=4, noise_hu=6),
    Part.VALIDATION: DrawnHeads("v", TINY.validation, offset_hu=2),
    Part.TEST: DrawnHeads("t", TINY.test, offset_hu=4, noise_hu=6),
    Part.IN_DISTRIBUTION: DrawnHeads("i", TINY.in_distribution),
}


def study_run(out: Path) -> StudyRun:
    """One in ten slices has blood here, and one in five of the corpus: C = 20 %."""
    machine = Machine(loader_workers=0, checkpoint_steps=5, tensorboard=False)
    return StudyRun(out, TINY, machine, SelfTraining(RankerConfig(20)), seed=2, engine="torch")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    """A finished study."""
    out = tmp_path_factory.mktemp("study")
    return out, run_study(study_run(out), PARTS, Stages())


def records(done: tuple[Path, Study], model: str, set_name: str) -> RecordSet:
    """Of a model on a set."""
    out, study = done
    return study.records(out, model, set_name)


def test_every_model_is_trained_and_judged(done: tuple[Path, Study]) -> None:
    """All rows of Tables 1 to 3, on the sets that they need, three readings of the test set for Table 4."""
    out, study = done
    assert read_study(out) == study
    assert [one.name for one in study.models] == [entry.row.name for entry in ENTRIES]
    assert not any(model.not_run for model in study.models)
    for entry in ENTRIES:
        for role in entry.sets:
            assert not records(done, entry.row.name, role).missing
    assert records(done, ModelRole.STUDENT, "test-reading-3").origin.reading == 3
    assert study.seconds is not None
    assert study.seconds > 0
    digests = {entry.row.name: records(done, entry.row.name, "validation").origin.digest for entry in ENTRIES}
    assert digests.pop(ModelRole.CONTRAST_ALL) == digests[ModelRole.BASELINE]
    assert len(set(digests.values())) == len(digests)


def test_losses_fall(done: tuple[Path, Study]) -> None:
    """Of the teacher, between its first checkpoint and its last; the student starts lower than the teacher did."""
    out, _ = done
    lines = {
        name: [json.loads(line) for line in (out / "work" / "models" / name / "log.jsonl").read_text().splitlines()]
        for name in ("baseline", "student")
    }
    teacher, student = ([line["loss"] for line in lines[name]] for name in ("baseline", "student"))
    assert teacher == sorted(teacher, reverse=True)
    assert teacher[-1] < 0.97 * teacher[0]
    assert student[0] < teacher[0]


def test_the_minibatches_of_the_student_are_mixed_and_its_ignored_pixels_give_no_gradient(
    done: tuple[Path, Study],
) -> None:
    """0.6 of 5 patches are 3; what is ignored in a batch gives no gradient."""
    out, _ = done
    labelled, corpus = (open_folder(out / "work" / "exams" / part) for part in (Part.LABELLED, Part.CORPUS))
    pools = make_pools(
        Model.STUDENT, labelled, corpus, ScoreStore(out / "work" / "teacher" / "scores"), study_run(out).config
    )
    sampling, augmentation = RECIPE.sampling, RECIPE.augmentation
    batches = PatchBatches(
        pools, TINY_PREPROCESSING, sampling=sampling, augmentation=augmentation, seed=2, steps=TINY.steps or 0
    )
    shares = [[count for _, count in batches.shares(step)] for step in range(20)]
    assert shares == [[3, 2]] * 20
    pixels = torch.cat([batches[step][0].pixels[3:] for step in range(20)])
    assert (pixels == IGNORE).any()
    logits = torch.randn(pixels.shape, requires_grad=True)
    torch.autograd.backward(segmentation_loss(logits, pixels, RECIPE.loss))
    assert logits.grad is not None
    assert not logits.grad[pixels == IGNORE].any()
    assert logits.grad[pixels != IGNORE].abs().min() > 0


def test_the_ranker_calls_the_first_percent_of_the_corpus_positive(done: tuple[Path, Study]) -> None:
    """20 % of 48 slices, by the teacher's own probabilities, and written down."""
    out, _ = done
    kept = json.loads((out / "work" / "teacher" / "ranking.json").read_text())
    assert (kept["slices"], kept["positive_percent"]) == (48, 20)
    assert kept["teacher"] == load_bundle(out / "work" / "models" / "baseline" / "trained").identity.digest


def test_what_the_tables_add_up_is_what_the_records_hold(done: tuple[Path, Study]) -> None:
    """Exam AUC by pairs and DSC by pixels, counted here once more from the masks."""
    found = records(done, ModelRole.STUDENT, "test")
    pairs = [
        (one.exam_score > two.exam_score) + 0.5 * (one.exam_score == two.exam_score)
        for one in found.records
        for two in found.records
        if one.bleeding and not two.bleeding
    ]
    scores, bleeding = [one.exam_score for one in found.records], [one.bleeding for one in found.records]
    assert auc(scores, bleeding) == pytest.approx(np.mean(pairs))
    for record in found.records:
        masks = found.pixels(record).masks
        truth, over = masks["truth"], masks["over_threshold"]
        assert record.counts is not None
        assert sum(record.counts.truth) == truth.sum()
        assert sum(record.counts.over_threshold_true) == (truth & over).sum()
        assert record.bleeding == truth.any()


def test_a_study_that_is_stopped_goes_on_to_the_same_bundles(done: tuple[Path, Study], tmp_path: Path) -> None:
    """Stopped within the training of the student, between two checkpoints."""

    class Stopped(Exception):
        pass

    def stage(name: str, _: int | None) -> Tell:
        def tell(_: str, done: int | None = None, /) -> None:
            if name == "student" and done == 13:
                raise Stopped

        return tell

    out, _ = done
    run = replace(study_run(tmp_path / "stopped"), entries=ENTRIES[:2])
    with pytest.raises(Stopped):
        run_study(run, PARTS, stage)
    assert [bool(one.not_run) for one in read_study(run.out).models] == [False, True]
    assert read_study(run.out).models[1].not_run == NOT_YET
    run_study(run, PARTS, Stages())
    for name in ("baseline", "student"):
        bundles = [load_bundle(folder / "work" / "models" / name / "bundle") for folder in (out, run.out)]
        assert all(torch.equal(tensor, bundles[1].weights[key]) for key, tensor in bundles[0].weights.items())
        assert bundles[0].config.operating_point == bundles[1].config.operating_point


def test_the_time_of_a_study_counts_what_was_stopped_and_is_unknown_after_a_kill(
    done: tuple[Path, Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour in which nothing is finished: ended by an error, or by a kill, which lets nothing be written."""
    out, study = done
    assert study.seconds is not None
    run = replace(study_run(tmp_path), entries=ENTRIES[:2])
    killed: list[bytes] = []
    hours = iter(range(100))

    def stage(name: str, parts: int | None) -> Tell:
        if name == "student on test":
            killed.append((run.out / "study.json").read_bytes())
            raise KeyboardInterrupt
        return Stages()(name, parts)

    shutil.copytree(out, run.out, dirs_exist_ok=True)
    with monkeypatch.context() as clock:
        clock.setattr(time, "monotonic", lambda: 3600.0 * next(hours))
        with pytest.raises(KeyboardInterrupt):
            run_study(run, PARTS, stage)
    stopped = run_study(run, PARTS, Stages())
    assert stopped.seconds == pytest.approx(study.seconds + 3600, abs=60)
    (run.out / "study.json").write_bytes(killed[0])
    assert run_study(run, PARTS, Stages()).seconds is None
    assert "It took" not in write_report(run.out, tmp_path / "report", lambda _: None).read_text()


def test_a_study_with_other_options_is_refused_and_stays_as_it_is(done: tuple[Path, Study]) -> None:
    """Else its report would name a seed, a C or a scale that its models never had."""
    out, study = done
    run = study_run(out)
    others = {
        "seed": replace(run, seed=3),
        "pseudo-labels": replace(run, config=SelfTraining(RankerConfig(5))),
        "scale": replace(run, scale=replace(TINY, sentence="Larger discs.", steps=30)),
    }
    for name, other in others.items():
        with pytest.raises(TrainingError, match=f"with other {name} "):
            run_study(other, PARTS, Stages())
        with pytest.raises(TrainingError, match=f"with other {name} "):
            train_models(other, ["student"], PARTS, Stages())
    with pytest.raises(TrainingError, match="with other exams "):
        run_study(run, {**PARTS, Part.TEST: DrawnHeads("t", 6)}, Stages())
    assert read_study(out) == study


def test_models_that_were_trained_elsewhere_are_judged_without_the_corpus(
    done: tuple[Path, Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained one by one as several processes would; then the exams to train on and the scores are gone."""
    out, _ = done
    run = replace(study_run(tmp_path), entries=ENTRIES[:2])
    monkeypatch.setattr(engine, "_machine", lambda _: "a machine with a GPU")
    for name in ("baseline", "student"):
        train_models(run, [name], PARTS, Stages())
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "work" / "exams")
    shutil.rmtree(tmp_path / "work" / "teacher")
    stages = Stages()
    study = run_study(run, PARTS, stages)
    assert not {"pseudo-labels", "exams: corpus", "exams: labelled", "baseline", "student"} & set(stages.seen)
    assert (study.shared, study.seconds) == (True, None)
    first, second = study.machine.split("; ")
    assert first == "a machine with a GPU"
    assert "CPU cores" in second
    for name in ("baseline", "student"):
        ours, theirs = (load_bundle(folder / "work" / "models" / name / "bundle") for folder in (tmp_path, out))
        assert all(torch.equal(tensor, theirs.weights[key]) for key, tensor in ours.weights.items())


def test_kept_exams_are_bit_by_bit_those_of_their_source(tmp_path: Path) -> None:
    """The second reading comes from disk."""
    source = PARTS[Part.TEST]
    kept = KeptSource(source, tmp_path)
    first, second = list(kept.read(kept.exams)), list(kept.read(kept.exams[1:]))
    for one, two in zip(first[1:], second, strict=True):
        assert one.exam == two.exam
        assert one.patient == two.patient
        assert np.array_equal(one.volume.hu, two.volume.hu)
        assert one.pixels is not None
        assert two.pixels is not None
        assert np.array_equal(one.pixels, two.pixels)
        assert np.array_equal(one.volume.geometry.positions_lps, two.volume.geometry.positions_lps)
        assert one.volume.geometry.sop_instance_uids == two.volume.geometry.sop_instance_uids


def test_exams_that_two_processes_keep_stay_under_their_names(tmp_path: Path) -> None:
    """The same command twice: one process has kept an exam that the other has not come to yet."""
    source = PARTS[Part.TEST]
    one, other = KeptSource(source, tmp_path), KeptSource(source, tmp_path)
    reading = one.read(one.exams)
    found = [next(reading)]
    list(other.read(other.exams[1:2]))
    found += reading
    assert [exam.exam for exam in found] == list(source.exams)
    assert [exam.exam for exam in one.read(one.exams)] == list(source.exams)


def test_scales_fit_their_networks() -> None:
    """Channels, and sizes that the output stride divides; the paper's scale is the paper's."""
    for scale in SCALES.values():
        assert scale.network.trunk.in_channels == scale.preprocessing.channels
        stride = scale.network.trunk.output_stride
        assert scale.recipe.sampling.patch % stride == 0
        assert scale.preprocessing.size % stride == 0
    assert (PAPER_SCALE.labelled, PAPER_SCALE.corpus, PAPER_SCALE.test) == (457, 25_000, 481)
