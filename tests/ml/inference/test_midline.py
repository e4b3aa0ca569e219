"""The midline of heads that are turned, shifted, leaning and stored in every way, and the side of a lesion."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ml.inference.lesions import find_lesions, side_of
from ml.inference.midline import find_midline
from ml.inference.pose import points_lps, symmetry
from ml.phantom import draw_spec, simulate
from ml.prediction import Side
from ml.training.paint import paint_bleeds
from ml.volume import FloatArray, Geometry, Volume
from tests.real_heads import ge_head, injured_head, visible_human

SHAPE = (24, 96, 96)
PIXEL_MM, STEP_MM = 2.4, 6.0


def pose(turn_degrees: float, lean_degrees: float) -> FloatArray:
    """Rotation from the head's own axes to the patient's."""
    turn, lean = np.radians([turn_degrees, lean_degrees])
    about_y = np.array([[np.cos(lean), 0, np.sin(lean)], [0, 1, 0], [-np.sin(lean), 0, np.cos(lean)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y)


def head(
    turn: float = 0.0, lean: float = 0.0, shift_mm: float = 0.0, bone_hu: float = 900.0
) -> tuple[Volume, FloatArray]:
    """A skull in a given pose, and each voxel's place in its own axes (x left, y back, z up; mm)."""
    middle = (np.array(SHAPE) - 1) / 2
    z, y, x = np.indices(SHAPE)
    patient = np.stack([(x - middle[2]) * PIXEL_MM, (y - middle[1]) * PIXEL_MM, (z - middle[0]) * STEP_MM], axis=-1)
    own = (patient - [shift_mm, 0, 0]) @ pose(turn, lean)
    depth = np.where(own[..., 1] < 0, 105.0, 80.0)  # with a face: no head is the same from behind
    radius = np.sqrt((own[..., 0] / 72.0) ** 2 + (own[..., 1] / depth) ** 2 + (own[..., 2] / 90.0) ** 2)
    hu = np.where(radius < 1.0, 35.0, -1000.0)
    hu[(radius > 0.9) & (radius < 1.0)] = bone_hu
    positions = np.array([[*(-middle[:0:-1] * PIXEL_MM), (k - middle[0]) * STEP_MM] for k in range(SHAPE[0])])
    geometry = Geometry(
        positions, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (PIXEL_MM, PIXEL_MM), tuple(map(str, range(SHAPE[0])))
    )
    return Volume(hu.astype(np.float32), geometry), own


POSES = {"straight": (0, 0, 0), "turned": (14, 0, 0), "leaning": (0, 9, 0), "all at once": (-11, -7, 17)}


@pytest.mark.parametrize("bone_hu", [900.0, 60.0], ids=["skull", "no bone"])
@pytest.mark.parametrize(("turn", "lean", "shift_mm"), POSES.values(), ids=POSES)
def test_the_midline_is_found_in_every_pose(turn: float, lean: float, shift_mm: float, bone_hu: float) -> None:
    """Within 5 mm everywhere in the head, though the picture's own middle is far off."""
    volume, own = head(turn, lean, shift_mm, bone_hu)
    inside = volume.hu > -300
    found = find_midline(volume).leftwards_mm(points(volume, inside))
    assert np.abs(found - own[inside][:, 0]).max() < 5.0


@pytest.mark.parametrize(("lean", "turn"), [(12.0, 0.0), (-12.0, 15.0)])
def test_the_midline_of_a_whole_head_that_leans_is_found(lean: float, turn: float) -> None:
    """Within 5 mm everywhere: in face and skull base, unlike in a smooth shell, a lean looks like a turn at first."""
    spec = draw_spec(7, bleed=True)
    pitch, _, _ = spec.scanner.rotation_degrees
    scanner = replace(spec.scanner, rotation_degrees=(pitch, lean, turn))
    volume = simulate(replace(spec, scanner=scanner), matrix=128).volume
    inside = points_lps(volume.hu > -300, volume.geometry)
    found = find_midline(volume).leftwards_mm(inside)
    assert np.abs(found - inside @ pose(turn, lean)[:, 0]).max() < 5.0


def points(volume: Volume, mask: np.ndarray) -> FloatArray:
    """(n, 3) patient points, one by one."""
    return np.array([volume.geometry.to_lps(int(z), y, x) for z, y, x in np.argwhere(mask)])


@pytest.mark.parametrize("step", [1, 3])
def test_points_are_where_the_geometry_has_them(step: int) -> None:
    """Oblong pixels, and of every n-th pixel."""
    volume, _ = head()
    volume = replace(volume, geometry=replace(volume.geometry, pixel_spacing_mm=(2.4, 1.5)))
    mask = np.random.default_rng(0).random(SHAPE) < 0.01
    mask[:, np.arange(SHAPE[1]) % step > 0, :] = mask[:, :, np.arange(SHAPE[2]) % step > 0] = False
    assert points_lps(mask[:, ::step, ::step], volume.geometry, step=step) == pytest.approx(points(volume, mask))


@pytest.mark.parametrize(("turn", "lean", "shift_mm"), POSES.values(), ids=POSES)
def test_a_lesion_at_the_front_of_a_turned_head_is_on_the_side_where_it_is(
    turn: float, lean: float, shift_mm: float
) -> None:
    """12 mm from the head's midline, 60 mm in front: by the picture's middle some would change sides."""
    volume, own = head(turn, lean, shift_mm)
    for x, side in ((12.0, Side.LEFT), (-12.0, Side.RIGHT), (0.0, Side.MIDLINE)):
        mask = ((own - [x, -60.0, 10.0]) ** 2).sum(axis=-1) < 7.5**2
        (lesion,) = find_lesions(mask, volume)
        assert lesion.side is side


def test_a_lesion_that_reaches_over_the_midline_belongs_to_the_side_that_holds_most_of_it() -> None:
    """A fifth on the other side is not the midline yet."""
    volume, own = head()
    for reach_mm, side in ((-3.0, Side.LEFT), (-20.0, Side.MIDLINE)):
        mask = (own[..., 0] > reach_mm) & (own[..., 0] < 25) & (np.abs(own[..., 1:]) < 15).all(axis=-1)
        (lesion,) = find_lesions(mask, volume)
        assert lesion.side is side


@pytest.mark.parametrize("flip", ["rows", "rows for columns", "none"])
def test_sides_are_the_patients_however_the_slices_are_stored(flip: str) -> None:
    """Mirrored storage with its own direction cosines is the same patient."""
    volume, own = head(turn=8, shift_mm=-10)
    mask = ((own - [30.0, 0.0, 0.0]) ** 2).sum(axis=-1) < 12.0**2
    old = volume.geometry
    upside_down = replace(old, positions_lps=old.positions_lps[::-1])  # both ways turn the normal: the order follows it
    if flip == "rows":
        shift = np.array([(SHAPE[2] - 1) * PIXEL_MM, 0.0, 0.0])
        turned = replace(upside_down, row_lps=-old.row_lps, positions_lps=upside_down.positions_lps + shift)
        volume, mask = Volume(volume.hu[::-1, :, ::-1], turned), mask[::-1, :, ::-1]
    elif flip == "rows for columns":
        turned = replace(upside_down, row_lps=old.column_lps, column_lps=old.row_lps)
        volume, mask = Volume(volume.hu[::-1].transpose(0, 2, 1), turned), mask[::-1].transpose(0, 2, 1)
    (lesion,) = find_lesions(mask, volume)
    assert lesion.side is Side.LEFT


@pytest.mark.parametrize(("rows", "columns", "middle_mm"), [(96, 96, 0.0), (60, 96, 0.0), (96, 76, -24.0)])
def test_without_any_head_the_midline_is_the_middle_of_the_picture(rows: int, columns: int, middle_mm: float) -> None:
    """A picture of air has no symmetry, of whatever shape it is; nothing fails."""
    volume, _ = head()
    found = find_midline(Volume(np.full_like(volume.hu[:, :rows, :columns], -1000.0), volume.geometry))
    assert found.left_lps == (1.0, 0.0, 0.0)
    assert found.offset_mm == pytest.approx(middle_mm, abs=1e-6)


@pytest.mark.parametrize("bin_mm", [2.0, 12.0])
def test_a_cloud_that_is_its_own_mirror_image_has_its_midline_where_it_was_mirrored(bin_mm: float) -> None:
    """Within a quarter of a bin, and it is nearly as like itself as can be."""
    random = np.random.default_rng(0)
    half = random.uniform((7.3, -60, -50), (80, 60, 50), (40_000, 3))
    points = np.concatenate([half, half * (-1, 1, 1) + (2 * 7.3, 0, 0)])
    likeness, offset_mm = symmetry(points, 0.0, 0.0, bins_mm=(12.0, 12.0, bin_mm))
    assert offset_mm == pytest.approx(7.3, abs=bin_mm / 4)
    assert likeness > 0.97


@pytest.mark.parametrize(
    "real_head",
    [ge_head, injured_head, visible_human],
    ids=["turned by 11 degrees, tilted", "one orbit broken", "cadaver"],
)
def test_a_bleed_in_a_real_head_is_on_its_side(real_head: Callable[[], Volume]) -> None:
    """Blood of all kinds painted left and right; that in the ventricles is on both sides."""
    volume = real_head()
    midline = find_midline(volume)
    for bleed in paint_bleeds(volume, 12):
        assert side_of(bleed.truth, volume.geometry, midline) is bleed.side, bleed.kind
