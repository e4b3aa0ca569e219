"""A series as the eligibility rules see it, and whether a condition of theirs holds for it."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median
from typing import TYPE_CHECKING, Any

from dicom_node.matching import has_match, has_word
from dicom_node.stack import Stack, stack_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dicom_node.facts import InstanceFacts
    from dicom_node.rules import Condition, EligibilityRules, Exclusion

TEXTS = {
    "body_part": ("body_part_examined",),
    "description": ("series_description",),
    "protocol": ("protocol_name",),
    "study": ("study_description",),
    "text": ("body_part_examined", "series_description", "protocol_name", "study_description"),
    "kernel": ("convolution_kernel",),
    "contrast_agent": ("contrast_bolus_agent",),
    "manufacturer": ("manufacturer",),
}
"""The header texts that a test `<name>_words` or `<name>_matches` looks at."""

HEADER_TESTS: dict[str, Callable[[InstanceFacts, Any], bool]] = {
    "modality_any": lambda f, wanted: f.modality in wanted,
    "sop_class_any": lambda f, wanted: f.sop_class_uid in wanted,
    "sop_class_none": lambda f, wanted: f.sop_class_uid not in wanted,
    "image_type_any": lambda f, wanted: any(
        fnmatchcase(value.strip().upper(), pattern.upper()) for value in f.image_type for pattern in wanted
    ),
    "lossy": lambda f, wanted: f.lossy is wanted,
    "present": lambda f, wanted: all(getattr(f, field) not in (None, (), "") for field in wanted),
    "absent": lambda f, wanted: all(getattr(f, field) in (None, (), "") for field in wanted),
}
GEOMETRY_TESTS = ("_over", "_under")


@dataclass(frozen=True)
class Series:
    """A series as the rules see it."""

    uid: str
    number: int | None
    headers: tuple[tuple[InstanceFacts, int], ...]
    """One instance for each different header, and how many there are like it."""
    stack: Stack
    field_of_view_mm: float | None

    @property
    def first(self) -> InstanceFacts:
        """An instance with the most frequent header."""
        return self.headers[0][0]

    @property
    def thickness_mm(self) -> float | None:
        """Slice Thickness, or the spacing where the header does not tell."""
        return self.stack.thickness_mm or self.stack.spacing_mm

    @property
    def order(self) -> tuple[float, str]:
        """The last tie-break: Series Number, then UID."""
        return (math.inf if self.number is None else self.number, self.uid)


def series_of(instances: Iterable[InstanceFacts]) -> list[Series]:
    """The series of a study, by series number and UID."""
    by_uid: dict[str, list[InstanceFacts]] = defaultdict(list)
    for f in instances:
        by_uid[f.series_instance_uid].append(f)
    return sorted((_one_series(uid, members) for uid, members in by_uid.items()), key=lambda series: series.order)


def _one_series(uid: str, members: Sequence[InstanceFacts]) -> Series:
    members = sorted(members, key=lambda f: (f.sop_instance_uid, repr(f)))
    like: dict[tuple[object, ...], list[InstanceFacts]] = defaultdict(list)
    for f in members:
        like[_header(f)].append(f)
    groups = sorted(like.values(), key=lambda group: -len(group))
    return Series(
        uid=uid,
        number=min((f.series_number for f in members if f.series_number is not None), default=None),
        headers=tuple((group[0], len(group)) for group in groups),
        stack=stack_of(members),
        field_of_view_mm=median(fields) if (fields := [v for f in members if (v := _field_of_view(f))]) else None,
    )


def _header(f: InstanceFacts) -> tuple[object, ...]:
    """All that the tests on an instance's header look at."""
    return (
        f.modality, f.sop_class_uid, f.image_type, f.body_part_examined, f.series_description, f.study_description,
        f.protocol_name, f.convolution_kernel, f.contrast_bolus_agent, f.manufacturer, f.slice_thickness_mm is None,
        f.lossy,
    )  # fmt: skip


def _field_of_view(f: InstanceFacts) -> float | None:
    if not (f.pixel_spacing_mm and f.rows and f.columns):
        return None
    return max(f.pixel_spacing_mm[0] * f.rows, f.pixel_spacing_mm[1] * f.columns)


def excluded_by(series: Series, rules: EligibilityRules) -> Exclusion | None:
    """The first exclusion that holds for the series."""
    return next((rule for rule in (*rules.exclude_first, *rules.exclude) if _applies(rule, series, rules)), None)


def _applies(rule: Exclusion, series: Series, rules: EligibilityRules) -> bool:
    if not _geometry_holds(rule, series):
        return False
    voids = [condition for condition in rule.unless if _geometry_holds(condition, series)]
    images = sum(
        count
        for f, count in series.headers
        if _header_holds(rule, f, rules) and not any(_header_holds(condition, f, rules) for condition in voids)
    )
    return images >= (1 if rule.share == "any" else (series.stack.images + 1) // 2)


def holds(condition: Condition, series: Series, rules: EligibilityRules) -> bool:
    """The geometry passes all tests on it, and at least half of the images pass all tests on their header."""
    images = sum(count for f, count in series.headers if _header_holds(condition, f, rules))
    return _geometry_holds(condition, series) and images >= (series.stack.images + 1) // 2


def _header_holds(condition: Condition, f: InstanceFacts, rules: EligibilityRules) -> bool:
    """The tests that look at one instance's header."""
    return all(
        _header_test(name, wanted, f, rules)
        for name, wanted in condition.tests().items()
        if not name.endswith(GEOMETRY_TESTS)
    )


def _header_test(name: str, wanted: Any, f: InstanceFacts, rules: EligibilityRules) -> bool:
    if name in HEADER_TESTS:
        return HEADER_TESTS[name](f, wanted)
    source, _, kind = name.rpartition("_")
    texts = [getattr(f, field) for field in TEXTS[source]]
    if kind == "matches":
        return any(has_match(text, wanted) for text in texts)
    phrases = rules.spelled_out(wanted)
    return any(has_word(text, phrases) for text in texts)


def _geometry_holds(condition: Condition, series: Series) -> bool:
    """The tests that look at the geometry of the whole series; what is unknown passes none."""
    values = {
        "tilt_degrees": series.stack.tilt_degrees,
        "thickness_mm": series.thickness_mm,
        "coverage_mm": series.stack.extent_mm,
        "field_of_view_mm": series.field_of_view_mm,
        "slices": len(series.stack.offsets_mm),
        "images_per_position": series.stack.images_per_position,
    }
    for name, limit in condition.tests().items():
        if name.endswith(GEOMETRY_TESTS):
            quantity, _, side = name.rpartition("_")
            value = values[quantity]
            if value is None or not (value > limit if side == "over" else value < limit):
                return False
    return True
