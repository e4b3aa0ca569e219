"""The inside of the skull, against the cavity that the simulator built and on heads of simple shapes."""

from dataclasses import replace

import numpy as np
import pytest

from ml.config import Preprocessing
from ml.inference.brain import extract_brain, without_outside
from ml.inference.preprocessing import AIR_HU, prepare
from ml.phantom import SimulatedExam, draw_spec, scanner, simulate
from ml.phantom.grid import HeadGrid
from ml.phantom.head import GRID_MM, HIGH_MM, LOW_MM, build_head
from ml.phantom.skull import build_skull
from ml.volume import MaskArray, Volume
from tests.ml.conftest import TINY_PREPROCESSING
from tests.real_heads import head_and_neck, injured_head

BLEEDING = 7
"""A seed: tilted by 14 degrees, slices of 6 mm, with blood."""


@pytest.fixture(scope="module")
def exam() -> SimulatedExam:
    """Skull base, orbits, neck and all."""
    return simulate(draw_spec(BLEEDING, bleed=True), matrix=128)


def cavity_of(exam: SimulatedExam) -> MaskArray:
    """(z, y, x) where the simulator's skull is hollow."""
    head = build_head(exam.spec.head)
    grid = HeadGrid.spanning(LOW_MM, HIGH_MM, spacing_mm=GRID_MM)
    _, cavity = build_skull(grid, exam.spec.head.skull, np.random.default_rng([exam.spec.head.seed, 1]))
    geometry, matrix = exam.volume.geometry, exam.volume.hu.shape[1]
    steps, to_grid = scanner._index_map(head, geometry, scanner.pose(exam.spec.scanner))
    low = np.array(grid.low_mm[::-1]) / grid.spacing_mm
    slabs = [scanner._Slab(steps, to_grid @ at - low, np.zeros(1), matrix) for at in geometry.positions_lps]
    return np.stack([scanner._sample(cavity.distance, slab, fill=99.0) < 0 for slab in slabs])


def test_the_simulated_cavity_is_found(exam: SimulatedExam) -> None:
    """Nearly all of it, nearly nothing else, and no blood is lost."""
    brain, cavity = extract_brain(exam.volume.hu, exam.volume.geometry.pixel_spacing_mm), cavity_of(exam)
    overlap = (brain & cavity).sum()
    assert 2 * overlap / (brain.sum() + cavity.sum()) > 0.95
    assert overlap / brain.sum() > 0.98
    assert exam.truth.sum() > 0
    assert not (exam.truth & ~brain).any()


def test_the_brain_alone_is_kept_whatever_the_shape_of_pixels(exam: SimulatedExam) -> None:
    """Columns four times as fine: the same inside of the skull."""
    geometry = exam.volume.geometry
    down_mm, across_mm = geometry.pixel_spacing_mm
    fine = replace(geometry, pixel_spacing_mm=(down_mm, across_mm / 4))
    oblong = Volume(np.repeat(exam.volume.hu, 4, axis=2), fine)
    config = Preprocessing(2.0, 112, TINY_PREPROCESSING.windows, slab_mm=5.0, neighbour_mm=5.0, brain_only=True)
    inside, expected = (prepare(one, config).hu_zvu > -100 for one in (oblong, exam.volume))
    assert 2 * (inside & expected).sum() / (inside.sum() + expected.sum()) > 0.98


def test_the_step_is_off_unless_asked_for(exam: SimulatedExam) -> None:
    """On: outside the brain there is air, inside nothing changes, and the head stays where it was."""
    assert not TINY_PREPROCESSING.brain_only
    config = Preprocessing(2.0, 112, TINY_PREPROCESSING.windows, slab_mm=5.0, neighbour_mm=5.0)
    off, on = prepare(exam.volume, config), prepare(exam.volume, replace(config, brain_only=True))
    assert (on.hu_zvu > 300).sum() < (off.hu_zvu > 300).sum() / 200
    assert np.array_equal(off.view.rows, on.view.rows)
    inside = on.hu_zvu > -100
    assert np.median(np.abs(on.hu_zvu - off.hu_zvu)[inside]) == 0
    assert (on.hu_zvu == AIR_HU).mean() > (off.hu_zvu == AIR_HU).mean()


def head(*, gap_degrees: float = 0.0, scalp_hu: float = 30.0) -> tuple[np.ndarray, MaskArray]:
    """(8, 160, 160) of 1.5 mm: brain, bone of 8 mm, fat, scalp; a missing flap on the right; and its inside."""
    y, x = np.mgrid[:160, :160] - 80.0
    radius = np.hypot(y, x) * 1.5
    hu = np.full((160, 160), -1000.0, dtype=np.float32)
    hu[radius < 92] = scalp_hu
    hu[radius < 87] = -90
    bone = (radius < 84) & (radius >= 76) & (np.degrees(np.abs(np.arctan2(y, x))) >= gap_degrees / 2)
    hu[(radius < 84) & (radius >= 76)] = 30
    hu[bone] = 900
    hu[radius < 76] = 35
    return np.repeat(hu[None], 8, axis=0), np.repeat((radius < 76)[None], 8, axis=0)


@pytest.mark.parametrize("gap_degrees", [0.0, 20.0, 50.0])
def test_a_missing_flap_lets_neither_brain_out_nor_scalp_in(gap_degrees: float) -> None:
    """Up to 66 mm wide."""
    hu, inside = head(gap_degrees=gap_degrees)
    brain = extract_brain(hu, (1.5, 1.5))
    assert (brain & inside).sum() / inside.sum() > 0.93
    assert (brain & ~inside).sum() / brain.sum() < 0.03


@pytest.mark.parametrize("axis", [1, 2])
def test_a_head_that_the_field_of_view_cuts_off_has_its_brain(axis: int) -> None:
    """A third of it is missing at one side, with the bone there: what is left is no less brain."""
    hu, inside = (np.delete(one, np.s_[:56], axis=axis) for one in head())
    brain = extract_brain(hu, (1.5, 1.5))
    assert (brain & inside).sum() / inside.sum() > 0.93
    assert (brain & ~inside).sum() / brain.sum() < 0.03


def test_calcifications_and_clips_inside_stay() -> None:
    """They are brain to a reader, and bright."""
    hu, _ = head()
    hu[3:5, 70:76, 90:96] = 2500
    assert extract_brain(hu, (1.5, 1.5))[3:5, 70:76, 90:96].all()


def test_a_slice_full_of_streaks_has_the_brain_of_its_neighbours() -> None:
    """A coil or a clip spoils one slice; blood beside it must not be lost."""
    hu, inside = head()
    streaks = np.where(np.arange(160) // 5 % 2, 350.0, -350.0)[:, None] * inside[4]
    hu[4] += streaks.astype(np.float32)
    brain = extract_brain(hu, (1.5, 1.5))
    assert (brain[4] & inside[4]).sum() / inside[4].sum() > 0.45  # what is as bright as bone is not told apart
    assert (brain[3] & inside[3]).sum() / inside[3].sum() > 0.93


@pytest.mark.parametrize("border", [0, 55, 80], ids=["nothing is left", "a third", "half"])
@pytest.mark.parametrize("spoilt", [2, 3])
def test_the_brain_goes_on_beyond_spoilt_slices(spoilt: int, border: int) -> None:
    """Thin slices through a clip: what is left of the brain in them says nothing of its size above and below."""
    hu, inside = (np.concatenate([one, one]) for one in head())
    streaks = np.where(np.arange(160) // 5 % 2, 350.0, -350.0).astype(np.float32)[:, None]
    for z in range(5, 5 + spoilt):
        hu[z, :, border:] += (streaks * inside[z])[:, border:]
    brain = extract_brain(hu, (1.5, 1.5))
    for z in (0, 4, 5 + spoilt, 15):
        assert (brain[z] & inside[z]).sum() / inside[z].sum() > 0.93


def test_without_a_skull_there_is_no_brain() -> None:
    """Air, and water."""
    assert not extract_brain(np.full((5, 64, 64), -1000, dtype=np.float32), (3.0, 3.0)).any()
    ball = np.where(head()[0] > -500, np.float32(30), np.float32(-1000))
    assert not extract_brain(ball, (1.5, 1.5)).any()


@pytest.mark.parametrize("slab", [1, 2, 3, 4])
def test_a_real_face_and_neck_are_removed(slab: int) -> None:
    """From the mouth to the vertex, in slices of 1.5 to 6 mm: as much brain in each, and no jaw, tongue or neck."""
    head = injured_head(slab)
    brain = extract_brain(head.hu, head.geometry.pixel_spacing_mm)
    areas = brain.sum(axis=(1, 2)) * np.prod(head.geometry.pixel_spacing_mm)
    heights = head.geometry.offsets_mm
    assert 1400 < head.volume_ml(brain) < 1550
    assert areas[heights < 10].max() < 2000  # within the atlas and the foramen magnum
    assert areas.max() > 15_000
    front = brain[heights < 45][:, :100]
    assert front.sum() / brain.sum() < 0.002  # jaw and orbits


@pytest.mark.parametrize("slab", [1, 2, 3, 4])
def test_a_real_neck_is_removed(slab: int) -> None:
    """From the ventricles to the chin, 139 mm; below the foramen magnum nothing but the cord in its canal."""
    head = head_and_neck(slab)
    areas = extract_brain(head.hu, head.geometry.pixel_spacing_mm).sum(axis=(1, 2)) * 3.2**2
    heights = head.geometry.offsets_mm
    assert 280 < head.geometry.slice_heights_mm @ areas / 1000 < 350
    assert not areas[heights < 80].any()
    assert areas[-1] > 12_000


def test_only_findings_outside_the_skull_are_taken_from_a_map() -> None:
    """In the scalp all of it, in a gap what is not inside; a bleed that reaches the bone stays whole, haze stays."""
    hu, inside = head()
    brain = extract_brain(hu, (1.5, 1.5))
    prob = np.full(hu.shape, 0.1, dtype=np.float32)
    scalp, gap, bleed = (slice(3, 5), slice(75, 80), slice(136, 141)), (2, 80, slice(20, 32)), (4, 50, slice(35, 60))
    for finding in (scalp, gap, bleed):
        prob[finding] = 0.8
    kept = without_outside(prob, brain, 1.5)
    assert not kept[scalp].any()
    assert np.array_equal(kept[gap] > 0.5, inside[gap])
    assert 0 < inside[gap].sum() < 6
    assert (kept[bleed] > 0.5).all()
    assert not inside[bleed].all()
    assert (kept[0] == prob[0]).all()


@pytest.mark.parametrize(("first", "stays"), [(7, True), (6, False)])
def test_a_bleed_just_above_the_brain_that_was_found_stays(first: int, stays: bool) -> None:
    """At the vertex the brain may be missed in a slice; in two it was not, and what is there lies outside."""
    hu, _ = head()
    brain = extract_brain(hu, (1.5, 1.5))
    brain[first:] = False
    prob = np.zeros(hu.shape, dtype=np.float32)
    prob[7, 70:90, 70:90] = 0.9
    kept = without_outside(prob, brain, 1.5)
    assert np.array_equal(kept, prob if stays else np.zeros_like(prob))


def test_a_brain_that_was_hardly_found_judges_nothing() -> None:
    """None, or something else in the neck: whatever the map says stays."""
    prob = np.zeros((8, 160, 160), dtype=np.float32)
    prob[3, 20:30, 20:30] = 0.9
    neck = np.zeros(prob.shape, dtype=bool)
    for size in (0, 40):
        neck[:, 60 : 60 + size, 60 : 60 + size] = True
        assert np.array_equal(without_outside(prob, neck, 1.5), prob)
    neck[:, 60:110, 60:110] = True
    assert not without_outside(prob, neck, 1.5).any()


def test_no_blood_is_taken_from_a_map(exam: SimulatedExam) -> None:
    """Of what the simulator bled, with its edges and where the skull is thick."""
    brain = extract_brain(exam.volume.hu, exam.volume.geometry.pixel_spacing_mm)
    prob = exam.truth.astype(np.float32)
    assert np.array_equal(without_outside(prob, brain, exam.volume.geometry.pixel_spacing_mm[0]), prob)
