"""The outline of a region on one slice as a closed line, and back (PS3.3 C.18.6.1.2: POLYLINE).

Coordinates are DICOM's of an image: (column, row) with the outer corner of the first pixel at (0, 0), so its centre at
(0.5, 0.5). Lines run along the edges of pixels: filled again, an outline is the region to the pixel.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    import numpy.typing as npt

    from ml.volume import FloatArray, MaskArray

_TURNS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""(row, column) steps to the right, down, left and up: clockwise, so the region lies to the right of the line."""


def largest_piece(mask_yx: MaskArray) -> MaskArray:
    """The largest part that hangs together by pixel edges, its holes filled: what one closed line can show."""
    labels, _ = ndimage.label(mask_yx)
    piece = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return np.asarray(ndimage.binary_fill_holes(piece), dtype=np.bool_)


def outline(piece_yx: MaskArray) -> FloatArray:
    """(n, 2) corners of a piece as `largest_piece` gives it, clockwise from its first pixel; the last is the first."""
    padded = np.pad(piece_yx, 1)
    first_row, first_column = (int(n) for n in np.argwhere(piece_yx)[0])
    corners: list[tuple[int, int]] = []
    row, column, turn = first_row, first_column, 0
    while not corners or (row, column) != (first_row, first_column):
        # The pixels ahead of this corner on the left and right of the direction: only those decide where the edge goes.
        down, across = _TURNS[turn]
        ahead_left = padded[row + 1 + _ahead(down, -across), column + 1 + _ahead(across, down)]
        ahead_right = padded[row + 1 + _ahead(down, across), column + 1 + _ahead(across, -down)]
        if corners and not ahead_right:
            corners.append((column, row))
            turn = (turn + 1) % 4
        elif corners and ahead_left:
            corners.append((column, row))
            turn = (turn - 1) % 4
        elif not corners:
            corners.append((column, row))
        row, column = row + _TURNS[turn][0], column + _TURNS[turn][1]
    return np.array([*corners, corners[0]], dtype=np.float64)


def _ahead(along: int, sideways: int) -> int:
    """Offset of a pixel ahead from the corner: 0 after the corner, -1 before it."""
    return 0 if along + sideways > 0 else -1


def fill(line: FloatArray, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(y, x) of the pixels whose centres lie inside a closed line, by the even-odd rule; for any line."""
    inside = np.zeros(shape, dtype=np.bool_)
    columns = np.arange(shape[1]) + 0.5
    for (x0, y0), (x1, y1) in pairwise(line):
        rows = np.arange(shape[0]) + 0.5
        crossed = (np.minimum(y0, y1) <= rows) & (rows < np.maximum(y0, y1))
        if crossed.any():
            at = x0 + (rows[crossed] - y0) / (y1 - y0) * (x1 - x0)
            inside[crossed] ^= columns[None] > at[:, None]
    return inside
