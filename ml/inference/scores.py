"""From maps and class logits to slice scores and an exam score.

A score is a logistic function of a few features, fitted on exams that were not trained on, so that it reads as a
probability. The maximum of a probability map is no such score: it grows with every slice that is looked at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml.config import Logistic
from ml.inference.lesions import components
from ml.volume import FloatArray, Geometry

F32Array = npt.NDArray[np.float32]

LOGIT_LIMIT = 10.0
AREA_UNIT_MM2 = 20.0
"""Areas and volumes enter as log(1 + size / unit): doubling a large bleed adds little, a small one much."""
VOLUME_UNIT_ML = 0.1
PEAK_ML = 0.2
"""The peak of a map is its mean over this much of its highest voxels: one noisy voxel does not make it."""
SMOOTHING_MM = 7.0
"""Sigma of the Gaussian along the stack under which the class logits around a slice are averaged. In mm and not in
slices: of two slices 1 mm apart the one says what the other does."""
SLICE_FEATURES = ("class_logit", "smoothed_class_logit", "log_area")
EXAM_FEATURES = ("smoothed_class_logit", "log_largest_volume", "peak_logit")


def apply(logistic: Logistic, features: FloatArray) -> FloatArray:
    """(n, features) -> (n,) probabilities."""
    return np.asarray(1 / (1 + np.exp(-(features @ np.array(logistic.weights) + logistic.bias))), dtype=np.float64)


def slice_features(prob: F32Array, class_logits: F32Array, geometry: Geometry, *, pixel_prob: float) -> FloatArray:
    """(z, 3) SLICE_FEATURES of an exam: a slice's own evidence, that of the slices around it, the bleeding area."""
    logits = _limited(class_logits)
    pixel_mm2 = geometry.pixel_spacing_mm[0] * geometry.pixel_spacing_mm[1]
    area_mm2 = (prob >= pixel_prob).sum(axis=(1, 2)) * pixel_mm2
    return np.stack([logits, _smoothed(logits, geometry), np.log1p(area_mm2 / AREA_UNIT_MM2)], axis=1)


def exam_features(prob: F32Array, class_logits: F32Array, geometry: Geometry, *, pixel_prob: float) -> FloatArray:
    """(3,) EXAM_FEATURES: the strongest part of the stack, the largest lesion, the peak of the map."""
    strongest = float(_smoothed(_limited(class_logits), geometry).max())
    largest_ml = float(components(prob >= pixel_prob, geometry)[1].max(initial=0.0))
    return np.array([strongest, np.log1p(largest_ml / VOLUME_UNIT_ML), _peak_logit(prob, geometry)])


def _smoothed(logits: FloatArray, geometry: Geometry) -> FloatArray:
    """(z,) mean of the logits around every slice; a slice weighs as much as it is thick."""
    away = (geometry.offsets_mm[:, None] - geometry.offsets_mm) / SMOOTHING_MM
    weights = np.exp(-0.5 * away**2) * geometry.voxel_volumes_ml
    return np.asarray(weights @ logits / weights.sum(axis=1))


def _peak_logit(prob: F32Array, geometry: Geometry) -> float:
    count = max(1, int(PEAK_ML / float(np.median(geometry.voxel_volumes_ml))))
    candidates = prob[prob > np.float32(1e-3)]
    if candidates.size < count:
        candidates = prob.ravel()
    count = min(count, candidates.size)
    peak = float(np.partition(candidates, candidates.size - count)[-count:].mean(dtype=np.float64))
    peak = min(max(peak, 1e-6), 1 - 1e-6)
    return float(_limited(np.log(peak / (1 - peak))))


def _limited(logits: npt.NDArray[np.floating]) -> FloatArray:
    return np.clip(np.asarray(logits, dtype=np.float64), -LOGIT_LIMIT, LOGIT_LIMIT)
