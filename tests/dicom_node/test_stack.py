"""Slices along their normal: what is whole, and what is missing."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node import stack as stacks
from dicom_node.facts import InstanceFacts
from dicom_node.read_facts import facts_of_file
from dicom_node.stack import dot, slice_normal, stack_of
from ml.data.spacing import check_no_gap
from ml.errors import UnreadableStudy
from tests.real_heads import ge_files

Orientation = tuple[float, float, float, float, float, float]

is_contiguous = partial(stacks.is_contiguous, min_coverage_mm=100.0, min_slices=10)
missing_evidence = partial(stacks.missing_evidence, min_coverage_mm=100.0, min_slices=10)


def tilted(degrees: float) -> Orientation:
    """Axial slices of a gantry tilted about the left-right axis."""
    return (1.0, 0.0, 0.0, 0.0, math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


AXIAL = tilted(0.0)


def scan(
    offsets: list[float], thickness: float | list[float] | None = None, orientation: Orientation = AXIAL
) -> list[InstanceFacts]:
    """Slices at these offsets along the normal; the table moves along z, so positions shift along the body axis."""
    normal = (0.0, -orientation[5], orientation[4])
    return [
        InstanceFacts(
            sop_instance_uid=f"1.2.{index}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            study_instance_uid="1.2",
            series_instance_uid="1.2.3",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            slice_thickness_mm=thickness[index] if isinstance(thickness, list) else thickness,
            orientation_lps=orientation,
            position_lps=(-120.0, -100.0, offset / normal[2]),
        )
        for index, offset in enumerate(offsets)
    ]


def offsets_of(*steps: float) -> list[float]:
    """The offsets that lie these steps apart."""
    return [sum(steps[:index]) for index in range(len(steps) + 1)]


def test_a_plain_scan_is_contiguous() -> None:
    """32 slices of 5 mm."""
    facts = scan(offsets_of(*[5.0] * 31), 5.0)
    stack = stack_of(facts)
    assert (stack.extent_mm, stack.spacing_mm, stack.thickness_mm, stack.tilt_degrees) == (155.0, 5.0, 5.0, 0.0)
    assert stack.intact
    assert is_contiguous(facts)


@given(st.floats(-35, 35), st.floats(0.3, 10), st.integers(2, 60), st.randoms(use_true_random=False))
def test_positions_are_found_along_the_normal_in_any_order(
    tilt: float, step: float, n: int, chance: random.Random
) -> None:
    """Whatever the tilt, the steps along the normal come out, from shuffled instances too."""
    facts = scan([index * step for index in range(n)], step, tilted(tilt))
    chance.shuffle(facts)
    stack = stack_of(facts)
    assert stack.steps_mm == pytest.approx([step] * (n - 1), rel=1e-6)
    assert stack.tilt_degrees == pytest.approx(abs(tilt), abs=1e-4)
    assert stack.intact
    assert stack == stack_of(sorted(facts, key=lambda f: f.sop_instance_uid))


TWO_ZONES = ([4.0] * 14 + [7.0] * 13, [4.0] * 15 + [7.0] * 13)
"""Steps and thicknesses of a scan with thin slices at the skull base."""


def test_two_zones_of_spacing_are_whole() -> None:
    """4 then 7 mm, and 2.5 then 5 mm, without thickness as well."""
    assert is_contiguous(scan(offsets_of(*TWO_ZONES[0]), TWO_ZONES[1]))
    assert is_contiguous(scan(offsets_of(*[2.5] * 20, *[5.0] * 20)))


@given(st.integers(1, 29))
def test_one_lost_slice_inside_is_a_gap(lost: int) -> None:
    """Thickness known or not; at the ends nothing tells."""
    offsets = offsets_of(*[5.0] * 30)
    del offsets[lost]
    for thickness in (5.0, None):
        stack = stack_of(scan(offsets, thickness))
        assert stack.gaps_mm == (10.0,)
        assert not is_contiguous(scan(offsets, thickness))


@given(st.integers(1, 26))
def test_a_lost_slice_in_either_zone_of_two_is_missed(lost: int) -> None:
    """4 then 7 mm with known thickness. Where the zones meet, only the thickness of the slices tells."""
    offsets, thickness = offsets_of(*TWO_ZONES[0]), list(TWO_ZONES[1])
    del offsets[lost], thickness[lost]
    facts = scan(offsets, thickness)
    assert len(stack_of(facts).gaps_mm) == (lost not in (13, 14))
    assert is_contiguous(facts) == (lost == 14)  # 11 mm to a 7 mm slice: as a wide step it would be 1.6 thicknesses


def test_a_run_of_steps_of_two_thicknesses_proves_nothing() -> None:
    """5 mm slices, then 10 mm apart: perhaps a protocol, perhaps slices on their way. Intact, but no evidence."""
    facts = scan(offsets_of(*[5.0] * 15, *[10.0] * 8), 5.0)
    assert stack_of(facts).intact
    assert missing_evidence(stack_of(facts)) == "8 steps of 1.9 slice thicknesses or more"
    assert is_contiguous(scan(offsets_of(*[5.0] * 15, *[10.0] * 8)))


def test_two_lost_slices_with_one_between_are_a_gap() -> None:
    """5, 10, 10, 5 mm: with a known thickness; also where they are the last ones."""
    for lost in ((50.0, 60.0), (5.0, 15.0), (135.0, 145.0)):
        offsets = [offset for offset in offsets_of(*[5.0] * 30) if offset not in lost]
        assert stack_of(scan(offsets, 5.0)).gaps_mm == (10.0, 10.0)


def test_every_other_slice_is_not_a_series() -> None:
    """2.5 mm slices 5 mm apart: half of them are still on their way."""
    facts = scan(offsets_of(*[5.0] * 30), 2.5)
    assert stack_of(facts).sparse
    assert missing_evidence(stack_of(facts)) == "slices are thinner than the 5.0 mm between them"


def test_overlapping_and_touching_steps_are_no_gaps() -> None:
    """A step over the thickness by rounding, and reconstructions that overlap."""
    assert is_contiguous(scan(offsets_of(*[2.5] * 60), 5.0))
    assert is_contiguous(scan(offsets_of(*[4.0] * 13, 1.1, *[7.0] * 13), [4.0] * 14 + [7.0] * 14))


STEPS = st.lists(st.sampled_from([1.1, 2.5, 4.0, 5.0, 7.0, 8.0, 10.0, 14.0]), min_size=1, max_size=12)


@settings(max_examples=300)
@given(STEPS, st.data())
def test_the_volume_reader_agrees_on_what_is_missing(steps: list[float], data: st.DataObject) -> None:
    """The rule is written twice, because this package has no numpy: here for headers, in ml.data for volumes."""
    choices = st.sampled_from([None, 2.5, 4.0, 5.0, 7.0])
    each = st.lists(choices, min_size=len(steps) + 1, max_size=len(steps) + 1)
    thickness = data.draw(st.one_of(choices.map(lambda one: [one] * (len(steps) + 1)), each))
    facts = [replace(f, slice_thickness_mm=t) for f, t in zip(scan(offsets_of(*steps)), thickness, strict=True)]
    stack = stack_of(facts)
    refused = False
    try:
        check_no_gap(np.array(stack.offsets_mm), thickness)
    except UnreadableStudy:
        refused = True
    assert refused == (bool(stack.gaps_mm) or stack.sparse)


@pytest.mark.parametrize(
    ("facts", "clause"),
    [
        (scan(offsets_of(*[5.0] * 10), 5.0), "covers 50 of at least 100 mm"),
        (scan([0.0, 60.0, 120.0], 60.0), "3 slices of at least 10"),
        ([], "0 slices of at least 10"),
        (scan([*offsets_of(*[5.0] * 30), 50.0], 5.0), "1 images at a position that is already taken"),
        (
            [*scan(offsets_of(*[5.0] * 30), 5.0), replace(scan([0.0])[0], sop_instance_uid="9", position_lps=None)],
            "1 images without position or not parallel to the others",
        ),
        (
            [*scan(offsets_of(*[5.0] * 30), 5.0), replace(scan([0.0], None, tilted(20))[0], sop_instance_uid="9")],
            "1 images without position or not parallel to the others",
        ),
    ],
)
def test_what_speaks_against_a_whole_series(facts: list[InstanceFacts], clause: str) -> None:
    """One clause for people."""
    assert missing_evidence(stack_of(facts)) == clause
    assert not is_contiguous(facts)


def test_the_thresholds_are_the_callers() -> None:
    """From [completion] of config.toml."""
    facts = scan(offsets_of(*[5.0] * 10), 5.0)
    assert is_contiguous(facts, min_coverage_mm=50.0, min_slices=11)
    assert not is_contiguous(facts, min_coverage_mm=50.0, min_slices=12)


@settings(max_examples=50)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=9, max_size=9))
def test_garbage_in_the_geometry_never_fails(numbers: list[float]) -> None:
    """NaN, infinities, zero vectors."""
    a, b, c, *rest = numbers
    facts = replace(scan([0.0])[0], position_lps=(a, b, c), orientation_lps=(*rest[:3], *rest[3:6]))  # type: ignore[arg-type]
    normal = slice_normal(facts)
    assert normal is None or dot(normal, normal) == pytest.approx(1.0)
    assert stack_of([facts, *scan(offsets_of(5.0, 5.0))]).images >= 3


def test_the_real_head_is_contiguous_and_loses_it_with_any_inner_slice() -> None:
    """28 slices, 4 then 7 mm with 1.1 mm where the zones overlap, tilt 18.5 degrees."""
    read = [one for path in ge_files() if (one := facts_of_file(path)) is not None]
    facts = sorted(read, key=lambda f: (f.position_lps or (0, 0, 0))[2])
    stack = stack_of(facts)
    assert (len(stack.offsets_mm), round(stack.extent_mm), round(stack.tilt_degrees or 0, 1)) == (28, 144, 18.5)
    assert stack.thickness_range_mm == (4.0, 7.0)
    assert is_contiguous(facts)
    # Slices 14 and 15 (counted from 0: 13, 14) overlap: without one of them the scan still covers the head.
    missed = [lost for lost in range(1, 27) if is_contiguous([*facts[:lost], *facts[lost + 1 :]])]
    assert missed == [13, 14]
