"""What is a head by its size, its shape and its skull, and what is none."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ml.data.series import read_volume
from ml.errors import UnreadableStudy
from tests.ml.data.conftest import WriteSeries, head_hu
from tests.ml.data.test_series import Change, open_ribs, put_all, refusal_code


def test_a_scan_of_the_whole_body_is_no_head(write_series: WriteSeries) -> None:
    """Longer than any head, though a head is in it."""
    assert refusal_code(write_series(range(0, 600, 60), thickness_mm=60.0)) == "NOT_HEAD"


def tapering(z: int, ds: Dataset) -> None:
    """From the widest slice to the vertex."""
    rows, columns = np.mgrid[:64, :64] - 32
    radius = np.hypot(rows, columns) / np.sqrt(1 - (z / 10) ** 2)
    hu = np.select([radius < 20, radius < 23], [35, 900], -1000)
    ds.PixelData = (hu + 1024).astype(np.uint16).tobytes()


def test_pixels_of_a_millimetre_that_make_a_giant_are_refused(write_series: WriteSeries) -> None:
    """Scripts that lose the spacing write 1 mm for pixels of 0.45 mm: 2.2 times too wide."""
    with pytest.raises(UnreadableStudy, match="Pixel Spacing") as refused:
        read_volume(write_series(change=put_all("PixelSpacing", [7.7, 7.7])))
    assert refused.value.code == "NOT_HEAD"


def test_slices_of_a_millimetre_that_make_a_flat_head_are_refused(write_series: WriteSeries) -> None:
    """Positions counted in slices; the same slices at their distance are a head, and so is its upper part."""
    with pytest.raises(UnreadableStudy, match="positions in mm") as refused:
        read_volume(write_series(range(10), change=tapering))
    assert refused.value.code == "NOT_HEAD"
    assert len(read_volume(write_series(range(0, 80, 8), change=tapering)).hu) == 10
    assert len(read_volume(write_series(range(0, 50, 5), change=tapering)).hu) == 10


def test_the_part_of_a_head_near_its_vertex_is_a_head(write_series: WriteSeries) -> None:
    """21 mm of it: narrow where it begins, and soon as wide as it is seen to be."""

    def vertex(z: int, ds: Dataset) -> None:
        """Of a ball of 160 mm."""
        rows, columns = np.mgrid[:64, :64] - 32
        radius = np.hypot(rows, columns) * 3.5
        skull = np.sqrt(2 * 80 * (z + 2.5) - (z + 2.5) ** 2)
        hu = np.select([radius < skull - 7, radius < skull], [35, 900], -1000)
        ds.PixelData = (hu + 1024).astype(np.uint16).tobytes()
        ds.PixelSpacing = [3.5, 3.5]

    assert len(read_volume(write_series(range(0, 24, 3), change=vertex)).hu) == 8


def open_suture(_: int, ds: Dataset) -> None:
    """A gap of 5.7 mm on either side, in bone of 13 mm."""
    rows, columns = np.mgrid[:64, :64] - 32
    radius = np.hypot(rows, columns)
    hu = np.select([radius < 17, radius < 24], [35, 900], -1000)
    hu[31:34] = np.where(hu[31:34] == 900, 35, hu[31:34])
    ds.PixelSpacing = [1.9, 1.9]
    ds.PixelData = (hu + 1024).astype(np.uint16).tobytes()


def missing_flap(z: int, ds: Dataset) -> None:
    """Below the flap the skull is closed."""
    if z > 3:
        open_ribs(z, ds)


def cut_at_the_skull(z: int, ds: Dataset) -> None:
    """A field of view as wide as the head, or a little less."""
    ds.Columns = 44
    ds.PixelData = (head_hu(z)[:, 10:54] + 1024).astype(np.uint16).tobytes()


def thin_skull(_: int, ds: Dataset) -> None:
    """1.2 mm of soft bone in pixels of 0.4 mm."""
    rows, columns = np.mgrid[:320, :320] - 160
    radius = np.hypot(rows, columns)
    hu = np.select([radius < 120, radius < 123], [30, 230], -1000)
    ds.Rows, ds.Columns = hu.shape
    ds.PixelSpacing = [0.4, 0.4]
    ds.PixelData = (hu + 1024).astype(np.uint16).tobytes()


@pytest.mark.parametrize(
    "change",
    [open_suture, missing_flap, cut_at_the_skull, put_all("PixelSpacing", [1.9, 1.9]), thin_skull],
    ids=["sutures", "flap", "cut", "newborn", "thin"],
)
def test_a_head_is_known_by_its_skull(write_series: WriteSeries, change: Change) -> None:
    """Also where that is open, cut off or small."""
    assert len(read_volume(write_series(change=change)).hu) == 10
