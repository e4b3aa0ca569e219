"""Lost slices are seen, honest protocols pass."""

import numpy as np
import pytest

from ml.data.spacing import check_no_gap
from ml.errors import UnreadableStudy

FOUR_THEN_SEVEN = [4.0] * 13 + [1.1] + [7.0] * 13


def has_gap(steps: list[float], thicknesses: list[float] | None = None) -> bool:
    """Whether slices with these distances and thicknesses are refused."""
    offsets = np.concatenate([[0.0], np.cumsum(steps)])
    try:
        check_no_gap(offsets, list(thicknesses) if thicknesses else [None] * len(offsets))
    except UnreadableStudy as refused:
        return refused.code == "GAP_IN_SLICES"
    return False


@pytest.mark.parametrize("thickness", [None, 5.0])
@pytest.mark.parametrize("position", [0, 1, 6, 11])
def test_one_lost_slice_is_a_gap(thickness: float | None, position: int) -> None:
    """With or without Slice Thickness, in the middle and at an end."""
    steps = [5.0] * 12
    steps[position] = 10.0
    assert has_gap(steps, None if thickness is None else [thickness] * 13)


def test_two_lost_slices_around_one_are_a_gap_where_thickness_confirms_it() -> None:
    """Steps 5 5 10 10 5 5 of 5 mm slices."""
    steps = [5.0, 5.0, 10.0, 10.0, 5.0, 5.0]
    assert has_gap(steps, [5.0] * 7)
    assert not has_gap(steps)


@pytest.mark.parametrize("at", [slice(0, 2), slice(10, 12)], ids=["first", "last"])
def test_two_lost_slices_around_one_at_an_end_are_a_gap_too(at: slice) -> None:
    """Steps 5 5 5 10 10 of 5 mm slices: of the vertex every other slice is missing. Three may be a protocol."""
    steps = [5.0] * 12
    steps[at] = [10.0, 10.0]
    assert has_gap(steps, [5.0] * 13)
    assert not has_gap([*steps[:1], *steps, *steps[-1:]], [5.0] * 15)
    assert not has_gap(steps)


def test_every_other_slice_lost_is_a_gap() -> None:
    """Even steps, but twice the thickness."""
    assert has_gap([10.0] * 12, [5.0] * 13)
    assert not has_gap([10.0] * 12)


def test_protocols_of_two_spacings_have_no_gap() -> None:
    """Thin through the skull base, thick above, in either order, with or without thickness."""
    for steps in ([2.5] * 8 + [5.0] * 10, [5.0] * 10 + [2.5] * 8, FOUR_THEN_SEVEN):
        assert not has_gap(steps)
        assert not has_gap(steps, [max(steps)] * (len(steps) + 1))


def test_thick_slices_far_apart_by_design_have_no_gap() -> None:
    """A larger step that the slices' own thickness covers (10 mm slices among 5 mm ones)."""
    assert not has_gap([5.0, 5.0, 8.5, 5.0, 5.0], [5.0, 5.0, 5.0, 6.0, 5.0, 5.0])
    assert not has_gap([8.0] * 12, [5.0] * 13)


def test_overlapping_and_jittering_slices_have_no_gap() -> None:
    """Overlap of half a slice, positions rounded to a tenth of a millimetre."""
    assert not has_gap([2.5] * 20, [5.0] * 21)
    assert not has_gap([5.0, 5.1, 4.9, 5.0, 5.1, 4.9], [5.0] * 7)


def test_a_lost_slice_among_such_is_a_gap() -> None:
    """A step of less than two of its neighbours, or of less than two thicknesses."""
    assert has_gap([5.0, 5.2, 9.7, 5.1, 5.0])
    assert has_gap([4.5, 4.5, 9.0, 4.5, 4.5], [5.0] * 6)


def test_a_gap_is_told_by_what_lies_beside_it() -> None:
    """Of a head in slices of 4 and of 7 mm one of 4 mm is lost: the median distance has no part in it."""
    offsets = np.cumsum([0.0, *[4.0] * 5, 8.0, *[4.0] * 5, *[7.0] * 13])
    with pytest.raises(UnreadableStudy, match=r"8\.0 mm between neighbours 6 and 7 where 4\.0 mm is expected"):
        check_no_gap(offsets, [4.0] * 12 + [7.0] * 13)
