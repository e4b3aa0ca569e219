"""Curves and panels as PNG. The one module that loads matplotlib: import it where a picture is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ml.evaluation import metrics
from ml.evaluation.answers import Answers
from ml.evaluation.overlays import Panel
from ml.evaluation.pixels import precision_recall

COLOURS = ("#4269d0", "#ff725c", "#6cc5b0", "#a463f2", "#9c6b4e")
MOST_POINTS = 2000
"""Of a curve over pixels: more cannot be seen."""
SIDE_INCHES = 5.0
DPI = 150


def draw_roc(models: dict[str, Answers], path: Path, *, title: str) -> None:
    """Exam ROC of each model, with its AUC; every step of the curve is an operating point that the scores allow."""
    figure, axes = _square(title, "1 - specificity", "sensitivity")
    for colour, (name, answers) in zip(COLOURS, models.items(), strict=False):
        curve = metrics.roc(answers.scores, answers.bleeding)
        label = f"{name}: AUC {answers.exam_auc.value:.3f}"
        axes.plot(1 - curve.specificity, curve.sensitivity, color=colour, label=label)
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
    axes.legend(loc="lower right", fontsize=8)
    _save(figure, path)


def draw_precision_recall(models: dict[str, Answers], path: Path, *, title: str) -> None:
    """Pixel precision against recall, with the average precision."""
    figure, axes = _square(title, "recall of pixels", "precision of pixels")
    for colour, (name, answers) in zip(COLOURS, models.items(), strict=False):
        precision, recall = precision_recall(answers.pixels.histogram)
        # From recall 0: the first threshold may find most of the blood, and the area is what the label says.
        precision, recall = np.insert(precision, 0, precision[0]), np.insert(recall, 0, 0.0)
        kept = np.unique(np.linspace(0, len(recall) - 1, MOST_POINTS).astype(int))
        label = f"{name}: average precision {answers.pixels.average_precision.value:.3f}"
        axes.step(recall[kept], precision[kept], where="pre", color=colour, label=label)
    axes.legend(loc="lower left", fontsize=8)
    _save(figure, path)


def draw_reliability(models: dict[str, Answers], path: Path, *, title: str) -> None:
    """Share of bleeding exams against what the exam score said; the area of a dot is the number of exams."""
    figure, axes = _square(title, "mean exam score", "share of exams with blood")
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
    for colour, (name, answers) in zip(COLOURS, models.items(), strict=False):
        rows = [row for row in answers.reliability if row.count]
        said, was = [row.mean_score for row in rows], [row.share_positive for row in rows]
        axes.plot(said, was, color=colour, linewidth=0.8, label=name)
        axes.scatter(said, was, s=[8 + 2 * row.count for row in rows], color=colour)
    axes.legend(loc="upper left", fontsize=8)
    _save(figure, path)


def draw_panels(rows: list[list[Panel]], path: Path, *, title: str) -> None:
    """Images beside each other, a row for each; red truth, green answer, yellow both."""
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(2.6 * columns, 2.8 * len(rows) + 0.5), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, places in zip(rows, grid, strict=True):
        for panel, axes in zip(row, places, strict=True):
            axes.imshow(panel.picture)
            axes.set_title(panel.title, fontsize=8)
            axes.set_axis_off()
    _save(figure, path)


def _square(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(SIDE_INCHES, SIDE_INCHES), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    """The same picture has the same bytes: no date, no version in the file."""
    figure.savefig(path, metadata={"Software": None})
