"""Vectorised statistics against loops, SciPy and scikit-learn."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from ml.evaluation.bootstrap import (
    auc_replicates,
    compare,
    draw_weights,
    mean_interval,
    percentile_interval,
    ratio_replicates,
    slice_auc_replicates,
)
from ml.evaluation.delong import delong_auc, delong_test
from ml.evaluation.metrics import auc
from ml.evaluation.retest import paired_t

FloatArray = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def two_models(seed: int, count: int = 120) -> tuple[FloatArray, FloatArray, Flags]:
    """Scores of a better and a worse model on the same exams, correlated, with ties."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.4
    shared = rng.normal(size=count)
    better = np.round(1.6 * positive + shared + 0.6 * rng.normal(size=count), 1)
    worse = np.round(1.2 * positive + shared + 0.6 * rng.normal(size=count), 1)
    return better, worse, positive


def expand(row: FloatArray) -> npt.NDArray[np.intp]:
    """The exams of a replicate, as often as each was drawn."""
    return np.repeat(np.arange(len(row)), row.astype(int))


def test_a_replicate_is_a_draw_with_replacement() -> None:
    """As many exams as there are; the same seed gives the same, another seed another."""
    groups = [str(one) for one in range(50)]
    weights = draw_weights(groups, replicates=200, seed=1)
    assert weights.shape == (200, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert np.array_equal(weights, draw_weights(groups, replicates=200, seed=1))
    assert not np.array_equal(weights, draw_weights(groups, replicates=200, seed=2))
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.35)


def test_exams_of_a_patient_are_drawn_together() -> None:
    """Five patients with two exams each."""
    weights = draw_weights(["a", "b", "c", "d", "e"] * 2, replicates=50, seed=0)
    assert np.array_equal(weights[:, :5], weights[:, 5:])
    assert (weights.sum(axis=1) == 10).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=20))
def test_a_weighted_auc_is_that_of_the_repeated_exams(exams: list[tuple[int, bool, int]]) -> None:
    """Ties, weights of 0, one class missing."""
    scores, positive = np.array([one[0] for one in exams]), np.array([one[1] for one in exams])
    weights = np.array([[float(one[2]) for one in exams]])
    places = expand(weights[0])
    expected = auc(scores[places], positive[places])
    assert auc_replicates(weights, scores, positive)[0] == pytest.approx(expected, nan_ok=True)


def test_replicates_equal_a_loop_over_scikit_learn() -> None:
    """Each of them, for exams and for slices."""
    better, _, positive = two_models(0)
    weights = draw_weights([str(one) for one in range(120)], replicates=40)
    by_loop = [roc_auc_score(positive[expand(row)], better[expand(row)]) for row in weights]
    assert auc_replicates(weights, better, positive) == pytest.approx(np.array(by_loop))
    lengths = [3, 1, 4] * 4
    parts = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    weights = draw_weights([str(one) for one in range(12)], replicates=20)
    scores, flags = [better[part].tolist() for part in parts], [positive[part].tolist() for part in parts]
    found = slice_auc_replicates(weights, scores, flags)
    for row, value in zip(weights, found, strict=True):
        places = np.concatenate([parts[exam] for exam in expand(row)])
        assert value == pytest.approx(auc(better[places], positive[places]), nan_ok=True)


def test_ratios_are_pooled() -> None:
    """Sum over sum, not a mean of ratios."""
    weights = np.array([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    found = ratio_replicates(weights, [1, 5, 2], [2, 5, 6])
    assert found[0] == pytest.approx(4 / 10)
    assert math.isnan(found[1])


def test_the_comparison_follows_section_2_4() -> None:
    """Each number from its own words, by SciPy and NumPy."""
    better, worse, positive = two_models(1)
    weights = draw_weights([str(one) for one in range(120)])
    differences = auc_replicates(weights, better, positive) - auc_replicates(weights, worse, positive)
    observed = auc(better, positive) - auc(worse, positive)
    found = compare(observed, differences)
    sigma = differences.std(ddof=1)
    assert found.replicates == 1000
    assert found.z == pytest.approx(observed / sigma)
    assert found.p == pytest.approx(2 * (1 - stats.norm.cdf(abs(observed / sigma))))
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
    normality = stats.kstest(differences, "norm", args=(differences.mean(), sigma)).pvalue
    assert found.normality_p == pytest.approx(normality)
    assert found.normality_p > 0.05
    assert compare(observed, differences**3).normality_p < 0.05


def test_models_that_agree_do_not_differ() -> None:
    """No spread, no difference: p is 1, not an error."""
    found = compare(0.0, np.zeros(100))
    assert (found.z, found.p) == (0, 1)


def test_replicates_without_a_class_are_left_out() -> None:
    """And counted: an interval from 3 of 1000 would be told."""
    replicates = np.array([0.5, np.nan, 0.7, 0.6])
    assert percentile_interval(replicates).low == pytest.approx(np.percentile([0.5, 0.6, 0.7], 2.5))
    assert compare(0.1, replicates).replicates == 3
    assert math.isnan(percentile_interval(np.array([np.nan])).low)


def test_the_interval_of_a_mean_shrinks_with_replicates() -> None:
    """Which is why it says nothing of the figure; percentiles do not shrink."""
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.9, 0.01, 50), rng.normal(0.9, 0.01, 5000)
    assert mean_interval(many).high - mean_interval(many).low < 0.2 * (mean_interval(few).high - mean_interval(few).low)
    assert percentile_interval(many).high - percentile_interval(many).low == pytest.approx(0.0392, abs=0.002)


def test_delong_equals_the_definition() -> None:
    """Structural components by the double loop of the 1988 paper."""
    better, worse, positive = two_models(2, 60)

    def components(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
        wins = np.array([[float(p > n) + 0.5 * (p == n) for n in scores[~positive]] for p in scores[positive]])
        return wins.mean(axis=1), wins.mean(axis=0)

    (v10, v01), (w10, w01) = components(better), components(worse)
    m, n = len(v10), len(v01)
    variance = np.var(v10, ddof=1) / m + np.var(v01, ddof=1) / n
    other = np.var(w10, ddof=1) / m + np.var(w01, ddof=1) / n
    shared = np.cov(v10, w10)[0, 1] / m + np.cov(v01, w01)[0, 1] / n
    alone = delong_auc(better, positive)
    assert alone.auc == pytest.approx(roc_auc_score(positive, better))
    assert alone.standard_error == pytest.approx(np.sqrt(variance))
    assert alone.high - alone.auc == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)
    test = delong_test(better, worse, positive)
    error = np.sqrt(variance + other - 2 * shared)
    assert test.standard_error == pytest.approx(error)
    assert test.z == pytest.approx((auc(better, positive) - auc(worse, positive)) / error)
    assert test.p == pytest.approx(2 * stats.norm.sf(abs(test.z)))


def test_delong_agrees_with_the_bootstrap_by_exam() -> None:
    """Two roads to one standard error."""
    better, worse, positive = two_models(3, 480)
    weights = draw_weights([str(one) for one in range(480)])
    replicates = auc_replicates(weights, better, positive)
    assert delong_auc(better, positive).standard_error == pytest.approx(replicates.std(), rel=0.1)
    differences = replicates - auc_replicates(weights, worse, positive)
    assert delong_test(better, worse, positive).standard_error == pytest.approx(differences.std(), rel=0.1)


def test_delong_without_spread_or_class() -> None:
    """The same scores twice differ by nothing; one class has no AUC."""
    better, _, positive = two_models(4)
    same = delong_test(better, better, positive)
    assert (same.difference, same.z, same.p) == (0, 0, 1)
    for flags in (np.ones(120, dtype=bool), np.arange(120) == 7):
        nothing = delong_auc(better, flags)
        assert np.isnan([nothing.auc, nothing.standard_error, nothing.low, nothing.high]).all()
        assert np.isnan([getattr(delong_test(better, better, flags), name) for name in ("standard_error", "z")]).all()
    perfect = delong_auc(positive * 1.0, positive)
    assert (perfect.auc, perfect.low, perfect.high) == (1, 1, 1)


def test_paired_t_equals_scipy() -> None:
    """Pairs with a NaN are left out."""
    rng = np.random.default_rng(5)
    one, other = rng.normal(0.82, 0.02, 50), rng.normal(0.81, 0.02, 50)
    expected = stats.ttest_rel(one, other)
    found = paired_t(np.append(one, np.nan), np.append(other, 0.5))
    assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.pairs == 50


@pytest.mark.parametrize(("difference", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_pairs_that_all_differ_alike(difference: float, p: float) -> None:
    """No spread to divide by."""
    assert paired_t(np.full(5, 0.5 + difference), np.full(5, 0.5)).p == p
    assert math.isnan(paired_t(np.array([0.5]), np.array([0.4])).p)
