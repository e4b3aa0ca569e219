"""Real heads as training exams. A simulated one stands for them here, written as DICOM as a scanner would."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ml.config import COMPACT_PREPROCESSING
from ml.data.series import read_volume
from ml.data.shards import ExamShard
from ml.errors import DataError
from ml.phantom import draw_spec, simulate
from ml.phantom.dicom import write_series
from ml.provenance import present_command
from ml.training import backgrounds
from ml.training.backgrounds import exams_of, make_backgrounds, name_heads
from ml.training.paint import SHAPES, paint_bleeds
from ml.volume import Volume
from tests.dicom_factory import ct_series, write
from tests.real_heads import ge_head, injured_head, visible_human

NAME = "Nobody^Particular"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of DICOM without hemorrhage."""
    folder = tmp_path_factory.mktemp("head")
    write_series(simulate(draw_spec(21, institution="A", bleed=False), matrix=256), folder, patient_name=NAME)
    return folder


def make(folder: Path, heads: list[Path], told: list[str] | None = None) -> list[ExamShard]:
    """One bleed of each kind; `told` gets a line for each that was there or is there now."""
    progress = (told if told is not None else []).append
    return make_backgrounds(folder, heads, COMPACT_PREPROCESSING, progress, bleeds=len(SHAPES))


def test_a_head_is_shown_as_it_is_and_with_blood(head: Path, tmp_path: Path) -> None:
    """Clean half as often as with a bleed of each kind, whose pixels are labelled and brighter than without."""
    told: list[str] = []
    exams = make(tmp_path, [head], told)
    often = len(SHAPES) // 2
    clean, painted = exams[:often], exams[often:]
    assert not any((exam.blood == 1).any() for exam in clean)
    assert len(painted) == len(SHAPES)
    assert len(told) == len({exam.folder for exam in exams}) == exams_of([head], len(SHAPES))
    for exam in painted:
        blood, gain = exam.blood == 1, exam.hu - clean[0].hu
        assert blood.any()
        if exam.exam.endswith("moving"):
            continue
        assert np.median(gain[blood]) > 5
        assert np.mean(gain[~blood.any(axis=(1, 2))] >= 5) < 1e-4


def test_a_head_moves_in_some_exams(head: Path, tmp_path: Path) -> None:
    """In half of those without blood, each time in another way, and in each fifth with blood; for some slices."""
    exams = make(tmp_path, [head])
    parts = [exam.exam.split("-", 2)[2] for exam in exams]
    assert parts == ["clean", "clean-00-moving", "clean-01-moving", "00", "01", "02", "03", "04-moving", "05"]
    still, *moving = exams[:3]
    changes = [np.abs(exam.hu - still.hu).mean(axis=(1, 2)) for exam in moving]
    assert all(change.max() > 3 * np.quantile(change, 0.25) for change in changes)
    assert not np.array_equal(*changes)
    *_, moved, lying = exams
    changes = [np.abs(exam.hu - still.hu)[exam.blood != 1].mean() for exam in (moved, lying)]
    assert changes[0] > 10 * changes[1]


def test_a_head_is_painted_once(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run finds the exams; one that was stopped makes them anew, the same."""
    first = make(tmp_path, [head])
    kept = [np.array(exam.blood) for exam in first]
    (first[-1].folder / "exam.json").unlink()
    again = make(tmp_path, [head])
    assert all(np.array_equal(exam.blood, blood) for exam, blood in zip(again, kept, strict=True))
    monkeypatch.setattr(backgrounds, "read_volume", lambda _: pytest.fail("read again"))
    assert [exam.exam for exam in make(tmp_path, [head])] == [exam.exam for exam in first]


def test_what_is_kept_names_no_patient(head: Path, tmp_path: Path) -> None:
    """Neither in the folders' names nor in what is written about the exams."""
    exams = make(tmp_path, [head])
    texts = [path.name for path in tmp_path.rglob("*")] + [(exam.folder / "exam.json").read_text() for exam in exams]
    assert not any(word in text for text in texts for word in NAME.split("^"))


def test_a_head_is_known_by_its_series(head: Path, tmp_path: Path) -> None:
    """What a run notes of it is neither its folder's name, which may be a patient's, nor the same for another head."""
    moved, other = tmp_path / NAME, tmp_path / "other" / NAME
    shutil.copytree(head, moved)
    write(ct_series(), other)
    first, second, third = name_heads([head, moved, other])
    assert first == second
    assert third != first
    assert not any(word in third for word in NAME.split("^"))
    with pytest.raises(DataError, match="background 2 of 2: "):
        name_heads([head, tmp_path / "none"])


def test_a_bundle_does_not_tell_where_the_head_lay(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given away with the command that made it."""
    for words in (["--background", f"/ct/{NAME}"], [f"--background=/ct/{NAME}"]):
        monkeypatch.setattr(sys, "argv", ["ml", "train-compact", *words, "--out", "run"])
        command = present_command(hidden="--background")
        assert NAME in present_command()
        assert NAME not in command
        assert command.startswith("python -m ml train-compact --background")
        assert command.endswith("... --out run")


def test_a_scan_that_shows_no_head_is_refused(head: Path, tmp_path: Path) -> None:
    """A piece of bone and an empty folder cannot be read, a phantom without sulci cannot be painted into."""
    y, x = np.mgrid[:64, :64] - 32
    write(ct_series(pixels=lambda _: np.where(np.hypot(y, x) < 20, 500, -1000)), tmp_path / "bone")
    (tmp_path / "nothing").mkdir()
    write(ct_series(), tmp_path / "phantom")
    for name, why in (("bone", "do not show a head"), ("nothing", "no image"), ("phantom", "no sulci of 0.3 mL fits")):
        with pytest.raises(DataError, match=rf"background 2 of 2: .*{why}"):
            make(tmp_path / "shards", [head, tmp_path / name])


def test_there_is_nothing_to_paint_into_without_a_brain(head: Path) -> None:
    """Air alone."""
    volume = read_volume(sorted(head.iterdir()))
    with pytest.raises(DataError, match="enough brain"):
        next(paint_bleeds(Volume(np.full_like(volume.hu, -1000), volume.geometry), 1))


@pytest.mark.parametrize("read", [ge_head, injured_head, visible_human], ids=["GE", "injured", "cadaver"])
def test_every_kind_of_bleed_fits_into_a_real_head(read: Callable[[], Volume]) -> None:
    """It only adds, and nothing to bone; blood is where it can be seen."""
    volume = read()
    for painted in paint_bleeds(volume, len(SHAPES), seed=backgrounds.SEED):
        lifted = painted.volume.hu - volume.hu
        assert lifted.min() >= 0
        assert not lifted[volume.hu >= 120].any()
        assert lifted[painted.truth].min() > 4.9
