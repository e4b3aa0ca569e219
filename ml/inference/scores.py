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
SLICE_FEATURES = ("class_logit", "neighbour_class_logit", "log_area")
EXAM_FEATURES = ("class_logit", "log_largest_volume", "peak_logit")


def apply(logistic: Logistic, features: FloatArray) -> FloatArray:
    """(n, features) -> (n,) probabilities."""
    return np.asarray(1 / (1 + np.exp(-(features @ np.array(logistic.weights) + logistic.bias))), dtype=np.float64)


def slice_features(prob: F32Array, class_logits: F32Array, geometry: Geometry, *, pixel_prob: float) -> FloatArray:
    """(z, 3) SLICE_FEATURES of an exam: its own evidence, that of the slices beside it, the bleeding area."""
    logits = _limited(class_logits)
    padded = np.pad(logits, 1, mode="edge")
    beside = (padded[:-2] + padded[2:]) / 2
    pixel_mm2 = geometry.pixel_spacing_mm[0] * geometry.pixel_spacing_mm[1]
    area_mm2 = (prob >= pixel_prob).sum(axis=(1, 2)) * pixel_mm2
    return np.stack([logits, beside, np.log1p(area_mm2 / AREA_UNIT_MM2)], axis=1)


def exam_features(prob: F32Array, class_logits: F32Array, geometry: Geometry, *, pixel_prob: float) -> FloatArray:
    """(3,) EXAM_FEATURES: the strongest three neighbouring slices, the largest lesion, the peak of the map."""
    padded = np.pad(_limited(class_logits), 1, mode="edge")
    strongest = float(((padded[:-2] + padded[1:-1] + padded[2:]) / 3).max())
    largest_ml = float(components(prob >= pixel_prob, geometry)[1].max(initial=0.0))
    return np.array([strongest, np.log1p(largest_ml / VOLUME_UNIT_ML), _peak_logit(prob, geometry)])


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
