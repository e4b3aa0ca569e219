"""A region on a slice as a closed line and back."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worker.results.outlines import fill, largest_piece, outline


def test_an_outline_runs_along_the_edges_of_the_pixels() -> None:
    """DICOM's image coordinates: the outer corner of the first pixel is (0, 0), columns come first."""
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2:5] = mask[2, 2] = True
    assert outline(mask).tolist() == [[2, 1], [5, 1], [5, 2], [3, 2], [3, 3], [2, 3], [2, 1]]


@settings(max_examples=200, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans()))
def test_filled_again_an_outline_is_the_region_to_the_pixel(mask: np.ndarray) -> None:
    """Whatever its shape, also at the border; the line is closed and turns at every corner."""
    if not mask.any():
        mask[0, 0] = True
    piece = largest_piece(mask)
    line = outline(piece)
    np.testing.assert_array_equal(fill(line, (mask.shape[0], mask.shape[1])), piece)
    assert (line[0] == line[-1]).all()
    steps = [tuple(np.sign(b - a)) for a, b in pairwise(line)]
    assert all(a != b for a, b in pairwise(steps))


def test_the_largest_piece_is_one_and_without_holes() -> None:
    """What touches at a corner only is another piece: a line through one point encloses nothing."""
    mask = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 0, 1], [0, 0, 0, 1, 0]], dtype=bool)
    expected = np.zeros_like(mask)
    expected[:3, :3] = True
    np.testing.assert_array_equal(largest_piece(mask), expected)


@pytest.mark.parametrize("turn", [np.s_[::-1], np.s_[:, ::-1]], ids=["upside down", "mirrored"])
def test_any_line_is_filled_by_the_even_odd_rule(turn: tuple[slice, ...]) -> None:
    """A triangle that no pixel edge follows, and its mirror image."""
    line = np.array([[0.2, 0.2], [7.8, 0.2], [0.2, 5.8], [0.2, 0.2]])
    filled = fill(line, (6, 8))
    y, x = np.indices((6, 8)) + 0.5
    inside = (x > 0.2) & (y > 0.2) & ((x - 0.2) / 7.6 + (y - 0.2) / 5.6 < 1)
    np.testing.assert_array_equal(filled, inside)
    assert not np.array_equal(filled[turn], inside)
