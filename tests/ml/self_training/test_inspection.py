"""The contact sheets that decide about C."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.bundle import Bundle
from ml.data.shards import ExamShard
from ml.self_training import inspection
from ml.self_training.inspection import CAPTION, COLUMNS, CONTOUR, ROWS, SIDE, write_sheets
from ml.self_training.labelling import score_corpus
from ml.self_training.ranker import rank
from ml.self_training.scores import ScoreStore
from ml.self_training.targets import PixelThresholds


def test_a_sheet_for_each_threshold_shows_the_images_just_above_it(
    teacher: Bundle, corpus: list[ExamShard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 slices: one image above 5 %, seven above 30 %, outlined where a pixel would be positive; ranks with what the
    teacher gives them, as probabilities.
    """
    captions: list[str] = []
    paste = inspection._paste

    def caught(sheet: Image.Image, tile: Image.Image, caption: str, cell: int) -> None:
        captions.append(caption)
        paste(sheet, tile, caption, cell)

    monkeypatch.setattr(inspection, "_paste", caught)
    store = ScoreStore(tmp_path / "scores")
    score_corpus(teacher, corpus, store, engine="torch", progress=lambda _: None)
    ranking = rank((exam.folder.name, store.slice_logits(exam.folder.name)) for exam in corpus)
    exams = {exam.folder.name: exam for exam in corpus}
    paths = write_sheets(tmp_path / "sheets", ranking, store, exams, thresholds=PixelThresholds(0.6, 0.3))
    assert [path.name for path in paths] == [f"C{percent:02}.png" for percent in (5, 10, 15, 20, 25, 30)]
    for path, shown in ((paths[0], 1), (paths[-1], 7)):
        sheet = np.asarray(Image.open(path).convert("RGB"))
        assert sheet.shape == (ROWS * (SIDE + CAPTION), COLUMNS * SIDE, 3)
        cells = sheet.reshape(ROWS, SIDE + CAPTION, COLUMNS, SIDE, 3).swapaxes(1, 2)
        assert int((cells[:, :, CAPTION:].max(axis=(2, 3, 4)) > 0).sum()) == shown
        assert (sheet == CONTOUR).all(axis=-1).any()
    best, row = ranking.place(int(ranking.order[0]))
    prob = 1 / (1 + np.exp(-float(ranking.logits.max())))
    assert captions[0] == f"1. p {prob:.3f}  {best} {row}"
