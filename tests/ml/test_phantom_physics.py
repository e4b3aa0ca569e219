"""What a simulated scanner adds, against what was measured on a real one."""

from dataclasses import replace

import numpy as np

from ml.phantom import draw_spec
from ml.phantom.physics import apply_physics
from ml.phantom.scanner import Sliced

MATRIX, FOV_MM = 256, 240.0


def test_brain_is_brighter_beside_bone_and_only_there() -> None:
    """A ring of 7 mm of bone around even brain, with a tail of the point spread and without, all else alike."""
    axis = (np.arange(MATRIX) - (MATRIX - 1) / 2) * FOV_MM / MATRIX
    radius = np.hypot(axis[:, None], axis)
    hu = np.where(radius < 77, 1000.0, -1000.0)
    hu[radius < 70] = 30.0
    sliced = Sliced(hu[None].astype(np.float32), np.zeros((1, MATRIX, MATRIX), dtype=np.uint8), np.array([5.0]))
    plain = replace(draw_spec(3, institution="A").scanner, fov_mm=FOV_MM, halo=0.0, halo_mm=2.5)
    without, _ = apply_physics(sliced, plain, matrix=MATRIX)
    tailed, _ = apply_physics(sliced, replace(plain, halo=0.07), matrix=MATRIX)
    gain = (tailed - without)[0]
    beside, further, deep = (gain[np.abs(radius - (70 - mm)) < 0.5].mean() for mm in (2.4, 7.0, 25.0))
    assert 8 < beside < 25, "measured in a real vault: 18 HU more than in the depth"
    assert 0.5 < further < 5
    assert abs(deep) < 1


def test_a_head_that_moves_is_streaked_in_some_slices_and_more_where_it_turns() -> None:
    """All else alike: noise, kernel and what beam hardening leaves."""
    axis = (np.arange(MATRIX) - (MATRIX - 1) / 2) * FOV_MM / MATRIX
    radius = np.hypot(axis[:, None] / 1.2, axis)
    hu = np.where(radius < 77, 1000.0, -1000.0)
    hu[radius < 70] = 30.0
    stack = np.repeat(hu[None], 30, axis=0).astype(np.float32)
    sliced = Sliced(stack, np.zeros(stack.shape, dtype=np.uint8), np.full(30, 5.0))
    still = replace(draw_spec(3, institution="A").scanner, fov_mm=FOV_MM, motion_mm=0.0, turn_degrees=0.0)
    specs = (still, replace(still, motion_mm=1.0), replace(still, motion_mm=1.0, turn_degrees=5.0))
    lying, shifted, turned = (apply_physics(sliced, spec, matrix=MATRIX)[0][:, radius < 60] for spec in specs)
    errors = [np.abs(moved - lying).mean(axis=1) for moved in (shifted, turned)]
    for error in errors:
        assert 0 < np.count_nonzero(error > 0.1) < 15
    assert errors[1].max() > 2 * errors[0].max()
