"""The whole corpus in one order."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml.errors import DataError
from ml.self_training.ranker import F32Array, RankerConfig, Rule, rank, read_ranking, write_ranking


def scores(*exams: list[float]) -> list[tuple[str, F32Array]]:
    """Exams a, b, ... with these logits."""
    return [(chr(97 + number), np.array(one, dtype=np.float32)) for number, one in enumerate(exams)]


def test_slices_are_ordered_from_high_to_low_and_ties_keep_the_order_of_the_corpus() -> None:
    """Across exams; the same scores always give the same ranks."""
    ranking = rank(scores([0.2, 0.9], [0.5, 0.9, 0.1]))
    assert [ranking.place(number) for number in ranking.order.tolist()] == [
        ("a", 1), ("b", 1), ("b", 0), ("a", 0), ("b", 2),
    ]  # fmt: skip


def test_clear_bleeds_are_ordered_too_although_their_probability_rounds_to_1() -> None:
    """A probability in float32 is 1 from a logit of 17; which of 10 % of a corpus is first would be chance."""
    ranking = rank(scores([17.5, 40.0], [25.0, 18.0]))
    assert ranking.order.tolist() == [1, 2, 3, 0]
    assert np.float32(ranking.prob(0)) == np.float32(ranking.prob(1)) == 1


def test_the_first_c_percent_are_soft_and_all_others_negative() -> None:
    """Paper, section 2.2."""
    rules = rank(scores([0.2, 0.9], [0.5, 0.9, 0.1])).rules(RankerConfig(positive_percent=40))
    assert {exam: one.tolist() for exam, one in rules.items()} == {"a": [0, 1], "b": [0, 1, 0]}


def test_a_band_behind_them_can_be_left_out() -> None:
    """An option that the paper lacks."""
    config = RankerConfig(positive_percent=40, ignore_band_percent=20)
    rules = rank(scores([0.2, 0.9], [0.5, 0.9, 0.1])).rules(config)
    assert rules["b"].tolist() == [Rule.LEFT_OUT, Rule.SOFT, Rule.NEGATIVE]
    with pytest.raises(ValueError, match="0 to 100"):
        RankerConfig(positive_percent=90, ignore_band_percent=20)


def test_a_corpus_of_the_size_of_rsna_is_ranked_in_bounded_memory() -> None:
    """25,000 exams, 750,000 slices: the order of a full sort, in less than 100 MB."""

    def stream() -> Iterator[tuple[str, F32Array]]:
        rng = np.random.default_rng(0)
        for number in range(25_000):
            yield f"{number:06}", rng.random(30, dtype=np.float32).round(3)

    tracemalloc.start()
    ranking = rank(stream())
    rules = ranking.rules(RankerConfig())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert len(ranking.order) == 750_000
    assert sum(int((one == Rule.SOFT).sum()) for one in rules.values()) == 75_000
    ordered = ranking.logits[ranking.order]
    assert (np.diff(ordered) <= 0).all()
    ties = np.diff(ordered) == 0
    assert ties.any()
    assert (np.diff(ranking.order)[ties] > 0).all()


def test_a_ranking_is_kept_and_explained(tmp_path: Path) -> None:
    """ranking.npz for programs, ranking.json for people."""
    ranking = rank(scores([-1.4, 2.2], [0.0, 2.2, -2.2]))
    write_ranking(tmp_path, ranking, RankerConfig(positive_percent=40), teacher_digest="d" * 64)
    kept = read_ranking(tmp_path)
    assert kept.exams == ranking.exams
    assert np.array_equal(kept.order, ranking.order)
    assert '"40": 0.9002' in (tmp_path / "ranking.json").read_text()
    with pytest.raises(DataError, match="python -m ml rank"):
        read_ranking(tmp_path / "none")
    (tmp_path / "ranking.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="is damaged"):
        read_ranking(tmp_path)


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    """By the name of their exam."""
    with pytest.raises(DataError, match="exam b"):
        rank(scores([0.1], [float("nan")]))
    with pytest.raises(DataError, match="no slice"):
        rank([])
