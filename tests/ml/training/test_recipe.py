"""What the paper states stays as it states it."""

import math
from dataclasses import replace

import pytest

from ml.training.recipe import COMPACT_RECIPE, PAPER_RECIPE, Span


def test_the_paper_recipe_is_the_paper() -> None:
    """Section 2.2: 600 epochs, step 240, batch 16, crop 240, 0.6 to 0.4, thirds of contrast."""
    recipe = PAPER_RECIPE
    assert (recipe.epochs, recipe.decay, recipe.decay_every_epochs) == (600, "step", 240)
    sampling, augmentation = recipe.sampling, recipe.augmentation
    assert (sampling.batch, sampling.patch, sampling.labelled_share) == (16, 240, 0.6)
    assert augmentation.contrasts == ("none", "power", "log")
    assert (augmentation.power_law, augmentation.logarithm) == ((0.85, 1.1), (0.7, 1.1))
    assert augmentation.scale[0] < 1 < augmentation.scale[1]


def test_the_step_is_a_tenth_every_240_epochs() -> None:
    """As --step of fyu/drn: at 240 and 480 of 600."""
    span = PAPER_RECIPE.length(960, alone=True)
    assert (span.steps, span.steps_per_epoch) == (600 * 60, 60)
    rates = [PAPER_RECIPE.rate(60 * epoch, span) for epoch in (0, 239, 240, 479, 480, 599)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


@pytest.mark.parametrize("steps", [100, 1000, 1799, 6000])
def test_a_training_of_so_many_steps_has_the_decays_of_the_epochs(steps: int) -> None:
    """Two, after 240 and 480 sixhundredths, however few the steps are."""
    span = Span(steps)
    rates = [PAPER_RECIPE.rate(step, span) for step in range(steps)]
    assert [step for step in range(1, steps) if rates[step] < rates[step - 1]] == [
        math.ceil(steps * share) for share in (0.4, 0.8)
    ]
    assert rates[-1] == pytest.approx(1e-4)


def test_an_epoch_is_one_pass_over_the_labelled_slices() -> None:
    """Beside a second pool a batch has 9.6 of them."""
    assert PAPER_RECIPE.length(960, alone=False).steps_per_epoch == 100
    assert PAPER_RECIPE.length(961, alone=False).steps_per_epoch == 101
    with pytest.raises(ValueError, match="by steps"):
        COMPACT_RECIPE.length(960, alone=True)
    assert replace(COMPACT_RECIPE, epochs=2).length(32, alone=True).steps == 4
