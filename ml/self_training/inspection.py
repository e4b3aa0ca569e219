"""Contact sheets for the choice of C: what a radiologist looks at (paper section 2.2).

At the ideal C every image above the threshold shows blood. Each sheet shows the images just above one threshold,
because those are the ones that decide about it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from ml.data.shards import ExamShard
from ml.files import write_atomically
from ml.self_training.ranker import Ranking
from ml.self_training.scores import ScoreStore
from ml.self_training.targets import PixelThresholds

PERCENTS = (5, 10, 15, 20, 25, 30)
COLUMNS, ROWS = 6, 4
SIDE = 256
"""Pixels of an image on the sheet."""
CAPTION = 16
SHOWN_HU = (0.0, 80.0)
CONTOUR = (255, 80, 60)


def write_sheets(
    folder: Path,
    ranking: Ranking,
    store: ScoreStore,
    exams: Mapping[str, ExamShard],
    *,
    thresholds: PixelThresholds,
    percents: tuple[int, ...] = PERCENTS,
) -> list[Path]:
    """One PNG per threshold; the contour surrounds what would be a positive pixel. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for percent in percents:
        sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * (SIDE + CAPTION)), "black")
        last = max(1, ranking.count(percent))
        first = max(0, last - COLUMNS * ROWS)
        for cell, number in enumerate(ranking.order[first:last].tolist()):
            exam, row = ranking.place(number)
            tile = _tile(exams[exam], row, thresholds.apply(store.pixels(exam, row)) == 1)
            caption = f"{first + cell + 1}. p {ranking.prob(number):.3f}  {exam[:20]} {row}"
            _paste(sheet, tile, caption, cell)
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG")
        paths.append(folder / f"C{percent:02}.png")
        write_atomically(paths[-1], buffer.getvalue())
    return paths


def _tile(exam: ExamShard, row: int, positive_vu: npt.NDArray[np.bool_]) -> Image.Image:
    hu = exam.hu[exam.neighbours[row][1]].astype(np.float32)
    low, high = SHOWN_HU
    gray = (np.clip((hu - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    tile = np.asarray(Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("RGB")).copy()
    large = np.asarray(Image.fromarray(positive_vu).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    tile[ndimage.binary_dilation(large) & ~large] = CONTOUR
    return Image.fromarray(tile)


def _paste(sheet: Image.Image, tile: Image.Image, caption: str, cell: int) -> None:
    x, y = cell % COLUMNS * SIDE, cell // COLUMNS * (SIDE + CAPTION)
    sheet.paste(tile, (x, y + CAPTION))
    ImageDraw.Draw(sheet).text((x + 2, y + 2), caption, fill="white")
