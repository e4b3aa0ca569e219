"""A patch may look otherwise than its slice, never say otherwise."""

from dataclasses import replace

import numpy as np
import pytest

from ml.labels import IGNORE
from ml.training.augmentation import Augmentation, F64Array, augment, draw_intensity, warp
from ml.training.intensity import NOISE_VALUES, Intensity
from ml.training.recipe import PAPER_AUGMENTATION


def test_ignored_pixels_stay_ignored_through_every_transform() -> None:
    """A value between 0 and ignore would be a label: resampling of targets takes the nearest."""
    rng = np.random.default_rng(0)
    hu = rng.normal(30, 5, (3, 64, 64)).astype(np.float32)
    target = rng.choice(np.array([0, 1, IGNORE], dtype=np.uint8), (64, 64))
    for augmentation in (Augmentation(), PAPER_AUGMENTATION):
        for seed in range(20):
            _, patch = augment(hu, target, (32, 32), 48, augmentation, np.random.default_rng(seed))
            assert set(np.unique(patch).tolist()) <= {0, 1, IGNORE}
            assert 0.25 < (patch == IGNORE).mean() < 0.7


def test_slices_are_seen_from_above_or_below() -> None:
    """In the other order, and nothing else: patient and scanner tell both ways."""
    hu = np.random.default_rng(0).normal(30, 5, (3, 64, 64)).astype(np.float32)
    blood = np.zeros((64, 64), dtype=np.uint8)
    for seed in range(5):
        seen = [
            augment(
                hu, blood, (32, 32), 48, replace(Augmentation(), reverse_slices=share), np.random.default_rng(seed)
            )[0]
            for share in (0.0, 1.0)
        ]
        assert np.array_equal(seen[1], seen[0][::-1])


def test_blood_stays_on_blood_through_every_warp() -> None:
    """Image and target move together; what lies outside the source is air and ignored."""
    hu = np.full((3, 64, 64), 30, dtype=np.float32)
    blood = np.zeros((64, 64), dtype=np.uint8)
    blood[20:40, 24:36] = 1
    hu[:, blood == 1] = 90
    for seed in range(20):
        patch, target = augment(hu, blood, (30, 30), 48, Augmentation(), np.random.default_rng(seed))
        bright = patch[1] > 62
        agreement = (bright == (target == 1))[target != IGNORE].mean()
        assert agreement > 0.96
        assert np.all(patch[1][target == IGNORE] < 29.9)


@pytest.mark.parametrize("centre", [(32, 32), (2, 60), (-14, 30), (63, 0), (-60, 200)])
@pytest.mark.parametrize("augmentation", [Augmentation(), PAPER_AUGMENTATION], ids=["compact", "paper"])
def test_a_patch_is_that_of_the_whole_slice(centre: tuple[float, float], augmentation: Augmentation) -> None:
    """Only the part that a patch touches is looked at; in a wide margin of air, that part is another one."""
    rng, margin = np.random.default_rng(0), 300
    slices = [rng.normal(30, 5, (64, 70)).astype(np.int16) for _ in range(3)]
    target = rng.choice(np.array([0, 1], dtype=np.uint8), (64, 70))
    wide = [np.pad(one, margin, constant_values=-1000) for one in slices]
    wide_target = np.pad(target, margin, constant_values=IGNORE)
    far = (centre[0] + margin, centre[1] + margin)
    for seed in range(10):
        hu, pixels = augment(slices, target, centre, 48, augmentation, np.random.default_rng(seed))
        wide_hu, wide_pixels = augment(wide, wide_target, far, 48, augmentation, np.random.default_rng(seed))
        assert hu == pytest.approx(wide_hu, abs=0.3)  # of 1,000 HU at the rim, by places in single precision
        assert (pixels == wide_pixels).mean() > 0.99
        assert np.any(pixels != IGNORE) == (centre != (-60, 200))


def test_a_patch_is_turned_stretched_and_mirrored_but_never_upside_down() -> None:
    """Read off slices whose values are their own rows and columns."""
    places = np.mgrid[:120, :120].astype(np.float32)
    draw, blood = Augmentation(), np.zeros((120, 120), dtype=np.uint8)
    steps = []
    for seed in range(80):
        (rows, columns, _), _ = warp([*places, places[0]], blood, (60, 60), 32, draw, np.random.default_rng(seed))
        steps.append([[np.diff(one, axis=axis).mean() for axis in (0, 1)] for one in (rows, columns)])
    down, across = np.moveaxis(np.array(steps), 2, 0)  # of each patch, what one pixel is in the slice: (v, u)
    degrees, height = np.degrees(np.arctan2(down[:, 1], down[:, 0])), np.hypot(*down.T)
    assert -25 <= degrees.min() < -18 < 18 < degrees.max() <= 25
    assert 1 / 1.18 - 1e-4 <= height.min() < height.max() <= 1 / 0.82 + 1e-4
    area = down[:, 0] * across[:, 1] - down[:, 1] * across[:, 0]
    assert 25 < (area < 0).sum() < 55
    width = np.abs(area) / height
    assert 1 / 1.18 - 1e-4 <= width.min() < width.max() <= 1 / 0.82 + 1e-4
    assert np.std(width / height) > 0.05


def drawn(augmentation: Augmentation, count: int = 2000) -> Intensity[F64Array]:
    """Of so many patches."""
    rng = np.random.default_rng(0)
    return Intensity(*np.array([draw_intensity(augmentation, rng) for _ in range(count)]).T)


def fills(values: F64Array, low: float, high: float) -> bool:
    """Whether values lie in a range and come near both of its ends."""
    margin = (high - low) / 20
    return bool(low <= values.min() < low + margin and high - margin < values.max() <= high)


def test_a_quarter_is_blurred_and_a_seventh_sharpened() -> None:
    """Never both, and by no more than the ranges say."""
    draw = drawn(Augmentation())
    assert (draw.blend == 1).mean() == pytest.approx(0.25, abs=0.03)
    assert (draw.blend < 0).mean() == pytest.approx(0.15, abs=0.03)
    assert np.isin(draw.blend[draw.blend >= 0], (0, 1)).all()
    blurred, sharpened = draw.blur_px[draw.blend == 1], draw.blend[draw.blend < 0]
    assert fills(blurred, 0.3, 0.9)
    assert fills(sharpened, -0.8, -0.2)


def test_two_fifths_are_noisy() -> None:
    """Of any strength and grain, from any part of the row of noise."""
    draw = drawn(Augmentation())
    noisy = draw.noise_hu != 0
    assert noisy.mean() == pytest.approx(0.4, abs=0.04)
    assert fills(draw.noise_hu, -6, 6)
    assert fills(draw.grain_px, 0, 1)
    assert fills(draw.noise_start, 0, NOISE_VALUES)


@pytest.mark.parametrize("augmentation", [Augmentation(), PAPER_AUGMENTATION], ids=["compact", "paper"])
def test_contrast_is_changed_in_thirds(augmentation: Augmentation) -> None:
    """None, power law U(0.85, 1.1), log U(0.7, 1.1): paper, section 2.2."""
    draw = drawn(augmentation)
    log, power = draw.logarithm > 0, draw.power != 1
    assert not (log & power).any()
    assert log.mean() == pytest.approx(1 / 3, abs=0.04)
    assert power.mean() == pytest.approx(1 / 3, abs=0.04)
    assert fills(draw.logarithm[log], 0.7, 1.1)
    assert fills(draw.power[power], 0.85, 1.1)


def test_the_papers_patches_change_in_contrast_alone() -> None:
    """No sharpness, noise, gain or offset."""
    draw = drawn(PAPER_AUGMENTATION)
    for value, column in ((0, draw.blend), (0, draw.noise_hu), (1, draw.gain), (0, draw.offset_hu)):
        assert (column == value).all()
