"""Heads that lie on a side, or whose images were turned: they are set upright for the network, and brought back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from ml.data.exams import LabelledExam, patient_key
from ml.data.shards import open_exam, write_exam
from ml.inference.lesions import find_lesions
from ml.inference.midline import find_midline
from ml.inference.pose import axes, faces_back, head_turn
from ml.inference.preprocessing import prepare
from ml.labels import BLEED
from ml.phantom import SimulatedExam, draw_spec, simulate
from ml.prediction import Side
from ml.training.paint import paint_bleeds
from ml.volume import HuArray, Volume
from tests.ml.conftest import TINY_PREPROCESSING, MakeVolume
from tests.real_heads import ge_head, head_and_neck, injured_head, visible_human

REAL_HEADS = {
    "tilted, one ear lower": ge_head,
    "one orbit broken": injured_head,
    "face and neck": head_and_neck,
    "cadaver": visible_human,
}
real_heads = pytest.mark.parametrize("real_head", REAL_HEADS.values(), ids=REAL_HEADS)


def lying(volume: Volume, degrees: float, lean_degrees: float = 0.0) -> Volume:
    """The same pictures, of a patient who is turned about the long axis, and leans, together with the scanner."""
    turn = axes(degrees, lean_degrees).T
    old = volume.geometry
    return replace(
        volume,
        geometry=replace(
            old,
            positions_lps=old.positions_lps @ turn.T,
            row_lps=turn @ old.row_lps,
            column_lps=turn @ old.column_lps,
        ),
    )


def own_turn(volume: Volume) -> float:
    """Of a head that lies straight, from its midline."""
    left = find_midline(volume).left_lps
    return float(np.degrees(np.arctan2(left[1], left[0])))


@pytest.fixture(scope="module")
def exam() -> SimulatedExam:
    """With blood, and a gantry tilted by 14 degrees."""
    return simulate(draw_spec(7, bleed=True), matrix=128)


@real_heads
def test_a_head_that_lies_straight_is_taken_as_it_lies(real_head: Callable[[], Volume]) -> None:
    """Also one that is turned by 20 degrees."""
    volume = real_head()
    assert head_turn(volume) == 0.0
    for degrees in (20.0, -20.0):
        assert head_turn(lying(volume, degrees - own_turn(volume))) == 0.0


@pytest.mark.parametrize("share", [0.25, 0.4])
def test_a_straight_head_that_the_field_of_view_cuts_off_at_one_side_is_not_turned(
    exam: SimulatedExam, share: float
) -> None:
    """What is left of it is more like its mirror image from front to back than from left to right."""
    columns = np.flatnonzero((exam.volume.hu > -300).any(axis=(0, 1)))
    cut = columns[0] + round(share * np.ptp(columns))
    for hu in (exam.volume.hu[:, :, cut:], exam.volume.hu[:, :, ::-1][:, :, cut:]):
        for degrees in (0.0, 15.0, -15.0):
            volume = replace(exam.volume, hu=np.ascontiguousarray(hu))
            assert head_turn(lying(volume, degrees)) == 0.0


@real_heads
@pytest.mark.parametrize("degrees", [35.0, -50.0, 75.0, 100.0, -90.0, -115.0])
def test_the_turn_of_a_real_head_is_found(real_head: Callable[[], Volume], degrees: float) -> None:
    """Within 8 degrees, and with the face where it is."""
    volume = real_head()
    found = head_turn(lying(volume, degrees - own_turn(volume)))
    assert found == pytest.approx(degrees, abs=8)


@pytest.mark.parametrize("degrees", [45.0, -75.0, 90.0])
def test_the_turn_of_a_simulated_head_is_found(exam: SimulatedExam, degrees: float) -> None:
    """Whose own turn is known."""
    own = exam.spec.scanner.rotation_degrees[2]
    assert head_turn(lying(exam.volume, degrees - own)) == pytest.approx(degrees, abs=8)


def test_the_air_in_a_headrest_is_not_taken_for_the_face(exam: SimulatedExam) -> None:
    """Closed and hollow, behind the head of somebody who lies on a side."""
    own = exam.spec.scanner.rotation_degrees[2]
    hu = np.pad(exam.volume.hu, [(0, 0), (0, 12), (0, 0)], constant_values=-1000)
    hu[:, -10:, 24:104] = 100
    hu[:, -9:-1, 25:103] = -1000
    for degrees in (90.0, -75.0):
        assert head_turn(lying(replace(exam.volume, hu=hu), degrees - own)) == pytest.approx(degrees, abs=8)


def test_the_turn_of_a_head_that_leans_is_found() -> None:
    """By 12 degrees towards a shoulder, as its neck bends."""
    spec = draw_spec(7, bleed=True)
    pitch, _, _ = spec.scanner.rotation_degrees
    leaning = simulate(replace(spec, scanner=replace(spec.scanner, rotation_degrees=(pitch, 12.0, 0.0))), matrix=128)
    for degrees in (0.0, 45.0, -75.0):
        assert head_turn(lying(leaning.volume, degrees)) == pytest.approx(degrees, abs=8)


@pytest.mark.parametrize("lean_degrees", [22.0, -22.0])
def test_slices_that_lean_with_a_head_do_not_turn_it(exam: SimulatedExam, lean_degrees: float) -> None:
    """As where an oblique reconstruction sets a leaning head straight."""
    own = exam.spec.scanner.rotation_degrees[2]
    assert head_turn(lying(exam.volume, -own, lean_degrees)) == 0.0


def test_without_a_head_nothing_is_turned(make_volume: MakeVolume) -> None:
    """Air; and a ring of bone that is as symmetric about any axis, so that none is clearer than straight."""
    ring = make_volume(shape=(100, 100))
    assert head_turn(Volume(np.full_like(ring.hu, -1000.0), ring.geometry)) == 0.0
    assert head_turn(ring) == 0.0


UPSIDE_DOWN = pytest.mark.parametrize("turn", [np.s_[:, ::-1], np.s_[:, ::-1, ::-1]], ids=["mirrored", "turned"])


@UPSIDE_DOWN
@real_heads
def test_pictures_that_are_upside_down_are_set_upright(
    real_head: Callable[[], Volume], turn: tuple[slice, ...]
) -> None:
    """As NIfTI files have them, under the directions of a DICOM file; the answer comes back upside down."""
    volume = real_head()
    reversed_head = replace(volume, hu=np.ascontiguousarray(volume.hu[turn]))
    assert not faces_back(volume)
    assert faces_back(reversed_head)
    mirror = 1 if len(turn) == 3 else -1
    straight, upright = prepare(volume, TINY_PREPROCESSING), prepare(reversed_head, TINY_PREPROCESSING)
    assert likeness(upright.hu_zvu[:, :, ::mirror], straight.hu_zvu) > 0.95
    bone = (upright.hu_zvu[upright.sampling.analysed] > 300).astype(np.float32)
    back = upright.to_source(bone)
    assert likeness(back, (reversed_head.hu > 300).astype(np.float32)) > 0.75


@UPSIDE_DOWN
def test_sides_stay_those_of_the_directions(turn: tuple[slice, ...]) -> None:
    """Whether pictures were turned or mirrored cannot be seen."""
    volume = injured_head(3)
    left = find_midline(replace(volume, hu=np.ascontiguousarray(volume.hu[turn]))).left_lps
    assert left[0] > 0.9


@pytest.mark.parametrize("first", [0, 20, 28])
def test_a_head_that_lies_straight_is_not_taken_for_upside_down(first: int) -> None:
    """Also without its lower part, where it has no sinuses; on a hollow headrest; with air behind from an operation."""
    whole = injured_head(3)
    kept = replace(
        whole.geometry,
        positions_lps=whole.geometry.positions_lps[first:],
        sop_instance_uids=whole.geometry.sop_instance_uids[first:],
    )
    volume = Volume(whole.hu[first:].copy(), kept)
    assert not faces_back(volume)
    assert faces_back(replace(volume, hu=volume.hu[:, ::-1])) == (first < 28)
    resting = volume.hu.copy()
    beside = resting[:, 215:255, 70:187] < -300
    resting[:, 215:255, 70:187][beside] = 50
    resting[:, 247:253, 74:183] = -1000
    assert not faces_back(replace(volume, hu=resting))
    if first == 0:
        operated = volume.hu.copy()
        operated[20:24, 185:200, 120:136] = -1000
        assert not faces_back(replace(volume, hu=operated))


@pytest.mark.parametrize("degrees", [60.0, -100.0])
def test_a_lesion_of_a_head_on_its_side_is_on_the_side_of_the_patient(degrees: float) -> None:
    """Left of a head that looks to the left is the table's side, not the picture's."""
    volume = injured_head(3)
    for bleed in paint_bleeds(volume, 12):
        if bleed.side is not Side.MIDLINE:
            lesion = max(find_lesions(bleed.truth, lying(volume, degrees)), key=lambda one: one.volume_ml)
            assert lesion.side is bleed.side, bleed.kind


@pytest.mark.parametrize(
    ("degrees", "brain_only"), [(0.0, True), (60.0, False)], ids=["straight, brain alone", "turned"]
)
def test_the_network_sees_a_head_alike_however_its_slices_are_stored(
    exam: SimulatedExam, degrees: float, *, brain_only: bool
) -> None:
    """Oblong pixels, slices closer together above; and its answer comes back to the same voxels."""
    geometry = exam.volume.geometry
    steps = np.minimum(np.arange(len(exam.volume.hu)), np.arange(len(exam.volume.hu)) / 4 + 12)
    positions = geometry.positions_lps[0] + np.outer(steps, geometry.positions_lps[1] - geometry.positions_lps[0])
    plain = lying(
        replace(
            exam.volume,
            hu=exam.volume.hu[:, ::2],
            geometry=replace(
                geometry,
                positions_lps=positions,
                pixel_spacing_mm=(2 * geometry.pixel_spacing_mm[0], geometry.pixel_spacing_mm[1]),
            ),
        ),
        degrees - exam.spec.scanner.rotation_degrees[2],
    )
    config = replace(TINY_PREPROCESSING, brain_only=brain_only)
    seen = prepare(plain, config)
    assert (seen.view.upright is None) == (degrees == 0)
    assert 1 < len(seen) < len(plain.hu)
    answer = np.random.default_rng(0).random((len(seen), config.size, config.size), dtype=np.float32)
    marked = Volume(seen.to_source(answer), plain.geometry)
    for way in ((False, False, True), (False, True, False), (True, True, False)):
        found = prepare(stored(plain, *way), config)
        assert found.hu_zvu == pytest.approx(seen.hu_zvu, abs=0.1)
        assert found.to_source(answer) == pytest.approx(stored(marked, *way).hu, abs=1e-4)


def stored(volume: Volume, transpose: bool, flip_y: bool, flip_x: bool) -> Volume:
    """The same voxels of the same patient, with rows and columns stored another way."""
    hu, old = volume.hu, volume.geometry
    row, column, corner = old.row_lps, old.column_lps, np.zeros(3)
    if flip_y:
        hu, corner = hu[:, ::-1], corner + column * (hu.shape[1] - 1) * old.pixel_spacing_mm[0]
        column = -column
    if flip_x:
        hu, corner = hu[:, :, ::-1], corner + row * (hu.shape[2] - 1) * old.pixel_spacing_mm[1]
        row = -row
    spacing_mm = old.pixel_spacing_mm
    if transpose:
        hu, row, column, spacing_mm = hu.transpose(0, 2, 1), column, row, spacing_mm[::-1]
    order = slice(None, None, -1 if (transpose + flip_y + flip_x) % 2 else 1)  # along the normal, which is turned too
    geometry = replace(
        old,
        positions_lps=(old.positions_lps + corner)[order],
        row_lps=row,
        column_lps=column,
        pixel_spacing_mm=spacing_mm,
        sop_instance_uids=old.sop_instance_uids[order],
    )
    return Volume(np.ascontiguousarray(hu[order]), geometry)


QUARTERS = pytest.mark.parametrize("quarters", [1, -1])


@QUARTERS
def test_the_network_sees_a_head_that_lies_on_its_side_upright(quarters: int) -> None:
    """Pictures turned by 90 degrees under the same directions: as if they had never been turned."""
    volume = injured_head(3)
    straight, turned = prepare(volume, TINY_PREPROCESSING), prepare(quarter(volume, quarters), TINY_PREPROCESSING)
    assert straight.view.upright is None
    assert turned.view.upright is not None
    assert likeness(turned.hu_zvu, straight.hu_zvu) > 0.95
    assert likeness(np.rot90(turned.hu_zvu, 2, axes=(1, 2)), straight.hu_zvu) < 0.8


def test_directions_that_are_turned_in_the_plane_are_set_upright() -> None:
    """A head that lies straight, in slices whose rows run 40 degrees off the patient's left."""
    volume = injured_head(3)
    turned_hu = ndimage.rotate(volume.hu, 40.0, (1, 2), reshape=False, order=1, cval=-1000)
    for degrees in (40.0, -40.0):
        found = lying(replace(volume, hu=turned_hu), degrees)
        upright = prepare(found, TINY_PREPROCESSING)
        assert likeness(upright.hu_zvu, prepare(volume, TINY_PREPROCESSING).hu_zvu) > 0.95


@pytest.mark.parametrize("degrees", [50.0, 90.0])
def test_what_is_marked_upright_comes_back_to_where_it_lay(degrees: float) -> None:
    """The inside of the skull, found in the network's images."""
    volume = injured_head(3)
    turned = replace(volume, hu=ndimage.rotate(volume.hu, degrees, (1, 2), reshape=False, order=1, cval=-1000))
    prepared = prepare(turned, TINY_PREPROCESSING)
    assert prepared.view.upright is not None
    bone = (prepared.hu_zvu[prepared.sampling.analysed] > 300).astype(np.float32)
    back = prepared.to_source(bone) > 0.5
    overlap = 2 * (back & (turned.hu > 300)).sum() / (back.sum() + (turned.hu > 300).sum())
    assert overlap > 0.75


@QUARTERS
def test_labels_are_set_upright_with_their_images(quarters: int, tmp_path: Path) -> None:
    """A shard of a turned head is that of the head before it was turned."""
    bleed = next(one for one in paint_bleeds(injured_head(3), 12) if one.kind == "ball")
    shards = []
    for name, volume, truth in (
        ("straight", bleed.volume, bleed.truth),
        ("turned", quarter(bleed.volume, quarters), np.rot90(bleed.truth, quarters, axes=(1, 2))),
    ):
        pixels = (truth * np.uint8(BLEED)).astype(np.uint8)
        labelled = LabelledExam("test", name, patient_key("test", name), volume, pixels)
        write_exam(tmp_path / name, labelled, TINY_PREPROCESSING)
        shards.append(open_exam(tmp_path / name))
    straight, turned = shards
    assert (turned.blood == 1).sum() == pytest.approx((straight.blood == 1).sum(), rel=0.1)
    assert turned.hu[turned.blood == 1].mean() == pytest.approx(straight.hu[straight.blood == 1].mean(), abs=2)


def quarter(volume: Volume, quarters: int) -> Volume:
    """The pictures turned, the directions not."""
    return replace(volume, hu=np.ascontiguousarray(np.rot90(volume.hu, quarters, axes=(1, 2))))


def likeness(some: HuArray, others: HuArray) -> float:
    """Correlation of what the window of bone shows, at the best shift: the middle of the head is found to 10 mm."""
    first, second = (np.clip(one, -300, 900) for one in (some, others))
    shifted = [np.roll(first, (down, right), axis=(1, 2)) for down in range(-3, 4) for right in range(-3, 4)]
    return float(max(np.corrcoef(one.ravel(), second.ravel())[0, 1] for one in shifted))
