"""Simulated exams: the same again from the same spec, plausible in what was drawn, true in where blood lies."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ml.labels import Subtype
from ml.phantom import SimulatedExam, draw_spec, simulate
from ml.phantom.draw_bleeds import CLOT_HU, VOLUME_ML
from ml.phantom.exam import ExamSpec
from ml.phantom.head import build_head
from ml.phantom.physics import BONY_HU
from ml.phantom.scanner import plan
from ml.phantom.skull import make_cavity
from ml.phantom.spec import Zone

LABELS = {kind.name: int(kind) for kind in Subtype}


def thick(spec: ExamSpec, *, tilt: float | None = None) -> ExamSpec:
    """The same exam as one run of 5 mm slices, so that tests stay fast."""
    scanner = replace(spec.scanner, zones=(Zone(30, 5.0, 5.0),), start_mm=-70.0)
    if tilt is not None:
        scanner = replace(scanner, tilt_degrees=tilt)
    return replace(spec, scanner=scanner)


@functools.cache
def exam(kind: str, seed: int = 7) -> SimulatedExam:
    """An exam with bleeds of one type, at a small matrix."""
    return simulate(thick(draw_spec(seed, subtypes=(kind,))), matrix=128)


def test_the_same_spec_gives_the_same_voxels() -> None:
    """Everything random hangs on the seeds in the spec."""
    spec = thick(draw_spec(5, bleed=True))
    first, second = simulate(spec, matrix=128), simulate(spec, matrix=128)
    assert draw_spec(5, bleed=True) == draw_spec(5, bleed=True)
    np.testing.assert_array_equal(first.volume.hu, second.volume.hu)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.volume.geometry.sop_instance_uids == second.volume.geometry.sop_instance_uids


def test_other_seeds_give_other_heads() -> None:
    """Two seeds share neither the spec nor the voxels."""
    one, two = draw_spec(1), draw_spec(2)
    assert one.head.skull != two.head.skull
    assert one.head.brain != two.head.brain


def test_bleed_false_draws_none_and_subtypes_draws_those() -> None:
    """A forced draw is obeyed."""
    assert draw_spec(3, bleed=False).head.bleeds == ()
    kinds = {one.subtype for one in draw_spec(3, subtypes=("SDH", "IVH")).head.bleeds}
    assert kinds == {Subtype.SDH, Subtype.IVH}


def test_an_unknown_institution_is_refused() -> None:
    """A typo does not silently become the wide draw."""
    with pytest.raises(ValueError, match="no institution"):
        draw_spec(1, institution="C")


def test_a_matrix_that_is_not_a_multiple_of_128_is_refused() -> None:
    """Artefacts are made on a 128 grid."""
    with pytest.raises(ValueError, match="matrix 200"):
        simulate(draw_spec(1), matrix=200)


def test_prevalence_is_that_of_the_institution() -> None:
    """About 45, 41 and 30 percent of 400 exams; four standard errors either side."""
    for institution, share in (("any", 0.45), ("A", 0.41), ("B", 0.30)):
        found = np.mean([bool(draw_spec(seed, institution=institution).head.bleeds) for seed in range(400)])
        assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / 400)


def test_institutions_differ_in_noise_thickness_and_hu() -> None:
    """B is noisier, thinner, sharper and brighter than A."""
    a = [draw_spec(seed, institution="A").scanner for seed in range(60)]
    b = [draw_spec(seed, institution="B").scanner for seed in range(60)]
    assert np.mean([one.noise_hu for one in b]) > 1.4 * np.mean([one.noise_hu for one in a])
    assert np.mean([one.zones[0].thickness_mm for one in b]) < np.mean([one.zones[0].thickness_mm for one in a])
    assert np.mean([one.blur_mm for one in b]) < np.mean([one.blur_mm for one in a])
    assert np.mean([one.hu_offset for one in b]) > 2 + np.mean([one.hu_offset for one in a])


def test_drawn_volumes_and_hu_lie_within_the_measured_tables() -> None:
    """Over 400 positive exams each type's volume and clot HU stay in its table and vary across it."""
    bleeds = [one for seed in range(400) for one in draw_spec(seed, bleed=True).head.bleeds]
    for kind in Subtype:
        of_kind = [one for one in bleeds if one.subtype is kind]
        assert len(of_kind) > 30
        volumes = np.array([one.volume_ml for one in of_kind])
        assert volumes.min() >= VOLUME_ML[kind][0] * 0.999
        assert volumes.max() <= VOLUME_ML[kind][-1] * 1.001
        # the main bleed of an exam is drawn larger than the rest: between the table's quarter and 95 %
        assert VOLUME_ML[kind][2] < np.median(volumes) < VOLUME_ML[kind][5]
        assert CLOT_HU[kind][2] < np.median([one.hu for one in of_kind]) < CLOT_HU[kind][4]


@pytest.mark.parametrize("kind", list(LABELS))
def test_a_bleed_is_labelled_with_its_type_and_is_brighter_than_brain(kind: str) -> None:
    """Labels hold only the drawn type, and the labelled voxels stand out from the brain around them."""
    made = next(one for one in (exam(kind, seed) for seed in (7, 8, 9, 10, 11)) if one.truth.sum() >= 8)
    assert set(np.unique(made.labels)) == {0, LABELS[kind]}
    assert made.hemorrhage_ml == pytest.approx(made.volume.volume_ml(made.truth))
    hu, truth = made.volume.hu, made.truth
    slices = truth.any(axis=(1, 2))
    brain = (hu[slices] > 0) & (hu[slices] < 60) & ~truth[slices]
    assert hu[truth].mean() > np.median(hu[slices][brain]) + 4
    assert 25 < hu[truth].mean() - made.spec.scanner.hu_offset < 90


def test_blood_of_every_type_lies_inside_the_skull() -> None:
    """No voxel with blood lies further than a voxel beyond the inner table, and each type is there."""
    spec = draw_spec(6, subtypes=tuple(LABELS)).head
    head = build_head(spec)
    cavity, _ = make_cavity(head.grid, spec.skull, np.random.default_rng([spec.seed, 1]))
    blood = head.blood > 0
    assert set(np.unique(head.label[blood])) == set(LABELS.values())
    assert cavity.distance[blood].max() < head.grid.spacing_mm


def test_labelled_voxels_are_not_bone() -> None:
    """A wide bleed under the skull is not labelled into the bright rim that the kernel spreads around bone."""
    spec = thick(draw_spec(8, subtypes=("SDH",)))
    bleed = replace(spec.head.bleeds[0], site="convexity", volume_ml=30.0, hu=60.0, heterogeneity=0.0)
    quiet = replace(
        spec.scanner, noise_hu=1.0, hu_offset=0.0, hu_gain=1.0, hardening=0.0, cupping_hu=0.0, motion_mm=0.0
    )
    made = simulate(replace(spec, head=replace(spec.head, bleeds=(bleed,)), scanner=quiet), matrix=128)
    assert made.hemorrhage_ml > 10
    assert made.volume.hu[made.truth].max() < BONY_HU + 6 * quiet.noise_hu


def test_blood_in_the_ventricles_settles_behind() -> None:
    """Layered IVH lies further back (larger y) than the ventricles as a whole."""
    spec = thick(draw_spec(7, subtypes=("IVH",)))
    bleed = replace(spec.head.bleeds[0], site="layered", volume_ml=3.0, hu=65.0, seed=4)
    head = replace(spec.head, bleeds=(bleed,), brain=replace(spec.head.brain, ventricle_scale=1.3))
    scanner = replace(spec.scanner, noise_hu=1.0, rotation_degrees=(0.0, 0.0, 0.0), tilt_degrees=0.0)
    little = simulate(replace(spec, head=head, scanner=scanner), matrix=128)
    full = replace(head, bleeds=(replace(bleed, volume_ml=500.0),))
    cast = simulate(replace(spec, head=full, scanner=scanner), matrix=128)
    assert 20 < little.truth.sum() < 0.5 * cast.truth.sum()
    assert np.nonzero(little.truth)[1].mean() > np.nonzero(cast.truth)[1].mean() + 5


def test_a_smaller_matrix_is_the_same_head_on_larger_pixels() -> None:
    """256 and 128: same field, geometry to half a pixel, HU alike after averaging, same volume of blood."""
    spec = thick(draw_spec(8, subtypes=("IPH",)))
    spec = replace(spec, scanner=replace(spec.scanner, noise_hu=1.0, motion_mm=0.0))
    spec = replace(spec, head=replace(spec.head, bleeds=(replace(spec.head.bleeds[0], volume_ml=20.0),)))
    fine, coarse = simulate(spec, matrix=256), simulate(spec, matrix=128)
    assert coarse.volume.geometry.pixel_spacing_mm[0] == pytest.approx(2 * fine.volume.geometry.pixel_spacing_mm[0])
    corner = fine.volume.geometry.to_lps(3, 0.5, 0.5)
    np.testing.assert_allclose(coarse.volume.geometry.to_lps(3, 0, 0), corner, atol=1e-9)
    averaged = fine.volume.hu.reshape(30, 128, 2, 128, 2).mean(axis=(2, 4))
    brain = (averaged > 10) & (averaged < 60) & (coarse.volume.hu > 10) & (coarse.volume.hu < 60)
    assert brain.sum() > 20000
    assert np.median(np.abs(averaged - coarse.volume.hu)[brain]) < 2.0
    assert coarse.hemorrhage_ml == pytest.approx(fine.hemorrhage_ml, rel=0.12)


def test_tilted_slices_are_spaced_along_the_normal() -> None:
    """The table moves 5 mm; at 20 degrees that is 4.70 mm along the normal, and the geometry says so."""
    scanner = thick(draw_spec(4, bleed=False), tilt=20.0).scanner
    geometry = plan(scanner, matrix=128, uids=("1.2",) * 30, frame_uid="1.3")
    np.testing.assert_allclose(np.diff(geometry.offsets_mm), 5.0 * np.cos(np.radians(20.0)), atol=1e-6)
    assert geometry.tilt_degrees == pytest.approx(20.0)
    np.testing.assert_allclose(np.diff(geometry.positions_lps[:, 2]), 5.0)


def test_a_tilted_and_an_upright_scan_see_the_same_head() -> None:
    """Where a tilted slice crosses an upright one, they show the same HU."""
    spec = thick(draw_spec(4, bleed=False))
    quiet = replace(spec.scanner, noise_hu=1.0, motion_mm=0.0, ring_hu=0.0, hardening=0.0, cupping_hu=0.0)
    upright = simulate(replace(spec, scanner=replace(quiet, tilt_degrees=0.0)), matrix=128).volume
    tilted = simulate(replace(spec, scanner=replace(quiet, tilt_degrees=12.0)), matrix=128).volume
    pixel = upright.geometry.pixel_spacing_mm[0]
    found = []
    for z in range(8, 22):
        for row in range(40, 90, 3):
            place = tilted.geometry.to_lps(z, row, 64)
            at = (place[2] - upright.geometry.positions_lps[0][2]) / 5.0
            across = (place - upright.geometry.positions_lps[0]) / pixel
            if abs(at - round(at)) < 0.1 and 0 <= round(at) < 30:
                found.append((tilted.hu[z, row, 64], upright.hu[round(at), round(across[1]), round(across[0])]))
    pairs = np.array([pair for pair in found if max(pair) < 80 and min(pair) > 0])
    assert len(pairs) > 10
    assert np.median(np.abs(pairs[:, 0] - pairs[:, 1])) < 4.0


def test_two_zones_give_two_slice_heights() -> None:
    """4 mm below and 7 mm above, as sequential scanners do."""
    spec = draw_spec(4, bleed=False)
    scanner = replace(spec.scanner, zones=(Zone(10, 4.0, 4.0), Zone(9, 7.0, 7.0)), tilt_degrees=0.0)
    geometry = plan(scanner, matrix=128, uids=("1.2",) * 19, frame_uid="1.3")
    np.testing.assert_allclose(np.diff(geometry.offsets_mm)[:10], 4.0)
    np.testing.assert_allclose(np.diff(geometry.offsets_mm)[10:], 7.0)


def test_hu_of_brain_bone_and_air_are_those_of_a_ct() -> None:
    """In an exam of institution A the brain lies between 20 and 40 HU, bone above 700, air below -900."""
    spec = thick(draw_spec(21, institution="A", bleed=False))
    hu = simulate(spec, matrix=128).volume.hu
    middle = hu[15:20]
    brain = (middle > 5) & (middle < 60)
    brain = ndimage.binary_erosion(ndimage.binary_opening(brain, np.ones((1, 3, 3))), np.ones((1, 7, 7)))
    assert brain.sum() > 2000
    assert 20 < np.median(middle[brain]) < 40
    assert hu.max() > 700
    assert np.quantile(hu, 0.05) < -900
