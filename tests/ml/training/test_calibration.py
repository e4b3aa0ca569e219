"""Scores that read as probabilities."""

from dataclasses import replace

import numpy as np
import pytest

from ml.bundle import Bundle
from ml.config import Calibration, Logistic
from ml.inference.predictor import Predictor
from ml.inference.scores import EXAM_FEATURES, SLICE_FEATURES, apply
from ml.phantom import SimulatedExam, draw_spec
from ml.training.calibration import (
    EXAM_POINT,
    PIXEL_PROBS,
    calibrate,
    evaluate_on_phantoms,
    fit_logistic,
    with_calibration,
)
from ml.training.exams import simulate_exams
from ml.volume import Volume
from tests.ml.conftest import MakeVolume


def test_a_fitted_score_is_calibrated() -> None:
    """Among exams scored about p, a share of about p bleeds."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20_000, 2))
    positive = rng.random(20_000) < 1 / (1 + np.exp(-(1.5 * features[:, 0] + 0.5 * features[:, 1] - 1)))
    scores = apply(fit_logistic(features, positive), features)
    for low in (0.1, 0.3, 0.5, 0.7):
        chosen = (scores >= low) & (scores < low + 0.1)
        assert positive[chosen].mean() == pytest.approx(low + 0.05, abs=0.04)


def test_more_evidence_never_lowers_a_score() -> None:
    """A feature that seems to speak against blood by chance gets no weight."""
    rng = np.random.default_rng(1)
    positive = np.arange(200) % 2 == 0
    features = np.stack([positive + rng.normal(0, 1, 200), -0.3 * positive + rng.normal(0, 1, 200)], axis=1)
    logistic = fit_logistic(features, positive)
    assert logistic.weights[0] > 0
    assert logistic.weights[1] == 0


def test_separable_exams_give_finite_weights() -> None:
    """A perfect network on few exams."""
    features = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    logistic = fit_logistic(features, np.array([False, False, True, True]))
    assert 0 < logistic.weights[0] < 100


def exams(make_volume: MakeVolume) -> list[SimulatedExam]:
    """Four geometric heads; the bright cube is blood in every other one and absent from the rest."""
    made = []
    for index in range(4):
        volume = make_volume()
        labels = (volume.hu == 70).astype(np.uint8) * (2 if index % 2 == 0 else 0)
        hu = volume.hu if index % 2 == 0 else np.where(volume.hu == 70, 30, volume.hu).astype(np.float32)
        made.append(SimulatedExam(Volume(hu, volume.geometry), labels, draw_spec(index)))
    return made


def test_calibration_gives_usable_operating_points(tiny_bundle: Bundle, make_volume: MakeVolume) -> None:
    """Whatever the network: a pixel threshold that was tried and a score per feature."""
    predictor = Predictor(tiny_bundle, device="cpu", engine="torch")
    point, calibration = calibrate(predictor, exams(make_volume))
    assert point.pixel_prob in PIXEL_PROBS
    assert point.exam_score == EXAM_POINT
    assert len(calibration.exam_score.weights) == len(EXAM_FEATURES)
    assert len(calibration.slice_score.weights) == len(SLICE_FEATURES)
    changed = with_calibration(predictor, point, calibration)
    assert changed.bundle.config.operating_point == point


def test_figures_count_exams_and_their_findings(tiny_bundle: Bundle, make_volume: MakeVolume) -> None:
    """Two with blood, two without; a network that calls everything positive has two false positives."""
    always = Calibration(tiny_bundle.config.calibration.slice_score, Logistic((0.0, 0.0, 0.0), 5.0))
    config = replace(tiny_bundle.config, calibration=always)
    predictor = Predictor(replace(tiny_bundle, config=config), device="cpu", engine="torch")
    figures = evaluate_on_phantoms(predictor, exams(make_volume))
    assert figures["exams_with_blood"] == figures["exams_without_blood"] == 2
    assert figures["exams_with_over_1_ml"] == 2
    assert figures["exam_sensitivity"] == 1
    assert figures["false_positive_exams"] == 2
    assert figures["exam_auc"] == 0.5
    assert figures["highest_score_without_blood"] == pytest.approx(1 / (1 + np.exp(-5)))
    assert figures["sensitivity_at_specificity_0.95"] == 0


def test_exams_come_in_order_whoever_makes_them() -> None:
    """From worker processes as from this one; alternately with and without blood."""
    seeds = [11, 13]
    here = list(simulate_exams(seeds, matrix=128, workers=0, alternate=True))
    there = list(simulate_exams(seeds, matrix=128, workers=1, alternate=True))
    assert [exam.spec.seed for exam in there] == seeds
    assert [bool(exam.spec.head.bleeds) for exam in there] == [True, False]
    assert all(np.array_equal(one.volume.hu, two.volume.hu) for one, two in zip(here, there, strict=True))
