"""A series as the rules see it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicom_node.rules import Condition, EligibilityRules
from dicom_node.series import holds, series_of
from tests.dicom_node.test_stack import offsets_of, scan

SCAN = scan(offsets_of(*[5.0] * 31), 5.0)


def test_the_most_frequent_header_speaks_for_the_series() -> None:
    """Wherever it stands; of equally frequent ones the lowest SOP Instance UID's."""
    odd_one = [replace(SCAN[0], convolution_kernel="BONE"), *(replace(f, convolution_kernel="SOFT") for f in SCAN[1:])]
    assert series_of(odd_one)[0].first.convolution_kernel == "SOFT"
    halves = [replace(f, convolution_kernel="A" if i % 2 else "B") for i, f in enumerate(SCAN)][:30]
    assert [series_of(order)[0].first.convolution_kernel for order in (halves, halves[::-1])] == ["B", "B"]


def test_series_come_by_number_then_uid() -> None:
    """A missing number last."""
    numbered = [replace(SCAN[0], series_instance_uid=f"1.{n}", series_number=n) for n in (30, 4)]
    assert [s.number for s in series_of([SCAN[0], *numbered])] == [4, 30, None]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition(slices_under=33), True),
        (Condition(slices_under=32), False),
        (Condition(coverage_mm_over=154.9, coverage_mm_under=155.1), True),
        (Condition(coverage_mm_over=155.1), False),
        (Condition(thickness_mm_over=4.9, thickness_mm_under=5.1), True),
        (Condition(tilt_degrees_over=0.1), False),
        (Condition(images_per_position_over=0.9), True),
        (Condition(field_of_view_mm_over=0.0), False),
        (Condition(field_of_view_mm_under=9e9), False),
        (Condition(absent=("series_description", "image_type")), True),
        (Condition(present=("slice_thickness_mm",)), True),
        (Condition(present=("slice_thickness_mm", "manufacturer")), False),
    ],
)
def test_conditions_on_geometry_and_presence(condition: Condition, expected: bool) -> None:
    """What is unknown (here the field of view) passes no test."""
    assert holds(condition, series_of(SCAN)[0], EligibilityRules()) is expected


def test_spacing_stands_in_for_an_unknown_thickness() -> None:
    """Research data sets drop Slice Thickness."""
    assert series_of(scan(offsets_of(*[4.0] * 31)))[0].thickness_mm == 4.0
