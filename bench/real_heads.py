"""The default bundle on real heads: what it takes for blood there, and what it finds of blood that is painted in.

    python bench/real_heads.py [--bleeds 24] [--restless 12] [--bundle default] [--threads 2]

The heads have no hemorrhage (tests/real_heads.py); two are also read in thicker slices. They are read as they are, as
if their patients had been restless during a part of the scan (ml/phantom/motion.py), and with bleeds of plain shapes
(ml/training/paint.py), every kind as often, left and right by turns. DSC is of the map at the bundle's pixel threshold,
before the exam is called. These are four heads: enough to see that something is wrong, not for a figure of accuracy.
The shipped bundle was trained on the GE head and the cadaver (docs/training.md); the sulci of the latter hold gas and
do not count.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ml.bundle import load_bundle
from ml.evaluation.metrics import auc, dsc
from ml.inference.predictor import Predictor
from ml.volume import Volume

sys.path.insert(0, str(Path(__file__).parents[1]))

from ml.phantom.motion import restless
from ml.training.paint import SHAPES, mean_by_kind, paint_bleeds
from tests.real_heads import EXAMPLE, GE_HEAD, VISIBLE_HUMAN, ge_head, injured_head, visible_human


def heads() -> dict[str, Volume]:
    """Those that are here."""
    found = {"GE, 4 and 7 mm": ge_head()} if GE_HEAD.is_dir() else {}
    if EXAMPLE.is_file():
        found |= {f"injured, {1.5 * slab} mm": injured_head(slab) for slab in (1, 3)}
    if VISIBLE_HUMAN.is_dir():
        found |= {f"cadaver, {slab} mm": visible_human(slab) for slab in (2, 5)}
    return found


def row(predictor: Predictor, volume: Volume, bleeds: int, restless_scans: int) -> list[str]:
    """What the table has of one head."""
    clean = predictor.predict(volume)
    moving = [predictor.predict(restless(volume, np.random.default_rng(seed))) for seed in range(restless_scans)]
    pixel_prob = predictor.bundle.config.operating_point.pixel_prob
    painted = list(paint_bleeds(volume, bleeds))
    answers = [predictor.predict(one.volume) for one in painted]
    scores = np.concatenate([clean.slice_scores, *(one.slice_scores for one in answers)])
    bleeding = np.concatenate([np.zeros(len(volume.hu), bool), *(one.truth.any(axis=(1, 2)) for one in painted)])
    dices = [dsc(answer.prob >= pixel_prob, one.truth) for answer, one in zip(answers, painted, strict=True)]
    kinds = mean_by_kind(painted, dices)
    return [
        f"{clean.exam_score:.2f}",
        f"{volume.volume_ml(clean.prob >= pixel_prob):.1f}",
        f"{sum(one.exam_positive for one in moving)} of {len(moving)}",
        f"{sum(one.exam_positive for one in answers)} of {len(answers)}",
        f"{auc(scores, bleeding):.3f}",
        f"{np.mean(dices):.2f}",
        *(f"{kinds[kind]:.2f}" if kind in kinds else "" for kind in SHAPES),
    ]


def main() -> None:
    """Print a line for each head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bleeds", type=int, default=24)
    parser.add_argument("--restless", type=int, default=12)
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    predictor = Predictor(load_bundle(options.bundle), device="cpu", threads=options.threads)
    table = Table("head", "score", "mL", "restless", "called", "slice AUC", "DSC", *SHAPES, box=None)
    for name, volume in heads().items():
        table.add_row(name, *row(predictor, volume, options.bleeds, options.restless))
    console = Console(width=120)
    console.print(
        "score and mL: of the head as it is; restless: called, though only the patient moved; the rest: with blood"
    )
    console.print(table)


if __name__ == "__main__":
    main()
