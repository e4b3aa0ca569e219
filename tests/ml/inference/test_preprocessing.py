"""The way to the network's grid and back."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ml.config import Preprocessing, Window
from ml.inference.preprocessing import (
    Orientation,
    head_centre,
    prepare,
    resampling,
    sample,
    to_channels,
)
from ml.volume import Geometry, Volume
from tests.ml.conftest import MakeVolume

CONFIG = Preprocessing(2.0, 128, (Window(-10, 110), Window(-300, 900)), slab_mm=5.0, neighbour_mm=5.0)


@pytest.mark.parametrize("transposed", [False, True], ids=["", "rows for columns"])
@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0), (2.0, 1.25)], ids=["square", "oblong"])
def test_a_map_comes_back_to_where_it_was(
    make_volume: MakeVolume, spacing_mm: tuple[float, float], *, transposed: bool
) -> None:
    """The bright cube, marked on the network's grid, is as large there and covers the cube on the source grid."""
    volume = make_volume()
    hu, geometry = volume.hu, replace(volume.geometry, pixel_spacing_mm=spacing_mm)
    if transposed:
        row, column, positions = geometry.column_lps, geometry.row_lps, geometry.positions_lps[::-1]
        geometry = replace(geometry, row_lps=row, column_lps=column, positions_lps=positions)
        hu, geometry = hu[::-1].transpose(0, 2, 1), replace(geometry, pixel_spacing_mm=spacing_mm[::-1])
    prepared = prepare(Volume(hu, geometry), CONFIG)
    assert prepared.hu_zvu.shape == (10, 128, 128)
    marked = (prepared.hu_zvu > 50) & (prepared.hu_zvu < 90)
    cube = hu == 70
    pieces, _ = ndimage.label(marked[5])
    box = ndimage.find_objects(pieces)[np.bincount(pieces.ravel())[1:].argmax()]
    size_mm = [CONFIG.pixel_mm * (side.stop - side.start) for side in box]
    assert size_mm == pytest.approx([10 * mm for mm in spacing_mm], abs=2.5)
    found = prepared.to_source(marked.astype(np.float32)) > 0.5
    assert found.shape == cube.shape
    inside = cube & (np.roll(cube, 1, 2) & np.roll(cube, -1, 2) & np.roll(cube, 1, 1) & np.roll(cube, -1, 1))
    assert found[inside].all()


def test_the_way_back_takes_hardly_more_memory_than_its_answer(make_volume: MakeVolume) -> None:
    """The answer is as large as the exam: 0.6 GB for 600 slices of 512 x 512."""
    prepared = prepare(make_volume(shape=(400, 400)), CONFIG)
    prob = np.ones((len(prepared), 128, 128), dtype=np.float32)
    tracemalloc.start()
    answer = prepared.to_source(prob)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.5 * answer.nbytes


def test_resampling_keeps_mean_hu_and_fills_with_air(make_volume: MakeVolume) -> None:
    """Shrinking averages without a shift; beyond the source there is air."""
    volume = make_volume(shape=(240, 200))
    prepared = prepare(volume, Preprocessing(4.0, 180, CONFIG.windows, 5.0, 5.0))
    assert prepared.hu_zvu[0, 0, 0] == pytest.approx(-1000, abs=1)
    assert np.median(prepared.hu_zvu[0, 80:100, 80:100]) == pytest.approx(30, abs=0.1)
    soft = (volume.hu[0] > 0).sum() * 4.0
    small = (prepared.hu_zvu[0] > 0).sum() * 16.0
    assert small == pytest.approx(soft, rel=0.03)


@pytest.mark.parametrize("pixel_mm", [0.7, 1.3, 2.0, 2.3, 3.1, 5.0])
def test_resampling_adds_no_pattern(make_volume: MakeVolume, pixel_mm: float) -> None:
    """Even brain stays even at every ratio of pixel sizes, there and back."""
    prepared = prepare(make_volume(), Preprocessing(pixel_mm, 64, CONFIG.windows, 5.0, 5.0))
    brain = prepared.hu_zvu[0, 24:40, 24:40]
    assert np.abs(brain - 30).max() < 1e-2
    back = prepared.to_source(np.ones((10, 64, 64), dtype=np.float32))[5, 55:65, 45:55]
    assert np.abs(back - 1).max() < 1e-4


@pytest.mark.parametrize("pixel_mm", [0.3, 0.5, 0.95, 2.0])
def test_beyond_the_border_of_the_image_there_is_air(pixel_mm: float) -> None:
    """A head that reaches the border is seen there as if pixels of air followed."""
    config = replace(CONFIG, pixel_mm=pixel_mm)
    within = np.abs((np.arange(128) - 63.5) * pixel_mm) < 6.0  # of an image from -6 to 8.5 mm
    found, followed = resampling(30, 0.5, 12, config), resampling(50, 0.5, 22, config)[:, 10:-10]
    assert found[within] == pytest.approx(followed[within], abs=1e-6)


def test_shrinking_averages_what_is_finer_than_its_pixels(make_volume: MakeVolume) -> None:
    """Rows and columns that are 40 HU too bright and too dark in turn, as noise is: their mean is left."""
    volume = make_volume(shape=(240, 200))
    rows, columns = np.indices(volume.hu.shape[1:])
    for stripes in (rows, columns):
        noisy = replace(volume, hu=volume.hu + np.where(stripes % 2, np.float32(40), np.float32(-40)))
        small = prepare(noisy, replace(CONFIG, pixel_mm=4.0)).hu_zvu
        assert small == pytest.approx(prepare(volume, replace(CONFIG, pixel_mm=4.0)).hu_zvu, abs=12)
        assert np.abs(small[0, 54:74, 54:74] - 30).max() < 0.1


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("flip_y", [False, True])
@pytest.mark.parametrize("flip_x", [False, True])
def test_every_axial_orientation_is_turned_the_same_way(transpose: bool, flip_y: bool, flip_x: bool) -> None:
    """Prone, feet first, mirrored or turned storage of one head looks the same to the network, and comes back."""
    head = np.random.default_rng(0).uniform(-100, 900, (6, 40, 30)).astype(np.float32)
    positions = np.arange(18.0).reshape(6, 3) * (0, 0, 5)
    row, column = np.array([-1.0 if flip_x else 1.0, 0, 0]), np.array([0, -1.0 if flip_y else 1.0, 0])
    stored = head[:, :: -1 if flip_y else 1, :: -1 if flip_x else 1]
    if transpose:
        stored, row, column = stored.transpose(0, 2, 1), column, row
    if np.cross(row, column)[2] < 0:  # sorted along the normal, which now points to the feet
        stored, positions = stored[::-1], positions[::-1]
    orientation = Orientation.of(Geometry(positions, row, column, (2.0, 2.0), tuple("abcdef")))
    assert np.array_equal(orientation.apply(stored), head)
    assert np.array_equal(orientation.undo(orientation.apply(stored)), stored)


def test_the_centre_is_that_of_the_skull_not_of_the_image() -> None:
    """Off-centre heads, with a bright headrest behind; without bone the middle of the image."""
    hu = np.full((4, 200, 200), -1000, dtype=np.float32)
    hu[:, 40:120, 60:140] = 900
    hu[:, 44:116, 64:136] = 30
    hu[0, 190, 100] = 900
    centre = head_centre(hu)
    assert centre == pytest.approx((79.5, 99.5), abs=5)
    assert head_centre(np.zeros((2, 11, 21), dtype=np.float32)) == (5, 10)


@pytest.mark.parametrize("step_mm", [4.0, 5.0])
def test_thick_slices_are_analysed_one_by_one(step_mm: float) -> None:
    """No averaging; neighbours are the next slices, at the ends the slice itself."""
    sampling = sample(np.arange(5) * step_mm, CONFIG)
    assert np.array_equal(sampling.slabs, np.eye(5))
    assert sampling.neighbours.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]
    assert np.array_equal(sampling.spread, np.eye(5))


def test_thin_slices_are_averaged_to_slabs_and_analysed_at_2_mm() -> None:
    """0.625 mm slices: slabs of 5 mm, neighbours 5 mm away, answers interpolated between every fourth slice."""
    offsets = np.arange(41) * 0.625
    sampling = sample(offsets, CONFIG)
    assert sampling.slabs.sum(axis=1) == pytest.approx(np.ones(41))
    assert np.count_nonzero(sampling.slabs[20]) == 9
    assert np.diff(offsets[sampling.analysed])[:-1] == pytest.approx(2.5)
    middle = sampling.neighbours[len(sampling.neighbours) // 2]
    assert np.diff(offsets[middle]) == pytest.approx([5.0, 5.0])
    assert sampling.spread.sum(axis=1) == pytest.approx(np.ones(41))
    assert sampling.spread @ offsets[sampling.analysed] == pytest.approx(offsets, abs=1e-4)


def test_the_network_sees_thin_slices_in_slabs(make_volume: MakeVolume) -> None:
    """1 mm each, of which the network gets the mean of five."""
    volume = make_volume(np.arange(12.0))
    volume.hu[:] += np.random.default_rng(0).normal(0, 30, volume.hu.shape).astype(np.float32)
    mean = np.broadcast_to(volume.hu[4:9].mean(axis=0), volume.hu.shape)
    expected = prepare(replace(volume, hu=mean), CONFIG).hu_zvu[6]
    assert prepare(volume, CONFIG).hu_zvu[6] == pytest.approx(expected, abs=1e-2)


def test_neighbours_and_slabs_have_distances_of_their_own() -> None:
    """Neighbours 3 mm away beside slabs of 5 mm."""
    sampling = sample(np.arange(12.0), replace(CONFIG, neighbour_mm=3.0))
    assert sampling.neighbours[3].tolist() == [3, 6, 9]
    assert np.flatnonzero(sampling.slabs[6]).tolist() == [4, 5, 6, 7, 8]


def test_answers_between_analysed_slices_are_by_distance() -> None:
    """However the slices between them are spaced: an answer that rises with the height is right everywhere."""
    offsets = np.array([0, 0.4, 1.5, 2.1, 2.2, 5.0, 5.3, 6.9, 7.2])
    sampling = sample(offsets, CONFIG)
    assert sampling.analysed.tolist() == [0, 3, 5, 8]
    assert sampling.spread @ offsets[sampling.analysed] == pytest.approx(offsets, abs=1e-5)


def test_uneven_slices_are_averaged_and_analysed_as_worked_out_by_hand() -> None:
    """Thick below, thin above: heights of 5, 4, 3, 2, 1, 1.3 and 1.6 mm. Slabs are of what lies within 2.5 mm of a
    slice of less than 3.3 mm; the last slice is analysed whatever its distance.
    """
    sampling = sample(np.array([0, 5, 8, 11, 12, 13, 14.6]), CONFIG)
    assert np.array_equal(sampling.slabs[:2], np.eye(7)[:2])
    assert sampling.slabs[2] == pytest.approx(np.array([0, 1.5, 3, 0.5, 0, 0, 0]) / 5)
    assert sampling.slabs[6] == pytest.approx(np.array([0, 0, 0, 0, 0.4, 1.3, 1.6]) / 3.3)
    assert sampling.analysed.tolist() == [0, 1, 2, 3, 5, 6]
    assert sampling.spread[4] == pytest.approx([0, 0, 0, 0.5, 0.5, 0])
    assert sampling.neighbours.tolist() == [[0, 0, 1], [0, 1, 3], [1, 2, 5], [1, 3, 6], [2, 5, 6], [3, 6, 6]]


def test_what_slices_overlap_is_not_averaged_twice() -> None:
    """Slices of 3 mm every 1 mm: what lies within 1.5 mm of one reaches over 5 mm; of 5 mm and more, each stays."""
    offsets = np.arange(9.0)
    assert sample(offsets, CONFIG, 2.0).slabs[4] == pytest.approx(np.array([0, 0, 0, 1, 1, 1, 0, 0, 0]) / 3)
    for overlap_mm in (4.0, 7.0):
        assert np.array_equal(sample(offsets, CONFIG, overlap_mm).slabs, np.eye(9))
    assert sample(offsets, CONFIG, 7.0).analysed.tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("step_mm", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("first_mm", [-0.7, 0.3, -47.1, -83.7])
def test_the_height_of_the_table_decides_nothing(step_mm: float, first_mm: float) -> None:
    """2 mm apart is 1.9999999 mm in half of the differences of such positions; 4 and 6 mm are as near to 5 mm."""
    exact = sample(np.arange(61) * step_mm, CONFIG)
    sampling = sample(np.round(first_mm + np.arange(61) * step_mm, 6), CONFIG)
    assert sampling.analysed.tolist() == exact.analysed.tolist()
    assert sampling.neighbours.tolist() == exact.neighbours.tolist()
    assert np.diff(exact.analysed * step_mm) == pytest.approx(2.0)


def test_channels_are_windows_of_three_slices() -> None:
    """Windows outermost, stretched over -1 to 1 and clipped."""
    hu = np.array([-500.0, 50.0, 2000.0], dtype=np.float32).reshape(1, 3, 1, 1)
    assert to_channels(hu, CONFIG).ravel().tolist() == pytest.approx([-1, 0, 1, -1, 350 / 600 - 1, 1])
