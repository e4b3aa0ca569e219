"""Metrics against brute force and scikit-learn."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score, roc_curve

from ml.evaluation.metrics import (
    auc,
    brier,
    calibration_error,
    dsc,
    dsc_figures,
    predictive_values,
    reliability,
    roc,
    sensitivity_at,
    specificity_at,
)

Drawn = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]
EXAMS = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40).filter(
    lambda exams: len({flag for _, flag in exams}) == 2
)


def drawn(seed: int = 0, count: int = 200) -> Drawn:
    """Coarse scores, so that ties are frequent."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, count) / 11
    return scores, rng.random(count) < 0.1 + 0.7 * scores


def test_dsc_of_known_masks() -> None:
    """Half, none, both empty."""
    one, two = np.array([True, True, False]), np.array([True, False, True])
    assert dsc(one, two) == pytest.approx(0.5)
    assert dsc(one, ~one) == 0
    assert dsc(one & False, one & False) == 1


def test_three_figures_are_called_dsc() -> None:
    """A large bleed found, a small one missed, two normal exams, one of them with a false lesion."""
    large = ([100, 0], [100, 0], [100, 0])
    small = ([0, 4], [0, 0], [0, 0])
    normal = ([0, 0], [0, 0], [0, 0])
    false = ([0, 0], [0, 6], [0, 0])
    figures = dsc_figures([large, small, normal, false])
    assert figures.pooled == pytest.approx(200 / 210)
    assert figures.per_exam == pytest.approx((1 + 0) / 2)
    assert figures.per_image == pytest.approx(0.5)
    assert (figures.exams, figures.images) == (2, 2)


def test_normal_exams_do_not_earn_a_dsc() -> None:
    """The trap of empty masks: 98 normal exams beside a missed bleed leave the figures at 0."""
    missed = ([0, 9], [0, 0], [0, 0])
    normal = ([0, 0], [0, 0], [0, 0])
    figures = dsc_figures([missed, *[normal] * 98])
    assert figures.pooled == figures.per_exam == figures.per_image == 0
    assert math.isnan(dsc_figures([normal]).pooled)


def test_auc_equals_scikit_learn_with_ties() -> None:
    """Coarse scores tie often."""
    scores, positive = drawn()
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_auc_of_one_class_is_undefined() -> None:
    """Not 0, not 1."""
    assert math.isnan(auc([0.1, 0.2], [True, True]))


def test_the_curve_equals_scikit_learn() -> None:
    """Every point of it."""
    scores, positive = drawn(1)
    false, true, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    curve = roc(scores, positive)
    assert curve.sensitivity == pytest.approx(true)
    assert curve.specificity == pytest.approx(1 - false)
    assert curve.thresholds == pytest.approx(thresholds)


@given(EXAMS, st.sampled_from([0.0, 0.5, 0.92, 1.0]))
def test_operating_points_equal_a_search_over_all_thresholds(exams: list[tuple[int, bool]], least: float) -> None:
    """No interpolation: the point is one that the scores allow."""
    scores = np.array([score for score, _ in exams], dtype=float)
    positive = np.array([flag for _, flag in exams])
    points = []
    for threshold in [*np.unique(scores), np.inf]:
        called = scores >= threshold
        points.append((called[positive].mean(), (~called[~positive]).mean()))
    specificity = max(b for a, b in points if a >= least - 1e-12)
    sensitivity = max(a for a, b in points if b >= least - 1e-12)
    assert specificity_at(least, scores, positive) == pytest.approx(specificity)
    assert sensitivity_at(least, scores, positive) == pytest.approx(sensitivity)


def test_an_operating_point_needs_both_classes() -> None:
    """Said, not guessed."""
    for bleeding in (True, False):
        with pytest.raises(ValueError, match="with and without blood"):
            specificity_at(0.92, [0.1, 0.2], [bleeding, bleeding])


@pytest.mark.parametrize("scores", [[0.1, float("nan")], [0.1]])
def test_scores_that_do_not_fit_are_refused(scores: list[float]) -> None:
    """A NaN sorts anywhere."""
    with pytest.raises(ValueError, match=r"score"):
        auc(scores, [True, False])


def test_predictive_values_at_the_set_s_own_prevalence_are_those_of_its_counts() -> None:
    """Bayes gives the counts back; at a low prevalence most alarms are false."""
    scores, positive = drawn(3)
    (tn, fp), (fn, tp) = confusion_matrix(positive, scores >= 0.5)
    ppv, npv = predictive_values(tp / (tp + fn), tn / (tn + fp), float(positive.mean()))
    assert ppv == pytest.approx(tp / (tp + fp))
    assert npv == pytest.approx(tn / (tn + fn))
    assert predictive_values(0.9, 0.9, 0.01)[0] == pytest.approx(0.0833, abs=1e-4)
    assert math.isnan(predictive_values(0.0, 1.0, 0.5)[0])
    with pytest.raises(ValueError, match="prevalence"):
        predictive_values(0.9, 0.9, 6.1)


def test_calibration_equals_scikit_learn() -> None:
    """Brier score and reliability table; the last bin holds 1."""
    rng = np.random.default_rng(4)
    scores = np.append(rng.random(500) ** 2, 1.0)
    positive = rng.random(501) < scores
    assert brier(scores, positive) == pytest.approx(brier_score_loss(positive, scores))
    rows = reliability(scores, positive)
    share, mean = calibration_curve(positive, scores, n_bins=10)
    assert [row.share_positive for row in rows if row.count] == pytest.approx(share)
    assert [row.mean_score for row in rows if row.count] == pytest.approx(mean)
    assert sum(row.count for row in rows) == 501
    by_hand = sum(np.abs(share - mean) * [row.count for row in rows if row.count]) / 501
    assert calibration_error(rows) == pytest.approx(by_hand)


def test_empty_bins_are_undefined_and_cost_nothing() -> None:
    """All exams scored alike."""
    rows = reliability([0.55, 0.55], [True, False])
    assert math.isnan(rows[0].mean_score)
    assert calibration_error(rows) == pytest.approx(0.05)
