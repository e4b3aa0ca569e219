"""Components and their measures, against values worked out by hand and by brute force."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from ml.inference.lesions import abc2_ml, find_lesions, longest_axial_diameter_mm, side_of, without_islands
from ml.inference.midline import Midline
from ml.prediction import Region, Side
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
    assert lesion.key_slices == (1, 2)
    assert lesion.key_slice == 1
    assert lesion.longest_axial_diameter_mm == pytest.approx(np.hypot(4.0, 0.5))
    assert lesion.subtype is None
    assert np.array_equal(lesion.region.mask, mask)


def test_voxels_that_share_a_corner_are_one_lesion() -> None:
    """26-connected; a step of two is another lesion."""
    exam = volume((4, 4, 4), offsets=[0, 1, 2, 3], spacing=(1, 1))
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    assert [int(one.region.mask.sum()) for one in find_lesions(mask, exam)] == [2, 1]


def test_a_lesion_within_the_bend_of_another_has_its_own_voxels() -> None:
    """As a clot under a layer along the skull: one lies in the box around the other."""
    exam = volume((1, 6, 6), offsets=[0], spacing=(1, 1))
    layer, clot = np.zeros((2, 1, 6, 6), dtype=bool)
    layer[0, 0, :] = layer[0, :, 0] = True
    clot[0, 3:5, 3:5] = True
    one, other = find_lesions(layer | clot, exam)
    assert np.array_equal(one.region.mask, layer)
    assert np.array_equal(other.region.mask, clot)


def test_lesions_are_numbered_by_volume_then_position() -> None:
    """The same every time, so that segment numbers and tracking stay."""
    exam = volume((3, 4, 9), offsets=[0, 1, 2], spacing=(1, 1))
    mask = np.zeros((3, 4, 9), dtype=bool)
    mask[2, 0, 0] = mask[0, 3, 8] = mask[0, 0, 8] = True
    mask[1, 2, 3:5] = True
    lesions = find_lesions(mask, exam)
    assert [one.number for one in lesions] == [1, 2, 3, 4]
    assert [tuple(np.argwhere(one.region.mask)[0]) for one in lesions] == [(1, 2, 3), (0, 0, 8), (0, 3, 8), (2, 0, 0)]


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


def test_a_bleed_of_just_the_least_volume_is_reported() -> None:
    """At least so much, not more."""
    exam = volume((3, 3, 9), offsets=[0, 5, 10], spacing=(1, 1))
    mask = np.zeros((3, 3, 9), dtype=bool)
    mask[1, 1, :4] = True
    least_ml = 4 * 5.0 / 1000
    assert np.array_equal(without_islands(mask, exam.geometry, min_volume_ml=least_ml), mask)
    assert len(find_lesions(mask, exam, min_volume_ml=least_ml)) == 1


def test_an_empty_mask_has_no_lesions() -> None:
    """Nothing found, nothing measured."""
    exam = volume((2, 3, 3), offsets=[0, 1], spacing=(1, 1))
    empty = np.zeros((2, 3, 3), dtype=bool)
    assert find_lesions(empty, exam) == ()
    assert longest_axial_diameter_mm(empty, (1, 1)) == 0
    assert not without_islands(empty, exam.geometry, min_volume_ml=0).any()


def test_a_tilted_stack_is_measured_along_its_normal() -> None:
    """The table steps 5 mm, the slices are 4.755 mm high: with table steps every volume would be 5.1 % too large."""
    exam = volume((20, 8, 8), offsets=[5.0 * z for z in range(20)], spacing=(1, 1))
    angle = np.radians(18.0)
    column = np.array([0.0, np.cos(angle), -np.sin(angle)])
    exam = replace(exam, geometry=replace(exam.geometry, column_lps=column))
    mask = np.zeros((20, 8, 8), dtype=bool)
    mask[5:15, 2:6, 2:6] = True
    (lesion,) = find_lesions(mask, exam)
    by_table_steps_ml = 10 * 16 * 5.0 / 1000
    assert lesion.volume_ml == pytest.approx(10 * 16 * 4.7553 / 1000, rel=1e-4)
    assert by_table_steps_ml / lesion.volume_ml == pytest.approx(1.051, abs=0.0005)
    (straight,) = find_lesions(mask, volume((20, 8, 8), offsets=[5.0 * z for z in range(20)], spacing=(1, 1)))
    assert lesion.abc2_ml / straight.abc2_ml == pytest.approx(0.9511, abs=0.0001)


def test_abc2_estimates_an_ellipsoid_and_counts_slices_by_their_area() -> None:
    """Whole above 75 % of the largest area, half above 25 %, not at all below (Kothari et al. 1996)."""
    exam = volume((41, 120, 120), offsets=[2.0 * z for z in range(41)], spacing=(0.5, 0.5))
    z, y, x = np.indices((41, 120, 120), sparse=True)
    mask = ((z - 20) * 2 / 15) ** 2 + ((y - 60) * 0.5 / 20) ** 2 + ((x - 60) * 0.5 / 10) ** 2 <= 1
    assert exam.volume_ml(mask) == pytest.approx(4 / 3 * np.pi * 15 * 20 * 10 / 1000, rel=0.01)
    shares = 1 - ((np.arange(41) - 20) * 2 / 15) ** 2
    counted_mm = 2.0 * (np.count_nonzero(shares > 0.75) + 0.5 * np.count_nonzero((shares >= 0.25) & (shares <= 0.75)))
    assert abc2_ml(mask, exam.geometry) == pytest.approx(40.5 * 20.5 * counted_mm / 2 / 1000, rel=0.01)
    assert counted_mm == 7 * 2.0 + 6 * 1.0


def test_abc2_of_a_small_oblique_bleed_is_the_one_worked_out_by_hand() -> None:
    """A on the slice with the largest area and B at right angles to it, whichever way it runs; pixels of 3 x 1 mm; just
    75 % of that area is no more than 75 %, just 25 % no less than 25 %.
    """
    exam = volume((6, 9, 9), offsets=[0, 5, 10, 15, 22, 29], spacing=(3.0, 1.0))
    mask = np.zeros((6, 9, 9), dtype=bool)
    mask[0, 4, 4] = True  # an eighth
    mask[1, 1:4, 4:6] = True  # three quarters: half of 5 mm
    mask[2, [1, 2, 3, 4], [1, 2, 3, 4]] = mask[2, [1, 2, 3, 4], [2, 3, 4, 5]] = True  # 5 mm
    mask[3, 4:6, 4] = True  # a quarter: half of 6 mm
    longest_mm = np.hypot(12, 4)  # from the middle of the upper edge at the top to that of the lower edge at the bottom
    width_mm = 2 * 12 / longest_mm  # each row is 2 mm long
    assert abc2_ml(mask, exam.geometry) == pytest.approx(longest_mm * width_mm * (2.5 + 5 + 3) / 2 / 1000)


@pytest.mark.parametrize(("left", "side"), [(4, Side.LEFT), (3, Side.MIDLINE), (2, Side.MIDLINE), (1, Side.RIGHT)])
@pytest.mark.parametrize("height_mm", [1.0, 2.5, 5.0])
def test_both_sides_are_judged_alike(left: int, side: Side, height_mm: float) -> None:
    """Four fifths of a bleed are nearly all of it, left and right, however its volume is rounded."""
    exam = volume((2, 3, 11), offsets=[0, height_mm], spacing=(1, 1))
    mask = np.zeros((2, 3, 11), dtype=bool)
    mask[0, 1, left : left + 5] = True
    assert side_of(mask, exam.geometry, Midline((1.0, 0.0, 0.0), 4.5)) is side


def test_a_side_holds_most_of_the_volume_not_of_the_voxels() -> None:
    """Four voxels of a thick slice on the left, two of a thin one on the right."""
    exam = volume((5, 3, 9), offsets=[0, 1, 2, 12, 22], spacing=(1, 1))
    mask = np.zeros((5, 3, 9), dtype=bool)
    mask[1, 0, :2] = mask[3, 0, 5:] = True
    assert side_of(mask, exam.geometry, Midline((1.0, 0.0, 0.0), 4.0)) is Side.LEFT
    mask[3, 0, 5:7] = False
    mask[2, 0, :2] = True
    assert side_of(mask, exam.geometry, Midline((1.0, 0.0, 0.0), 4.0)) is Side.MIDLINE


def test_key_slices_come_in_order_of_their_area() -> None:
    """Three at most, the lower slice first where areas are equal."""
    exam = volume((6, 4, 9), offsets=[0, 1, 2, 3, 4, 5], spacing=(1, 1))
    mask = np.zeros((6, 4, 9), dtype=bool)
    for z, width in enumerate([1, 3, 7, 3, 5]):
        mask[z, 1, :width] = True
    (lesion,) = find_lesions(mask, exam)
    assert lesion.key_slices == (2, 4, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), min_size=2, max_size=30, unique=True))
def test_the_diameter_is_the_farthest_pair_of_pixels(pixels: list[tuple[int, int]]) -> None:
    """Against all pairs, with non-square pixels."""
    mask = np.zeros((1, 8, 10), dtype=bool)
    mask[0][tuple(np.array(pixels).T)] = True
    edges = np.array([[0, -0.5], [0, 0.5], [-0.5, 0], [0.5, 0]])
    wanted = pdist((np.array(pixels)[:, None] + edges).reshape(-1, 2) * (0.5, 0.8)).max()
    assert longest_axial_diameter_mm(mask, (0.5, 0.8)) == pytest.approx(wanted)


def test_many_lesions_of_a_large_exam_take_little_memory() -> None:
    """Of each one its box is kept: thin slices have 80 million voxels, and blood in the sulci dozens of pieces."""
    mask = np.zeros((40, 100, 100), dtype=bool)
    mask[5:35:10, 10:90:15, 10:90:15] = True
    lesions = find_lesions(mask, volume(mask.shape, offsets=list(range(40)), spacing=(1.0, 1.0)))
    assert len(lesions) == mask.sum() == 108
    assert sum(lesion.region.inside.nbytes for lesion in lesions) == 108
    assert np.array_equal(np.logical_or.reduce([lesion.region.mask for lesion in lesions]), mask)


def test_a_region_is_what_it_was_made_of() -> None:
    """Whole, and slice by slice."""
    mask = np.zeros((4, 6, 5), dtype=bool)
    mask[1:3, 2:5, 3] = mask[2, 0, 1] = True
    region = Region.of(mask)
    assert region.inside.shape == (2, 5, 3)
    assert np.array_equal(region.mask, mask)
    for z, plane in enumerate(mask):
        assert np.array_equal(region.on_slice(z), plane)
