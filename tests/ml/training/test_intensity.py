"""What is drawn for a patch is what happens to it, whatever stands beside it in the batch."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage

from ml.training.augmentation import Augmentation, draw_intensity
from ml.training.intensity import CALM, NOISE_VALUES, Intensity, change_intensity

F32Array = npt.NDArray[np.float32]


def change(hu_3vu: F32Array, *draws: Intensity[float]) -> F32Array:
    """The same patch by each of these."""
    stack = torch.from_numpy(hu_3vu).expand(len(draws), *hu_3vu.shape)
    return change_intensity(stack, torch.tensor(draws)).numpy()


@pytest.fixture
def hu() -> F32Array:
    """A patch with bone and air."""
    return np.random.default_rng(0).normal(30, 200, (3, 40, 50)).astype(np.float32)


@pytest.fixture
def draws() -> list[Intensity[float]]:
    """Of forty patches."""
    return [draw_intensity(Augmentation(), np.random.default_rng(seed)) for seed in range(40)]


def test_a_calm_draw_changes_nothing(hu: F32Array) -> None:
    """Not by a thousandth of a HU."""
    assert change(hu, CALM)[0] == pytest.approx(hu, abs=1e-3)


@pytest.mark.parametrize("sigma", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("blend", [1.0, -0.5])
def test_sharpness_is_scipys_gaussian(hu: F32Array, sigma: float, blend: float) -> None:
    """Within each slice; sharpening adds a share of what it would take away."""
    blurred = ndimage.gaussian_filter(hu, (0, sigma, sigma), mode="nearest", truncate=3 / sigma)
    changed = change(hu, CALM._replace(blur_px=sigma, blend=blend))[0]
    assert changed == pytest.approx(hu + blend * (blurred - hu), abs=0.01)


@pytest.mark.parametrize("grain", [0.0, 0.2, 0.5, 1.0])
def test_noise_is_normal_and_its_grain_a_gaussians(grain: float) -> None:
    """Of the drawn SD in every slice, with tails as they should be, as like its neighbour as SciPy's blur makes it."""
    flat = np.full((3, 300, 310), 40, dtype=np.float32)
    noise = (change(flat, CALM._replace(noise_hu=4.0, grain_px=grain, noise_start=1e5))[0] - flat) / 4
    blurred = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((3, 300, 310)), (0, grain, grain))
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std(axis=(1, 2)) == pytest.approx(1, abs=0.02)
    assert (np.abs(noise) > 3).mean() == pytest.approx(0.0027, abs=0.0006)
    for away in (1, 2, 3):
        expected = np.corrcoef(blurred[..., :-away].ravel(), blurred[..., away:].ravel())[0, 1]
        for one, other in (
            (noise[..., :-away], noise[..., away:]),
            (noise[:, :-away], noise[:, away:]),
        ):
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] == pytest.approx(expected, abs=0.02)


def test_slices_and_patches_have_noise_of_their_own() -> None:
    """Also where the row of values ends within the patch; the other sign is the other noise."""
    flat = np.zeros((3, 60, 60), dtype=np.float32)
    starts = (0.0, 1e6, NOISE_VALUES - 5000.0)
    noise = change(flat, *(CALM._replace(noise_hu=1.0, noise_start=start) for start in starts)).reshape(9, -1)
    assert np.abs(np.corrcoef(noise) - np.eye(9)).max() < 0.1
    opposite = change(flat, CALM._replace(noise_hu=-1.0, noise_start=1e6)).reshape(3, -1)
    assert opposite == pytest.approx(-noise[3:6], abs=1e-4)


def test_contrast_rules_keep_the_order_of_tissues(draws: list[Intensity[float]]) -> None:
    """Air below brain below blood below bone, in all three thirds."""
    hu = np.array([-1000.0, 0.0, 30.0, 70.0, 300.0], dtype=np.float32).reshape(1, 1, 5)
    changed = change(hu, *(draw._replace(blend=0.0, noise_hu=0.0) for draw in draws)).reshape(-1, 5)
    assert np.all(np.diff(changed) > 0)
    assert changed[:, 2].std() > 1


def test_contrast_is_the_papers() -> None:
    """A power, or a share of the logarithm, of what lies between 0 and 110 HU; nothing else moves."""
    hu = np.random.default_rng(0).uniform(-50, 200, (3, 40, 40)).astype(np.float32)
    share = np.clip(hu / 110, 0, 1)
    power, log = change(hu, CALM._replace(power=0.9), CALM._replace(logarithm=0.8))
    assert power == pytest.approx(hu + 110 * (share**0.9 - share), abs=1e-3)
    assert log == pytest.approx(hu + 110 * (0.8 * np.log2(1 + share) - share), abs=1e-3)


def test_gain_and_offset_are_of_the_whole_scale() -> None:
    """Air and bone too, as where a scanner is calibrated otherwise."""
    hu = np.array([-1000.0, 0.0, 1000.0], dtype=np.float32).reshape(1, 1, 3)
    changed = change(hu, CALM._replace(gain=1.05, offset_hu=-3.0)).ravel()
    assert changed == pytest.approx(np.array([-1053, -3, 1047]), abs=1e-3)


def test_a_patch_is_changed_as_if_it_were_alone(hu: F32Array, draws: list[Intensity[float]]) -> None:
    """Some are blurred, some sharpened, some noisy; each by its own row."""
    together = change(hu, *draws)
    assert len({round(float(one.std()), 2) for one in together}) > 20
    for one, draw in zip(together, draws, strict=True):
        assert one == pytest.approx(change(hu, draw)[0], abs=1e-3)


def test_all_patches_at_once_are_changed_as_some_of_them(
    hu: F32Array, draws: list[Intensity[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU blurs every patch, also those that stay as they are."""
    some = change(hu, *draws)
    monkeypatch.setattr("ml.training.intensity._rows", lambda _: slice(None))
    assert change(hu, *draws) == pytest.approx(some, abs=1e-3)


def test_patches_are_left_as_they_were_given(hu: F32Array, draws: list[Intensity[float]]) -> None:
    """The loader's tensors are not written to, whatever their type."""
    for kept in (torch.from_numpy(hu)[None], torch.from_numpy(hu)[None].half()):
        before = kept.clone()
        for draw in draws:
            change_intensity(kept, torch.tensor([draw]))
        assert torch.equal(kept, before)


def test_no_patches_are_no_patches() -> None:
    """One of several processes may have none of a step."""
    assert change_intensity(torch.empty(0, 3, 8, 8), torch.empty(0, len(CALM))).shape == (0, 3, 8, 8)
