"""A blow swells the scalp and may crack the skull; the brain, and what is labelled in it, stay as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml.phantom import draw_spec
from ml.phantom.head import Head, build_head
from ml.phantom.skull import Cavity, make_cavity
from ml.phantom.spec import Blow, HeadSpec

BLOW = Blow((60.0, -10.0, 35.0), depth_mm=11.0, extent_mm=30.0, hu=65.0, crack_mm=0.9, seed=3)


@pytest.fixture(scope="module")
def spec() -> HeadSpec:
    """A head with a bleed and without blows."""
    return replace(draw_spec(6, subtypes=("SDH",)).head, blows=())


@pytest.fixture(scope="module")
def before(spec: HeadSpec) -> Head:
    """Unhurt."""
    return build_head(spec)


@pytest.fixture(scope="module")
def after(spec: HeadSpec) -> Head:
    """The same head, hit."""
    return build_head(replace(spec, blows=(BLOW,)))


@pytest.fixture(scope="module")
def cavity(spec: HeadSpec, before: Head) -> Cavity:
    """Where the skull's inside is."""
    return make_cavity(before.grid, spec.skull, np.random.default_rng([spec.seed, 1]))[0]


def test_the_inside_of_the_skull_is_untouched(before: Head, after: Head, cavity: Cavity) -> None:
    """Voxels and labels: a swelling is no hemorrhage in the head."""
    inside = cavity.distance < 0
    np.testing.assert_array_equal(before.hu[inside], after.hu[inside])
    np.testing.assert_array_equal(before.label, after.label)
    np.testing.assert_array_equal(before.blood, after.blood)


def test_the_scalp_swells_and_is_as_bright_as_blood(before: Head, after: Head) -> None:
    """Several mL outside that are brighter than muscle, some of them where there was air."""
    swollen = (after.hu > 57) & (after.hu < 75) & (before.hu < 57) & (after.hu != before.hu)
    volume_ml = swollen.sum() * after.grid.spacing_mm**3 / 1000
    assert 5 < volume_ml < 40
    assert (swollen & (before.hu < -900)).sum() > 100


def test_the_crack_runs_through_bone_near_the_blow(before: Head, after: Head) -> None:
    """Bone that is bone no more: a thin sheet, below the swelling."""
    cracked = (before.hu > 400) & (after.hu < before.hu - 200)
    assert 20 < cracked.sum() < 3000
    whole = build_head(replace(draw_spec(6, subtypes=("SDH",)).head, blows=(replace(BLOW, crack_mm=0.0),)))
    assert not ((before.hu > 400) & (whole.hu < before.hu - 200)).any()


def test_blows_are_drawn_more_often_with_a_bleed_and_change_no_other_draw() -> None:
    """45 and 25 percent of 300 exams, four standard errors either side; only the blows differ from a quiet head."""
    for bleed, share in ((True, 0.45), (False, 0.25)):
        found = np.mean([bool(draw_spec(seed, bleed=bleed).head.blows) for seed in range(300)])
        assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / 300)
