"""Heads of children: small, thin and soft bone that has not closed, brains full of water."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from ml.data.plausibility import check_head
from ml.phantom import PEDIATRIC, SimulatedExam, draw_spec, simulate
from ml.phantom.draw_child import ADULT_CM, OLDEST, Child, child_brain, child_calcifications, child_skull, draw_child
from ml.phantom.head import build_head
from ml.phantom.spec import ExamSpec, Zone

NEWBORN = 4_951_042
"""A seed whose child was just born, scanned without tilt."""


def rng() -> np.random.Generator:
    """The same for every age."""
    return np.random.default_rng(3)


@functools.cache
def newborn(step_mm: float) -> SimulatedExam:
    """In slices of `step_mm`."""
    spec = draw_spec(NEWBORN, institution=PEDIATRIC, bleed=False)
    slices = round(100 / step_mm)
    zones = (Zone(slices, step_mm, step_mm),)
    return simulate(replace(spec, scanner=replace(spec.scanner, zones=zones, start_mm=-45.0)), matrix=256)


def test_half_of_the_children_are_under_four_and_heads_grow_with_age() -> None:
    """35 cm around at birth, those of adolescents nearly as large as those of adults."""
    children = [draw_child(np.random.default_rng(seed)) for seed in range(1000)]
    ages, sizes = np.array([one.age for one in children]), np.array([one.size for one in children])
    assert ages.min() >= 0
    assert ages.max() <= OLDEST
    assert 3 < np.median(ages) < 5.2
    assert np.mean(sizes[ages < 0.1]) * ADULT_CM == pytest.approx(36, abs=1.5)
    assert np.mean(sizes[ages > 14]) * ADULT_CM == pytest.approx(55, abs=1)


def test_bone_grows_and_closes_with_age() -> None:
    """From 2 mm that are soft and open to what an adolescent has."""
    adult = draw_spec(1).head.skull
    skulls = [child_skull(rng(), adult, Child(age, 1.0)) for age in (0.0, 1.0, 5.0, 15.0)]
    for of in ("thickness_mm", "table_hu", "scalp_mm", "sinus_size", "mastoid_air", "ridge_mm"):
        values = [getattr(skull, of) for skull in skulls]
        assert values == sorted(values), of
    widths = [skull.suture_mm for skull in skulls]
    assert widths == sorted(widths, reverse=True)
    assert [skull.fontanelle_mm > 0 for skull in skulls] == [True, True, False, False]
    assert adult.fontanelle_mm == 0
    small = child_skull(rng(), adult, Child(0.0, 0.5))
    assert small.thickness_mm == pytest.approx(2 * skulls[0].thickness_mm)  # before it is scaled to size


def test_brains_of_infants_are_darker_and_those_of_children_full() -> None:
    """White matter below, and neither wide sulci nor calcifications."""
    adult = draw_spec(1).head
    white = [child_brain(rng(), adult.brain, Child(age, 1.0)).white_hu for age in (0.0, 0.5, 1.0, 5.0)]
    assert white == sorted(white)
    assert white[-1] - white[0] > 6
    assert child_brain(rng(), adult.brain, Child(8.0, 1.0)).sulcus_mm < 0.31
    assert adult.calcifications
    assert child_calcifications(Child(4.0, 1.0), adult.calcifications) == ()
    assert 0 < len(child_calcifications(Child(16.0, 1.0), adult.calcifications)) < len(adult.calcifications)


def test_everything_else_is_that_of_the_seed() -> None:
    """A child bleeds as the adult of the same seed does, and its field of view fits its head."""

    def drawn(institution: str) -> ExamSpec:
        return draw_spec(NEWBORN, institution=institution, bleed=True)

    child, adult = drawn(PEDIATRIC), drawn("any")
    assert child.head.bleeds == adult.head.bleeds
    assert child.head.size < 0.7
    assert adult.head.size == 1.0
    assert child.scanner.fov_mm == pytest.approx(adult.scanner.fov_mm * child.head.size, abs=1)


def test_a_head_is_scaled_whole() -> None:
    """The lattice of a head of half the size has half the spacing; nothing else changes."""
    spec = draw_spec(5, bleed=True).head
    whole, half = build_head(spec), build_head(replace(spec, size=0.5))
    np.testing.assert_array_equal(whole.hu, half.hu)
    assert half.grid.spacing_mm == pytest.approx(whole.grid.spacing_mm / 2)
    assert half.grid.x.ravel()[[0, -1]] == pytest.approx(whole.grid.x.ravel()[[0, -1]] / 2)


def test_the_fontanelle_is_open() -> None:
    """A diamond at the top of the head where there is no bone, of the size that was drawn."""
    spec = draw_spec(NEWBORN, institution=PEDIATRIC, bleed=False).head
    open_, closed = build_head(spec), build_head(replace(spec, skull=replace(spec.skull, fontanelle_mm=0.0)))
    lost = (closed.hu > 200) & (open_.hu < 120)
    np.testing.assert_array_equal(open_.hu > closed.hu, False)
    _, y, x = np.nonzero(lost)
    half = spec.skull.fontanelle_mm * spec.size
    assert np.ptp(open_.grid.y.ravel()[y]) == pytest.approx(2 * half, rel=0.3)
    assert np.ptp(open_.grid.x.ravel()[x]) == pytest.approx(1.5 * half, rel=0.3)
    assert abs(float(open_.grid.x.ravel()[x].mean())) < 1


@pytest.mark.parametrize("step_mm", [2.0, 5.0])
def test_the_head_of_a_newborn_is_a_head(step_mm: float) -> None:
    """2 mm of soft bone with gaps, which every n-th pixel of a slice does not see."""
    check_head(newborn(step_mm).volume)
