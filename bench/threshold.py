"""How hard the simulated exams are: what a plain HU threshold makes of those that a bundle's card is measured on.

    python bench/threshold.py [--exams 48] [--matrix 256] [--workers 2]

HU are smoothed in each slice (1.5 mm) and compared with a threshold inside the skull, 4 mm and more from bone; pieces
under 0.3 mL do not count. A slice's score is the area above the threshold, an exam's the volume. DSC is of bleeds over
1 mL. On real head CTs that are not part of this project such a rule was said to have a slice AUC of 0.68, an exam AUC
of 0.62 and a DSC of 0.49: what a bundle's figures mean is seen beside what the same exams are to this rule.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1]))

from ml.evaluation.metrics import auc, dsc
from ml.inference.brain import extract_brain
from ml.inference.lesions import without_islands
from ml.phantom import SimulatedExam
from ml.training.compact import CALIBRATED_AT, TEST_SEEDS_FROM, heads_of
from ml.training.exams import simulate_exams
from ml.volume import HuArray, MaskArray, Volume

THRESHOLDS_HU = (45.0, 50.0, 55.0, 60.0)
SMOOTHING_MM, FROM_BONE_MM, LEAST_ML = 1.5, 4.0, 0.3
BONE_HU = 120.0


def smoothed(volume: Volume) -> HuArray:
    """(z, y, x) HU where blood may be, -inf elsewhere."""
    mm = volume.geometry.pixel_spacing_mm
    soft = extract_brain(volume.hu, mm) & (volume.hu < BONE_HU)
    away = np.stack([ndimage.distance_transform_edt(one, sampling=mm) > FROM_BONE_MM for one in soft])
    hu = ndimage.gaussian_filter(np.clip(volume.hu, -100, 100), (0, SMOOTHING_MM / mm[0], SMOOTHING_MM / mm[1]))
    return np.where(away, hu, np.float32(-np.inf))


def rows(exams: Iterable[SimulatedExam]) -> list[list[str]]:
    """For every threshold: slice AUC, exam AUC, DSC, and mL in exams without blood."""
    seen: dict[float, list[tuple[SimulatedExam, MaskArray]]] = {threshold: [] for threshold in THRESHOLDS_HU}
    for exam in exams:
        hu = smoothed(exam.volume)
        for threshold, masks in seen.items():
            masks.append((exam, without_islands(hu > threshold, exam.volume.geometry, min_volume_ml=LEAST_ML)))
    return [[f"{threshold:.0f}", *_figures(masks)] for threshold, masks in seen.items()]


def _figures(masks: list[tuple[SimulatedExam, MaskArray]]) -> list[str]:
    areas = np.concatenate([mask.sum(axis=(1, 2)) for _, mask in masks]).astype(np.float64)
    bleeding = np.concatenate([exam.truth.any(axis=(1, 2)) for exam, _ in masks])
    volumes_ml = np.array([exam.volume.volume_ml(mask) for exam, mask in masks])
    positive = np.array([exam.hemorrhage_ml > 0 for exam, _ in masks])
    dices = [dsc(mask, exam.truth) for exam, mask in masks if exam.hemorrhage_ml > 1]
    figures = (auc(areas, bleeding), auc(volumes_ml, positive), np.mean(dices), np.mean(volumes_ml[~positive]))
    return [f"{figure:.2f}" for figure in figures]


def main() -> None:
    """Print a line for each institution and threshold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exams", type=int, default=48)
    parser.add_argument("--matrix", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    table = Table("institution", "HU", "slice AUC", "exam AUC", "DSC", "false mL", box=None)
    for institution, seeds in heads_of(CALIBRATED_AT, TEST_SEEDS_FROM, options.exams):
        exams = simulate_exams(
            seeds, matrix=options.matrix, workers=options.workers, alternate=True, institution=institution
        )
        for figures in rows(exams):
            table.add_row(institution, *figures)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
