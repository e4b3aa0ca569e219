"""From a trained network to a bundle that answers: operating points and calibrated scores, fitted on exams that
were neither trained on nor tested on; and the test on exams of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import optimize

from ml.config import Calibration, Logistic, OperatingPoint
from ml.errors import TrainingError
from ml.evaluation.metrics import auc, dsc, sensitivity_at
from ml.inference.brain import FAINT_PROB
from ml.inference.predictor import Predictor
from ml.inference.scores import exam_features, slice_features
from ml.volume import FloatArray, MaskArray, Volume

PIXEL_PROBS = (FAINT_PROB, 0.4, 0.5, 0.6, 0.7)
LEAST_LESION_ML = 0.1
LARGE_ML = 1.0
"""The acceptance of a bundle is stated for bleeds over this volume."""
RIDGE = 1e-2
"""Weight decay of the logistic fits: features of separable sets must not run to infinity."""
EXAM_POINT = 0.7
"""Score from which an exam is positive: calibrated on about as many bleeding as bleed-free exams, it is a chance of one
in five where one exam in ten bleeds, for a bleed that is missed costs more than a look at an exam without one. It is
not fitted to the highest score of a bleed-free exam, as that of simulated exams says little of real ones: of 90, none
was above 0.53 where compact 0.8 gave a real head without hemorrhage 0.78. With 0.17 no such head has more than 0.2.
"""

UNCALIBRATED = Calibration(slice_score=Logistic((1.0, 0.0, 0.0), 0.0), exam_score=Logistic((1.0, 0.0, 0.0), 0.0))
UNCALIBRATED_POINT = OperatingPoint(pixel_prob=0.5, exam_score=0.5, least_lesion_ml=LEAST_LESION_ML)

Progress = Callable[[], None]


class PixelLabelled(Protocol):
    """An exam with a label for every voxel: a simulated one, or one of a data set."""

    @property
    def volume(self) -> Volume:
        """In HU."""

    @property
    def truth(self) -> MaskArray:
        """(z, y, x) blood."""

    @property
    def hemorrhage_ml(self) -> float:
        """mL of it."""


@dataclass(frozen=True, eq=False)
class _ExamEvidence:
    """Of one exam, at each of PIXEL_PROBS."""

    truth_ml: float
    slice_positive: MaskArray
    slice_features: tuple[FloatArray, ...]
    exam_features: tuple[FloatArray, ...]
    dsc: tuple[float, ...]


def calibrate(
    predictor: Predictor, exams: Iterable[PixelLabelled], *, progress: Progress | None = None
) -> tuple[OperatingPoint, Calibration]:
    """Thresholds and scores fitted on exams with pixel labels.

    Pixels by the DSC of large bleeds, slice and exam scores as logistic functions. About half of the exams should
    bleed (see EXAM_POINT).

    Raises:
        TrainingError: no exam has blood, or all have.
    """
    evidence = []
    for exam in exams:
        evidence.append(_evidence(predictor, exam))
        if progress is not None:
            progress()
    bleeding = np.array([exam.truth_ml > 0 for exam in evidence])
    if not bleeding.any() or bleeding.all():
        raise TrainingError("calibration needs exams with and without blood")
    large = [exam.dsc for exam in evidence if exam.truth_ml > LARGE_ML]
    large = large or [exam.dsc for exam in evidence if exam.truth_ml > 0]
    best = int(np.argmax(np.mean(large, axis=0)))
    slice_score = fit_logistic(
        np.concatenate([exam.slice_features[best] for exam in evidence]),
        np.concatenate([exam.slice_positive for exam in evidence]),
    )
    features = np.stack([exam.exam_features[best] for exam in evidence])
    exam_score = fit_logistic(features, bleeding)
    point = OperatingPoint(PIXEL_PROBS[best], EXAM_POINT, LEAST_LESION_ML)
    return point, Calibration(slice_score, exam_score)


def fit_logistic(features: FloatArray, positive: npt.NDArray[np.bool_]) -> Logistic:
    """Maximum likelihood with a small ridge; weights are at least 0, because more evidence never means less blood."""
    signs = np.where(positive, 1.0, -1.0)

    def cost(parameters: FloatArray) -> tuple[float, FloatArray]:
        margins = signs * (features @ parameters[:-1] + parameters[-1])
        slope = -signs / (1 + np.exp(np.clip(margins, -50, 50)))
        gradient = np.append(features.T @ slope, slope.sum()) / len(signs)
        gradient[:-1] += RIDGE * parameters[:-1]
        value = np.logaddexp(0, -margins).mean() + RIDGE / 2 * float(np.sum(parameters[:-1] ** 2))
        return float(value), gradient

    count = features.shape[1]
    bounds = [(0.0, None)] * count + [(None, None)]
    fitted = optimize.minimize(cost, np.zeros(count + 1), jac=True, method="L-BFGS-B", bounds=bounds).x
    return Logistic(tuple(float(one) for one in fitted[:-1]), float(fitted[-1]))


def evaluate_on_phantoms(
    predictor: Predictor, exams: Iterable[PixelLabelled], *, progress: Progress | None = None
) -> dict[str, object]:
    """Predict exams with and without blood, and state how well. Simulated data: not clinical accuracy."""
    dscs: list[tuple[float, float]] = []
    scores, bleeding, reported = [], [], []
    slice_scores: list[float] = []
    slice_positive: list[bool] = []
    for exam in exams:
        prediction = predictor.predict(exam.volume)
        scores.append(prediction.exam_score)
        bleeding.append(exam.hemorrhage_ml > 0)
        reported.append(bool(prediction.mask.any()))
        slice_scores.extend(prediction.slice_scores.tolist())
        slice_positive.extend(bool(one.any()) for one in exam.truth)
        if exam.hemorrhage_ml > 0:
            dscs.append((exam.hemorrhage_ml, dsc(prediction.mask, exam.truth)))
        if progress is not None:
            progress()
    large = [value for volume_ml, value in dscs if volume_ml > LARGE_ML]
    return {
        "exams_with_blood": sum(bleeding),
        "exams_without_blood": len(bleeding) - sum(bleeding),
        "exam_auc": auc(scores, bleeding),
        "slice_auc": auc(slice_scores, slice_positive),
        "exams_with_over_1_ml": len(large),
        "mean_dsc_over_1_ml": float(np.mean(large)) if large else None,
        "lowest_dsc_over_1_ml": min(large, default=None),
        "mean_dsc": float(np.mean([value for _, value in dscs])),
        "exam_sensitivity": float(np.mean([r for r, b in zip(reported, bleeding, strict=True) if b])),
        "false_positive_exams": sum(r for r, b in zip(reported, bleeding, strict=True) if not b),
        "highest_score_without_blood": max((s for s, b in zip(scores, bleeding, strict=True) if not b), default=None),
        "sensitivity_at_specificity_0.95": sensitivity_at(0.95, scores, bleeding),
    }


def with_calibration(predictor: Predictor, point: OperatingPoint, calibration: Calibration) -> Predictor:
    """The predictor's network at other operating points."""
    bundle = predictor.bundle
    config = replace(bundle.config, operating_point=point, calibration=calibration)
    return Predictor(replace(bundle, config=config), device=predictor.device)


def _evidence(predictor: Predictor, exam: PixelLabelled) -> _ExamEvidence:
    evidence = predictor.analyse(exam.volume)
    arguments = (evidence.prob, evidence.class_logits, evidence.geometry)
    return _ExamEvidence(
        truth_ml=float(exam.hemorrhage_ml),
        slice_positive=np.array([bool(one.any()) for one in exam.truth]),
        slice_features=tuple(slice_features(*arguments, pixel_prob=prob) for prob in PIXEL_PROBS),
        exam_features=tuple(exam_features(*arguments, pixel_prob=prob) for prob in PIXEL_PROBS),
        dsc=tuple(dsc(evidence.prob >= prob, exam.truth) for prob in PIXEL_PROBS),
    )
