"""Metrics against brute force and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ml.evaluation.metrics import auc, dsc


def test_dsc_of_known_masks() -> None:
    """Half, none, both empty."""
    one, two = np.array([True, True, False]), np.array([True, False, True])
    assert dsc(one, two) == pytest.approx(0.5)
    assert dsc(one, ~one) == 0
    assert dsc(one & False, one & False) == 1


def test_auc_equals_scikit_learn_with_ties() -> None:
    """Coarse scores tie often."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 200) / 5
    positive = rng.random(200) < 0.2 + scores / 2
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_auc_of_one_class_is_undefined() -> None:
    """Not 0, not 1."""
    assert math.isnan(auc([0.1, 0.2], [True, True]))
