from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml.prediction import Region
from ml.volume import Geometry
from tests.worker.conftest import Exam
from worker.results.overlay import draw_panel, fitting_font, font, hanging, head_box, panel_slices, write_overlay

MakeExam = Callable[..., Exam]
ORANGE = np.array([255, 64, 32])


def read_pixels(path: Path) -> Any:
    """(y, x, colour) as integers."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def contour_columns_and_rows(path: Path) -> tuple[float, float]:
    """Centre of the contour pixels of a picture, as fractions of the first panel."""
    pixels = read_pixels(path)[80:, :408]
    y, x = np.nonzero(np.abs(pixels - ORANGE).sum(axis=2) == 0)
    assert len(y), "no contour was drawn"
    return float(x.mean() / 408), float((y.mean() - 4) / 400)


def turned(exam: Exam, axes: tuple[tuple[float, float, float], tuple[float, float, float]], turn: object) -> Exam:
    """The same patient stored in another way."""
    row, column = (np.array(axis) for axis in axes)
    old = exam.volume.geometry
    geometry = Geometry(old.positions_lps, row, column, old.pixel_spacing_mm, old.sop_instance_uids)
    change = turn if callable(turn) else None
    assert change is not None
    volume = replace(exam.volume, hu=change(exam.volume.hu), geometry=geometry)
    lesions = tuple(replace(lesion, region=Region.of(change(lesion.region.mask))) for lesion in exam.lesions)
    return replace(
        exam, volume=volume, lesions=lesions, prediction=replace(exam.prediction, mask=change(exam.prediction.mask))
    )


WAYS = {
    "as usual": (((1, 0, 0), (0, 1, 0)), lambda a: a),
    "rows to the right": (((-1, 0, 0), (0, 1, 0)), lambda a: a[:, :, ::-1]),
    "columns to the front": (((1, 0, 0), (0, -1, 0)), lambda a: a[:, ::-1]),
    "transposed": (((0, 1, 0), (1, 0, 0)), lambda a: a.transpose(0, 2, 1)),
    "turned by 90 degrees": (((0, 1, 0), (-1, 0, 0)), lambda a: a.transpose(0, 2, 1)[:, ::-1]),
}


@pytest.mark.parametrize(("axes", "turn"), WAYS.values(), ids=WAYS)
def test_the_patients_right_is_on_the_left_however_the_slices_are_stored(
    make_exam: MakeExam, tmp_path: Path, axes: tuple[tuple[float, float, float], ...], turn: object
) -> None:
    """The lesion is in the patient's right front: left and top in every picture."""
    exam = make_exam(rows=48, columns=48)
    one = exam.lesions[0]
    exam = replace(exam, lesions=(one,), prediction=replace(exam.prediction, mask=one.region.mask))
    exam = turned(exam, (axes[0], axes[1]), turn)
    write_overlay(exam.volume, tmp_path / "o.png", prediction=exam.prediction, lesions=exam.lesions)
    across, down = contour_columns_and_rows(tmp_path / "o.png")
    assert across < 0.45
    assert down < 0.5
    sides = hanging(exam.volume.geometry)
    assert (sides.right, sides.bottom) == ("L", "P")


@pytest.mark.parametrize(("axes", "turn"), WAYS.values(), ids=WAYS)
def test_the_letters_at_the_edges_are_the_patients_sides(
    make_exam: MakeExam,
    drawn: list[tuple[float, float, str]],
    axes: tuple[tuple[float, float, float], ...],
    turn: object,
) -> None:
    """A reader believes the letter; and the number of a lesion stands right beside it."""
    exam = make_exam(rows=48, columns=48)
    exam = turned(replace(exam, lesions=exam.lesions[:1]), (axes[0], axes[1]), turn)
    panel = draw_panel(exam.volume, 3, exam.lesions)
    where = {text: (x / panel.width, y / panel.height) for x, y, text in drawn}
    assert (where["R"][0] < 0.05, where["L"][0] > 0.95) == (True, True)
    assert (where["A"][1] < 0.1, where["P"][1] > 0.85) == (True, True)
    y, x = np.nonzero(np.abs(np.asarray(panel).astype(int) - ORANGE).sum(axis=2) == 0)
    below = y > where["1"][1] * panel.height + 24  # the number itself is orange too
    beside = (x[below].max() / panel.width, y.min() / panel.height)
    assert where["1"] == pytest.approx(beside, abs=0.03)


@pytest.mark.parametrize(("z", "grey"), [(0, 0), (1, 64), (4, 128), (7, 191), (8, 255)])
def test_a_panel_shows_its_own_slice_in_the_brain_window(
    make_exam: MakeExam, drawn: list[tuple[float, float, str]], z: int, grey: int
) -> None:
    """0 HU is black and 80 HU white; the caption tells slice and height, the bar is 5 cm long."""
    volume = make_exam(rows=40, columns=40, pixel_spacing=(2.5, 2.5), spacing_mm=5.0).volume
    levels_hu = np.array([-30, 20, 30, 35, 40, 45, 50, 60, 90], dtype=np.float32)
    panel = draw_panel(replace(volume, hu=np.broadcast_to(levels_hu[:, None, None], volume.hu.shape)), z, [])
    pixels = np.asarray(panel).astype(int)
    assert (pixels[100:180, 100:180] == grey).all()
    assert f"slice {z + 1} of 9   {5.0 * z:.1f} mm" in [text for *_, text in drawn]
    foot = pixels[-11] == 235
    bar = np.diff(np.flatnonzero(np.diff(np.pad(foot.all(axis=1), 1).astype(int))))
    assert bar.max() == pytest.approx(50 * 400 / 100, abs=2)


def test_the_head_of_the_picture_says_what_was_found(
    make_exam: MakeExam, drawn: list[tuple[float, float, str]], tmp_path: Path
) -> None:
    """Answer, probability, volumes, and each lesion with its side."""
    exam = make_exam()
    one, other = exam.lesions
    write_overlay(exam.volume, tmp_path / "o.png", prediction=exam.prediction, lesions=exam.lesions)
    volumes = [f"{ml:.1f} mL" for ml in (one.volume_ml + other.volume_ml, one.volume_ml, other.volume_ml)]
    head = [text for *_, text in drawn if "mL" in text or "window" in text]
    assert head == [
        f"Intracranial hemorrhage PRESENT   probability 0.93   2 regions, {volumes[0]}",
        "compact 1.2.0   window 40/80 HU",
        f"1: {volumes[1]} right   2: {volumes[2]} left",
    ]


@pytest.mark.parametrize("room_px", [600, 1000, 2000])
def test_a_line_is_never_cut(room_px: int) -> None:
    """Set smaller where many lesions lie on one slice, and no smaller than it must be."""
    line = "   ".join(f"{number}: midline, 104.5 mL" for number in range(10, 14)) + "   and 13 more"
    used = fitting_font(line, room_px, largest=26)
    assert used.getlength(line) <= room_px
    assert used.getlength(line) > 0.9 * min(room_px, font(26).getlength(line))


def test_oblong_pixels_are_shown_in_true_proportions(make_exam: MakeExam, tmp_path: Path) -> None:
    """A square of 84 mm is square in the picture, whatever the pixels."""
    exam = make_exam(rows=80, columns=40, pixel_spacing=(3.5, 7.0))
    mask = np.zeros_like(exam.prediction.mask)
    mask[4, 20:44, 10:22] = True  # 24 x 3.5 mm by 12 x 7 mm
    lesions = (replace(exam.lesions[0], region=Region.of(mask), key_slices=(4,)),)
    write_overlay(exam.volume, tmp_path / "o.png", prediction=replace(exam.prediction, mask=mask), lesions=lesions)
    pixels = read_pixels(tmp_path / "o.png")
    hits = np.abs(pixels - ORANGE).sum(axis=2) == 0
    wide = np.flatnonzero(hits.sum(axis=0) > 40)  # the upright strokes; the lesion's number has none so long
    tall = np.flatnonzero(hits.sum(axis=1) > 40)
    assert np.ptp(wide) == pytest.approx(np.ptp(tall), abs=3)
    rows, columns = head_box(exam.volume)
    longest_mm = max(len(range(80)[rows]) * 3.5, len(range(40)[columns]) * 7.0)
    assert longest_mm < 0.9 * 280  # cut to the head
    assert np.ptp(wide) == pytest.approx(84 * 400 / longest_mm, abs=6)


def test_key_slices_are_shown_first_and_filled_up_with_far_ones(make_exam: MakeExam) -> None:
    """Two lesions give two key slices and one more outlined slice."""
    exam = make_exam()
    shown = panel_slices(exam.prediction, exam.lesions)
    assert {lesion.key_slice for lesion in exam.lesions} <= set(shown)
    assert len(shown) == 3
    assert all(exam.prediction.mask[z].any() for z in shown)


def test_a_negative_exam_shows_six_slices_spread_over_the_head(make_exam: MakeExam, tmp_path: Path) -> None:
    """The reader sees what was read."""
    exam = make_exam(positive=False, slices=28)
    shown = write_overlay(exam.volume, tmp_path / "o.png", prediction=exam.prediction, lesions=[])
    assert len(shown) == 6
    assert min(shown) <= 5
    assert max(shown) >= 22
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.size[0] > 1000


def test_the_picture_holds_no_identity(make_exam: MakeExam, tmp_path: Path) -> None:
    """Two patients, one picture; and no text chunk in the file."""
    for name in ("One^Patient", "Other^Patient"):
        exam = make_exam(patient_name=name, seed=1)
        write_overlay(exam.volume, tmp_path / f"{name}.png", prediction=exam.prediction, lesions=exam.lesions)
    one, other = sorted(tmp_path.glob("*.png"))
    assert one.read_bytes() == other.read_bytes()
    with Image.open(one) as picture:
        assert not picture.info
