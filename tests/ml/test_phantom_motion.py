"""What a head that moves looks like, on slices whose still image is known."""

import numpy as np
import pytest
from scipy import ndimage

from ml.phantom.grid import Array
from ml.phantom.motion import WHILE_MM, Movement, draw_movements, draw_unrest, with_motion
from ml.phantom.projections import VIEWS, hu_of, project, reconstruct, shrink

PIXEL_MM = 0.95
HEIGHTS = np.arange(0.0, 150.0, 5.0, dtype=np.float64)


def skull(rows: int = 256, columns: int = 256, *, long: float = 1.2) -> Array:
    """One slice: an oval ring of 7 mm of bone around even brain, in the middle of the largest square of the image."""
    middle = (max(rows, columns) - 1) / 2
    y, x = (np.mgrid[:rows, :columns] - middle) * PIXEL_MM
    radius = np.hypot(y / long, x)
    hu = np.where(radius < 77, 1000.0, -1000.0)
    hu[radius < 70] = 30.0
    return hu[None].astype(np.float32)


def brain(rows: int = 256, columns: int = 256) -> Array:
    """(rows, columns) where brain lies at least 4 mm from bone."""
    return np.asarray(skull(rows, columns, long=1.15)[0] == 30.0)


def disc(radius_mm: float) -> Array:
    """(256, 256) in the middle of the head."""
    return np.asarray(np.hypot(*((np.mgrid[:256, :256] - 127.5) * PIXEL_MM)) < radius_mm)


def sudden(share: float, *, shift_mm: tuple[float, float] = (0.0, 0.0), turn_degrees: float = 0.0) -> Movement:
    """In the last `share` of the views it lies elsewhere."""
    return Movement(shift_mm, turn_degrees, (np.arange(VIEWS) >= VIEWS * (1 - share)).astype(np.float32))


def test_projections_of_a_slice_give_it_back() -> None:
    """Without streaks from the skull: its middle is even, its brain as bright as it was."""
    small = shrink(skull())
    back = reconstruct(project((small + 1000.0) / hu_of(0.1)))[0] * hu_of(0.1) - 1000.0
    inside, middle = (
        shrink(brain()[None].astype(np.float32))[0] == 1,
        shrink(disc(50.0)[None].astype(np.float32))[0] == 1,
    )
    assert abs(back[inside].mean() - 30.0) < 5
    assert back[middle].std() < 10


def test_a_head_that_lies_still_is_unchanged() -> None:
    """No shift and no turn; and slices that are not named."""
    still = np.repeat(skull(), 2, axis=0)
    assert np.abs(with_motion(still, PIXEL_MM, {0: sudden(0.5)}) - still).max() < 1e-2
    moved = with_motion(still, PIXEL_MM, {1: sudden(0.4, turn_degrees=3.0)})
    np.testing.assert_array_equal(moved[0], still[0])
    assert np.abs(moved[1] - still[1])[brain()].mean() > 3


def test_one_that_moves_before_the_first_view_is_elsewhere() -> None:
    """All views see it there: 4 mm further down, without streaks."""
    down_mm = 4 * PIXEL_MM
    moved = with_motion(skull(), PIXEL_MM, {0: sudden(1.0, shift_mm=(down_mm, 0.0))})[0]
    expected = np.roll(skull()[0], 4, axis=0)
    assert np.abs(moved - expected)[disc(50.0)].mean() < 8
    errors = [moved - np.roll(skull()[0], down, axis=0) for down in (4, 0, -4)]
    there, here, elsewhere = (np.abs(ndimage.gaussian_filter(error, 3.0)).mean() for error in errors)
    assert there < 0.3 * here < 0.3 * elsewhere


def test_a_turn_makes_bright_bands_under_the_skull() -> None:
    """Brighter than brain by as much as blood is, and more beside the bone than in the middle."""
    moved = with_motion(skull(), PIXEL_MM, {0: sudden(0.4, turn_degrees=3.0)})[0]
    rim = brain() & ~(skull(long=0.9)[0] == 30.0)
    assert np.quantile(moved[rim] - 30.0, 0.95) > 20
    assert np.std(moved[rim]) > 1.5 * np.std(moved[disc(20.0)])


@pytest.mark.parametrize(("rows", "columns"), [(245, 245), (300, 200)])
def test_images_of_any_shape_move(rows: int, columns: int) -> None:
    """Their shape stays; what is added is that of the same head in a larger image."""
    moved = with_motion(skull(rows, columns), PIXEL_MM, {0: sudden(0.4, turn_degrees=3.0)})
    assert moved.shape == (1, rows, columns)
    assert np.quantile(np.abs(moved[0] - 30.0)[brain(rows, columns)], 0.95) > 10


def test_movements_are_of_one_part_of_the_stack_and_leave_the_head_where_it_was() -> None:
    """For most views: labels are those of the still head. Thin slices within 4 mm see the same movement."""
    heights = np.arange(150, dtype=np.float64)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        shift_mm, turn_degrees = draw_unrest(rng)
        drawn = draw_movements(heights, rng, shift_mm=shift_mm, turn_degrees=turn_degrees)
        numbers = sorted(drawn)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert len(numbers) <= WHILE_MM[1] + 1
        assert all(
            one.course.mean() <= 0.5 and one.course.min() >= 0 and one.course.max() <= 1 for one in drawn.values()
        )
        if len(numbers) >= 8:
            assert drawn[numbers[0]] is drawn[numbers[1]]
            assert drawn[numbers[0]] is not drawn[numbers[7]]


def test_how_far_it_moves_is_what_was_asked_for() -> None:
    """Standard deviations of shift and turn; no turn where none is asked for."""
    rng = np.random.default_rng(0)
    drawn = [
        one
        for _ in range(300)
        for one in {
            id(one): one for one in draw_movements(HEIGHTS, rng, shift_mm=2.0, turn_degrees=3.0).values()
        }.values()
    ]
    assert np.std([one.shift_mm for one in drawn]) == pytest.approx(2.0, rel=0.1)
    assert np.std([one.turn_degrees for one in drawn]) == pytest.approx(3.0, rel=0.1)
    still = draw_movements(HEIGHTS, rng, shift_mm=2.0, turn_degrees=0.0)
    assert {one.turn_degrees for one in still.values()} <= {0.0}
