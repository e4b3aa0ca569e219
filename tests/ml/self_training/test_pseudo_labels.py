"""Soft scores, kept once, become targets under any C and K."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.bundle import Bundle
from ml.data.shards import ExamShard
from ml.errors import DataError
from ml.inference.preprocessing import to_channels
from ml.labels import IGNORE
from ml.self_training.labelling import score_corpus
from ml.self_training.models import Model, SelfTraining, make_pools
from ml.self_training.ranker import RankerConfig, rank
from ml.self_training.scores import ScoreStore
from ml.self_training.targets import PixelThresholds, PseudoLabels
from ml.training.recipe import PAPER_AUGMENTATION, Sampling
from ml.training.sampler import PatchBatches
from tests.ml.conftest import TINY_PREPROCESSING


@pytest.fixture
def store(teacher: Bundle, corpus: list[ExamShard], tmp_path: Path) -> ScoreStore:
    """The teacher's scores."""
    scores = ScoreStore(tmp_path / "scores")
    score_corpus(teacher, corpus, scores, engine="torch", progress=lambda _: None)
    return scores


def test_scores_are_what_the_teacher_says_without_augmentation(
    store: ScoreStore, teacher: Bundle, corpus: list[ExamShard]
) -> None:
    """To the step of 1/255, in evaluation mode."""
    exam = corpus[1]
    images = to_channels(exam.hu[exam.neighbours].astype(np.float32), TINY_PREPROCESSING)
    with torch.inference_mode():
        logits = teacher.make_network()(torch.from_numpy(images))
    for row in range(len(exam.neighbours)):
        kept = store.pixels(exam.folder.name, row) / 255
        assert np.abs(kept - logits.pixels[row].sigmoid().numpy()).max() <= 0.5 / 255 + 1e-5
    assert store.slice_logits(exam.folder.name) == pytest.approx(logits.classes.numpy(), abs=1e-4)


def test_labelling_goes_on_where_it_was_stopped(
    store: ScoreStore, teacher: Bundle, other_teacher: Bundle, corpus: list[ExamShard]
) -> None:
    """Finished exams stay; another teacher's scores are not mixed in."""
    path = store.folder / "000002.npz"
    kept = {one.name: one.stat().st_mtime_ns for one in store.folder.glob("*.npz") if one != path}
    path.unlink()
    score_corpus(teacher, corpus, store, engine="torch", progress=lambda _: None)
    assert path.is_file()
    assert {one.name: one.stat().st_mtime_ns for one in store.folder.glob("*.npz") if one != path} == kept
    with pytest.raises(DataError, match="another teacher"):
        score_corpus(other_teacher, corpus, store, engine="torch", progress=lambda _: None)


def test_an_exam_whose_images_came_later_is_scored_anew(
    store: ScoreStore, teacher: Bundle, corpus: list[ExamShard]
) -> None:
    """`prepare --rescan` made it again with a repaired slice: scores of the others would lie beside their images."""
    before = [replace(corpus[0], neighbours=corpus[0].neighbours[1:]), *corpus[1:]]
    (store.folder / f"{corpus[0].folder.name}.npz").unlink()
    score_corpus(teacher, before, store, engine="torch", progress=lambda _: None)
    for model in (Model.STUDENT, Model.NO_RANKER, Model.PIXEL_ORACLE):
        with pytest.raises(DataError, match="has other slices than"):
            make_pools(model, corpus, corpus, store, SelfTraining())
    score_corpus(teacher, corpus, store, engine="torch", progress=lambda _: None)
    assert len(store.slice_logits(corpus[0].folder.name)) == len(corpus[0].neighbours)
    make_pools(Model.STUDENT, corpus, corpus, store, SelfTraining())


def test_missing_and_damaged_scores_say_what_to_do(store: ScoreStore) -> None:
    """By the exam's name."""
    with pytest.raises(DataError, match="pseudo-label"):
        store.slice_logits("000009")
    path = store.folder / "000001.npz"
    whole = path.read_bytes()
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"remove 000001\.npz"):
        store.slice_logits("000001")
    for place in range(0, whole.index(b"PK\1\2"), 37):  # in what stands before the list of arrays
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with suppress(DataError):  # and nothing else
            store.pixels("000001", 2)
    with pytest.raises(DataError, match="pseudo-label"):
        ScoreStore(store.folder / "none").teacher_digest()


def test_pixels_between_the_two_k_are_ignored() -> None:
    """K > 0.7 positive, K < 0.3 negative (paper section 2.2)."""
    kept = np.round(np.array([0.0, 0.29, 0.31, 0.69, 0.71, 1.0]) * 255).astype(np.uint8)
    assert PixelThresholds().apply(kept).tolist() == [0, 0, IGNORE, IGNORE, 1, 1]
    assert PixelThresholds(0.5, 0.5).apply(kept).tolist() == [0, 0, 0, 1, 1, 1]


def test_c_and_k_change_without_the_teacher(store: ScoreStore, corpus: list[ExamShard]) -> None:
    """The same scores under two rules: the first C percent have pixels, all others are zero."""
    names = [exam.folder.name for exam in corpus]
    ranking = rank((name, store.slice_logits(name)) for name in names)
    best, row = ranking.place(int(ranking.order[0]))
    worst, last = ranking.place(int(ranking.order[-1]))
    exams = dict(zip(names, corpus, strict=True))
    few = PseudoLabels(store, ranking.rules(RankerConfig(10)), PixelThresholds())
    all_of_them = PseudoLabels(store, ranking.rules(RankerConfig(100)), PixelThresholds(0.5, 0.5))
    soft = PixelThresholds().apply(store.pixels(best, row))
    assert np.array_equal(few.pixels(exams[best], row), soft)
    assert not few.pixels(exams[worst], last).any()
    assert all_of_them.pixels(exams[worst], last).any()
    assert sum(len(few.used_slices(exam)) for exam in corpus) == 24


def test_each_model_learns_from_what_section_2_3_says(store: ScoreStore, corpus: list[ExamShard]) -> None:
    """Oracles use the reference label of the image; the corpus bleeds in the inner slices of every other exam."""

    def second(model: Model) -> list[list[set[int]]]:
        pool = make_pools(model, corpus, corpus, store, SelfTraining())[1]
        rows = [range(len(exam.neighbours)) for exam in corpus]
        return [
            [set(np.unique(pool.targets.pixels(exam, row)).tolist()) for row in part]
            for exam, part in zip(corpus, rows, strict=True)
        ]

    assert len(make_pools(Model.BASELINE, corpus, corpus, None, SelfTraining())) == 1
    assert all(one == {IGNORE} for exam in second(Model.SLICE_ORACLE) for one in exam)
    soft = [[one != {0} for one in exam] for exam in second(Model.PIXEL_ORACLE)]
    assert soft == [[number % 2 == 0 and row in (1, 2) for row in range(4)] for number in range(6)]
    assert all(one != {0} for exam in second(Model.NO_RANKER) for one in exam)
    assert sum(one != {0} for exam in second(Model.STUDENT) for one in exam) == 2  # 10 % of 24
    with pytest.raises(ValueError, match="teacher's scores"):
        make_pools(Model.STUDENT, corpus, corpus, None, SelfTraining())


def test_scores_of_other_images_are_refused(store: ScoreStore, corpus: list[ExamShard]) -> None:
    """A corpus that was prepared anew for another network: its masks would lie elsewhere in the images."""
    here = [replace(exam, grid=store.teacher().grid) for exam in corpus]
    assert len(make_pools(Model.STUDENT, corpus, here, store, SelfTraining())) == 2
    there = [replace(exam, grid=replace(store.teacher().grid, pixel_mm=1.0)) for exam in corpus]
    for model in (Model.STUDENT, Model.NO_RANKER, Model.PIXEL_ORACLE):
        with pytest.raises(DataError, match="another network"):
            make_pools(model, corpus, there, store, SelfTraining())
    assert len(make_pools(Model.SLICE_ORACLE, corpus, there, store, SelfTraining())) == 2


def test_a_left_out_slice_is_never_drawn_and_ignore_reaches_the_batch(
    store: ScoreStore, corpus: list[ExamShard]
) -> None:
    """With a band of everything behind C only the soft slices remain, with their ignored pixels."""
    config = SelfTraining(RankerConfig(10, ignore_band_percent=90))
    pools = make_pools(Model.STUDENT, corpus, corpus, store, config)
    assert len(pools[1].slices()[0]) == 2
    sampling = Sampling(batch=10, patch=32, labelled_share=0.6, positive=0.0, bleed_free=None)
    batches = PatchBatches(
        pools, TINY_PREPROCESSING, sampling=sampling, augmentation=PAPER_AUGMENTATION, seed=0, steps=2
    )
    (batch,) = batches[0]
    assert (batch.pixels[6:] == IGNORE).any()
    assert set(batch.pixels.flatten().tolist()) <= {0, 1, IGNORE}
