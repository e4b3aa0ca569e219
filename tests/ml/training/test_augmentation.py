"""A patch may look otherwise than its slice, never say otherwise."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ml.labels import IGNORE
from ml.training.augmentation import Augmentation, augment, change_contrast, change_texture, warp
from ml.training.recipe import PAPER_AUGMENTATION
from ml.training.texture import grainy_noise, white_noise

CALM = Augmentation(blur_probability=0, sharpen_probability=0, noise_probability=0, offset_hu=0, gain=(1, 1))


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
            augment(hu, blood, (32, 32), 48, replace(CALM, reverse_slices=share), np.random.default_rng(seed))[0]
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
        patch, target = augment(hu, blood, (30, 30), 48, CALM, np.random.default_rng(seed))
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


def test_contrast_rules_keep_the_order_of_tissues() -> None:
    """Air below brain below blood below bone, in all three thirds."""
    hu = np.array([-1000.0, 0.0, 30.0, 70.0, 300.0], dtype=np.float32).reshape(1, 1, 5)
    changed = [change_contrast(hu, Augmentation(), np.random.default_rng(seed)).ravel() for seed in range(30)]
    assert all(np.all(np.diff(one) > 0) for one in changed)
    assert np.std([one[2] for one in changed]) > 1


def test_contrast_is_the_papers() -> None:
    """A power, or a share of the logarithm, of what lies between 0 and 110 HU; nothing else moves."""
    hu = np.random.default_rng(0).uniform(-50, 200, (3, 40, 40)).astype(np.float32)
    share = np.clip(hu / 110, 0, 1)
    power = change_contrast(hu, replace(CALM, contrasts=("power",), power_law=(0.9, 0.9)), np.random.default_rng(1))
    assert power == pytest.approx(hu + 110 * (share**0.9 - share), abs=1e-3)
    log = change_contrast(hu, replace(CALM, contrasts=("log",), logarithm=(0.8, 0.8)), np.random.default_rng(1))
    assert log == pytest.approx(hu + 110 * (0.8 * np.log2(1 + share) - share), abs=1e-3)
    assert change_contrast(hu, replace(CALM, contrasts=("none",)), np.random.default_rng(1)) == pytest.approx(
        hu, abs=1e-4
    )


def test_gain_and_offset_are_of_the_whole_scale() -> None:
    """Air and bone too, as where a scanner is calibrated otherwise."""
    hu = np.array([-1000.0, 0.0, 1000.0], dtype=np.float32).reshape(1, 1, 3)
    draw = replace(CALM, contrasts=("none",), gain=(1.05, 1.05), offset_hu=5)
    changed = np.stack([change_contrast(hu, draw, np.random.default_rng(seed)).ravel() for seed in range(40)])
    assert np.diff(changed) == pytest.approx(1050, abs=1e-3)
    assert changed[:, 1].min() < -4 < 4 < changed[:, 1].max()
    assert np.abs(changed[:, 1]).max() <= 5


def test_texture_leaves_the_slices_it_was_given() -> None:
    """The caller's array is not changed, whatever is drawn."""
    hu = np.random.default_rng(0).normal(30, 5, (3, 40, 40)).astype(np.float32)
    kept = hu.copy()
    changed = [change_texture(hu, Augmentation(), np.random.default_rng(seed)) for seed in range(40)]
    assert np.array_equal(hu, kept)
    assert len({round(float(one.std()), 3) for one in changed}) > 15
    for seed, one in enumerate(changed):
        change_contrast(one, Augmentation(), np.random.default_rng(seed))
    assert np.array_equal(hu, kept)


def test_noise_is_normal() -> None:
    """Mean 0, variance 1, tails as they should be, and nothing in common between neighbours."""
    noise = white_noise(1_000_000, np.random.default_rng(0)).astype(np.float64)
    assert abs(noise.mean()) < 0.005
    assert noise.std() == pytest.approx(1, abs=0.005)
    assert (np.abs(noise) > 3).mean() == pytest.approx(0.0027, abs=0.0003)
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.005


@pytest.mark.parametrize("grain", [0.0, 0.2, 0.5, 1.0])
def test_the_grain_of_noise_is_a_gaussians(grain: float) -> None:
    """Equal in both directions, of unit variance, and as like its neighbour as SciPy's blur makes it."""
    noise = grainy_noise((4, 300, 310), grain, np.random.default_rng(0))
    blurred = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((4, 300, 310)), (0, grain, grain))
    assert noise.shape == blurred.shape
    assert noise.std() == pytest.approx(1, abs=0.01)
    for away in (1, 2, 3):
        expected = np.corrcoef(blurred[..., :-away].ravel(), blurred[..., away:].ravel())[0, 1]
        assert np.corrcoef(noise[..., :-away].ravel(), noise[..., away:].ravel())[0, 1] == pytest.approx(
            expected, abs=0.02
        )
        assert np.corrcoef(noise[:, :-away].ravel(), noise[:, away:].ravel())[0, 1] == pytest.approx(expected, abs=0.02)
