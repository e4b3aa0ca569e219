"""Whole images against a sliding window: what each costs, and what it changes in the answers.

    python bench/inference.py [--threads 2] [--exams 6]

A window has the share of the side that 240 pixels have of 512, as the paper's crops. Three with half an overlap do not
span the side, so it takes four: 16 windows, evenly spaced, which overlap by 62 %. Their pixels are averaged, and the
highest class logit is the slice's. Both readers are the default bundle; its calibration was fitted on whole images. The
exams are simulated, half of them with blood, and of seeds that were not trained on. Costs by turns on the same exams.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from ml.bundle import load_bundle
from ml.evaluation.metrics import auc, dsc
from ml.inference.engines import Engine, F32Array, Outputs
from ml.inference.predictor import Predictor
from ml.training.compact import TEST_SEEDS_FROM
from ml.training.exams import simulate_exams

WINDOW_SHARE = 240 / 512
"""Of the image's side."""
WINDOWS_PER_SIDE = 4
MATRIX = 256
SLICES = 32
"""Costs are given for an exam of so many."""


class Windows:
    """An engine that looks at a slice through overlapping windows."""

    def __init__(self, engine: Engine, multiple: int) -> None:
        """`multiple`: what the window's side must be a multiple of, the network's output stride."""
        self.engine, self.multiple, self.name = engine, multiple, f"{engine.name}, windows"

    def __call__(self, images_NCHW: F32Array) -> Outputs:
        """See Engine."""
        size = images_NCHW.shape[2]
        side = round(size * WINDOW_SHARE / self.multiple) * self.multiple
        starts = np.linspace(0, size - side, WINDOWS_PER_SIDE).round().astype(int).tolist()
        total = np.zeros((len(images_NCHW), size, size), dtype=np.float32)
        seen = np.zeros((size, size), dtype=np.float32)
        logits = []
        for v in starts:
            for u in starts:
                rows, columns = slice(v, v + side), slice(u, u + side)
                prob, class_logits = self.engine(np.ascontiguousarray(images_NCHW[:, :, rows, columns]))
                total[:, rows, columns] += prob
                seen[rows, columns] += 1
                logits.append(class_logits)
        return Outputs(total / seen, np.max(logits, axis=0))


class WindowPredictor(Predictor):
    """The default reader, but for the windows."""

    def __init__(self, *, threads: int) -> None:
        bundle = load_bundle("default")
        super().__init__(bundle, device="cpu", threads=threads)
        self._engine = Windows(self._engine, bundle.config.network.trunk.output_stride)


@dataclass
class Answers:
    """Of one reader on all exams."""

    seconds: list[float] = field(default_factory=list)
    exam_scores: list[float] = field(default_factory=list)
    slice_scores: list[npt.NDArray[np.float32]] = field(default_factory=list)
    dices: list[float] = field(default_factory=list)
    """Of exams with blood, before the exam is called positive or negative."""


def main() -> None:
    """Read every exam both ways and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--exams", type=int, default=6)
    options = parser.parse_args()
    full = Predictor(load_bundle("default"), device="cpu", threads=options.threads)
    readers = {"whole image": full, "16 windows": WindowPredictor(threads=options.threads)}
    answers = {name: Answers() for name in readers}
    positive: list[bool] = []
    bleeding: list[npt.NDArray[np.bool_]] = []
    for reader in readers.values():
        reader.warm_up()
    threshold = full.bundle.config.operating_point.pixel_prob
    seeds = range(TEST_SEEDS_FROM, TEST_SEEDS_FROM + options.exams)
    for exam in simulate_exams(seeds, matrix=MATRIX, workers=0, alternate=True):
        truth = exam.truth
        positive.append(bool(truth.any()))
        bleeding.append(np.asarray(truth.any(axis=(1, 2))))
        for name, reader in readers.items():
            start = time.perf_counter()
            prediction = reader.predict(exam.volume)
            answers[name].seconds.append((time.perf_counter() - start) / len(truth) * SLICES)
            answers[name].exam_scores.append(prediction.exam_score)
            answers[name].slice_scores.append(prediction.slice_scores)
            if positive[-1]:
                answers[name].dices.append(dsc(prediction.prob >= threshold, truth))
    report(answers, positive, np.concatenate(bleeding))


def report(answers: dict[str, Answers], positive: list[bool], bleeding: npt.NDArray[np.bool_]) -> None:
    """A line for each reader, and the cost of the windows as the median of the exams' ratios."""
    print(
        f"{len(positive)} exams, {sum(positive)} with blood; {len(bleeding)} slices, {int(bleeding.sum())} with blood"
    )
    print(f"{'':14}{'s per 32 slices':>16}{'exam AUC':>10}{'slice AUC':>11}{'mean DSC':>10}")
    for name, one in answers.items():
        figures = auc(one.exam_scores, positive), auc(np.concatenate(one.slice_scores), bleeding), np.mean(one.dices)
        print(f"{name:14}{np.median(one.seconds):16.2f}{figures[0]:10.3f}{figures[1]:11.3f}{figures[2]:10.3f}")
    whole, windows = answers.values()
    ratio = np.median(np.divide(windows.seconds, whole.seconds))
    differences = np.subtract(windows.dices, whole.dices)
    print(f"windows cost {ratio:.2f} x whole images; DSC {differences.mean():+.3f} (SD {differences.std():.3f})")


if __name__ == "__main__":
    main()
