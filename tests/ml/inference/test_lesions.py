"""Components and their measures, against values worked out by hand and by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from ml.inference.lesions import find_lesions, longest_axial_diameter_mm, without_islands
from ml.volume import Geometry, Volume


def volume(shape: tuple[int, int, int], *, offsets: list[float], spacing: tuple[float, float]) -> Volume:
    """HU counts up voxel by voxel."""
    positions = np.zeros((shape[0], 3))
    positions[:, 2] = offsets
    hu = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    uids = tuple(str(z) for z in range(shape[0]))
    return Volume(hu, Geometry(positions, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), spacing, uids))


def test_measures_of_one_lesion_are_those_worked_out_by_hand() -> None:
    """Uneven slices and non-square pixels: heights 4, 5.5 and 7 mm, pixels 0.5 x 2 mm."""
    exam = volume((3, 4, 5), offsets=[0, 4, 11], spacing=(0.5, 2.0))
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[1, 1, 1] = mask[1, 1, 2] = mask[1, 2, 2] = mask[2, 2, 2] = True
    (lesion,) = find_lesions(mask, exam)
    assert lesion.volume_ml == pytest.approx((3 * 5.5 + 1 * 7) * 0.5 * 2.0 / 1000)
    assert lesion.mean_hu == pytest.approx((26 + 27 + 32 + 52) / 4)
    assert lesion.key_slice == 1
    assert lesion.longest_axial_diameter_mm == pytest.approx(np.hypot(2.0, 0.5))
    assert np.array_equal(lesion.mask, mask)


def test_voxels_that_share_a_corner_are_one_lesion() -> None:
    """26-connected; a step of two is another lesion."""
    exam = volume((4, 4, 4), offsets=[0, 1, 2, 3], spacing=(1, 1))
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    assert [int(one.mask.sum()) for one in find_lesions(mask, exam)] == [2, 1]


def test_lesions_are_numbered_by_volume_then_position() -> None:
    """The same every time, so that segment numbers and tracking stay."""
    exam = volume((3, 4, 9), offsets=[0, 1, 2], spacing=(1, 1))
    mask = np.zeros((3, 4, 9), dtype=bool)
    mask[2, 0, 0] = mask[0, 3, 8] = mask[0, 0, 8] = True
    mask[1, 2, 3:5] = True
    lesions = find_lesions(mask, exam)
    assert [one.number for one in lesions] == [1, 2, 3, 4]
    assert [tuple(np.argwhere(one.mask)[0]) for one in lesions] == [(1, 2, 3), (0, 0, 8), (0, 3, 8), (2, 0, 0)]


def test_small_islands_are_removed_by_true_volume() -> None:
    """Two voxels of a thick slice outweigh three of a thin one."""
    exam = volume((3, 3, 9), offsets=[0, 1, 20], spacing=(10, 10))
    mask = np.zeros((3, 3, 9), dtype=bool)
    mask[0, 0, :3] = True
    mask[2, 2, 7:] = True
    kept = without_islands(mask, exam.geometry, min_volume_ml=0.5)
    assert kept[2, 2, 7:].all()
    assert not kept[0].any()
    assert len(find_lesions(mask, exam, min_volume_ml=0.5)) == 1


def test_an_empty_mask_has_no_lesions() -> None:
    """Nothing found, nothing measured."""
    exam = volume((2, 3, 3), offsets=[0, 1], spacing=(1, 1))
    empty = np.zeros((2, 3, 3), dtype=bool)
    assert find_lesions(empty, exam) == ()
    assert longest_axial_diameter_mm(empty, (1, 1)) == 0
    assert not without_islands(empty, exam.geometry, min_volume_ml=0).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), min_size=2, max_size=30, unique=True))
def test_the_diameter_is_the_farthest_pair_of_pixels(pixels: list[tuple[int, int]]) -> None:
    """Against all pairs, with non-square pixels."""
    mask = np.zeros((1, 8, 10), dtype=bool)
    mask[0][tuple(np.array(pixels).T)] = True
    wanted = pdist(np.array(pixels) * (0.5, 0.8)).max()
    assert longest_axial_diameter_mm(mask, (0.5, 0.8)) == pytest.approx(wanted)
