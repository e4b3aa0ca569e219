"""Slices as a stack: where they lie along their common normal, and whether any is missing.

Everything is told from header facts, without pixels. The slice normal is row direction x column direction
(PS3.3 C.7.6.2.1.1, LPS, mm), so a tilted gantry needs no special case: positions are projected on the normal, and
Instance Numbers are never trusted. The rule for missing slices is the one of the volume reader (ml.data.spacing), so
that what counts as whole here is not refused there.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dicom_node.facts import InstanceFacts

Vector = tuple[float, float, float]

SAME_POSITION_MM = 0.01
"""Below any slice spacing of CT and above the rounding of DS."""
FARTHEST_MM = 1e5
"""A position farther from the origin (or a NaN) is garbage."""
PARALLEL_COSINE = math.cos(math.radians(1.0))
"""Normals closer than 1 degree belong to one stack."""
ISOLATED = 1.6
"""A step this many times its neighbours stands out; one lost slice makes a step of 2."""
UNCOVERED = 1.5
"""A step over this many thicknesses leaves tissue unseen; overlap and rounding stay below."""
SPARSE = 1.9
"""A whole series with steps this many thicknesses apart has lost every other slice; a single step may have lost one."""


@dataclass(frozen=True)
class Stack:
    """The geometry of one series; offsets are millimetres along the normal from its first slice, ascending."""

    images: int
    """All instances, whether or not they lie in the stack."""
    normal_lps: Vector | None = None
    """Unit vector of the most frequent orientation; None when no image has a usable position and orientation."""
    offsets_mm: tuple[float, ...] = ()
    """One per distinct position."""
    steps_mm: tuple[float, ...] = ()
    thickness_mm: float | None = None
    """Median SliceThickness."""
    thickness_range_mm: tuple[float, float] | None = None
    duplicates: int = 0
    """Images at a position that another image of the stack already holds."""
    outside: int = 0
    """Images that do not fit: without position or orientation, or not parallel to the others."""
    gaps_mm: tuple[float, ...] = ()
    """Steps between neighbouring slices in which slices are missing."""
    sparse: bool = False
    """The median step is SPARSE thicknesses or more: every other slice, or more, is missing."""
    wide_steps: int = 0
    """Steps of SPARSE or more thicknesses of the thicker slice beside them: no flaw by itself, as some protocols scan
    so, but nothing that proves a series whole while slices may still be on their way."""

    @property
    def extent_mm(self) -> float:
        """From the centre of the first slice to the centre of the last."""
        return self.offsets_mm[-1] - self.offsets_mm[0] if self.offsets_mm else 0.0

    @property
    def spacing_mm(self) -> float | None:
        """The median step."""
        return median(self.steps_mm) if self.steps_mm else None

    @property
    def tilt_degrees(self) -> float | None:
        """Angle between the normal and the patient's long axis: 0 for axial slices, 90 for coronal and sagittal."""
        return None if self.normal_lps is None else math.degrees(math.acos(min(1.0, abs(self.normal_lps[2]))))

    @property
    def images_per_position(self) -> float:
        """1 for a plain scan; more when the same positions were imaged again, as in perfusion."""
        return (len(self.offsets_mm) + self.duplicates) / len(self.offsets_mm) if self.offsets_mm else 0.0

    @property
    def intact(self) -> bool:
        """No slice missing, none doubled, none that does not belong; at least two slices."""
        return len(self.offsets_mm) > 1 and not (self.gaps_mm or self.sparse or self.duplicates or self.outside)


def stack_of(instances: Iterable[InstanceFacts]) -> Stack:
    """The stack of one series' instances; the order in which they come makes no difference."""
    facts = sorted(set(instances), key=lambda f: (f.sop_instance_uid, repr(f)))
    placed = [(f, normal) for f in facts if (normal := slice_normal(f)) is not None and f.position_lps]
    if not placed:
        middle, between = _thickness(facts)
        return Stack(images=len(facts), outside=len(facts), thickness_mm=middle, thickness_range_mm=between)
    common = _most_frequent([normal for _, normal in placed])
    inside = [f for f, normal in placed if dot(normal, common) >= PARALLEL_COSINE]
    along = sorted(
        ((dot(f.position_lps or common, common), f.slice_thickness_mm) for f in inside),
        key=lambda place: (place[0], -(place[1] or 0.0)),
    )
    kept = [along[0]]
    for offset, thickness in along[1:]:
        if offset - kept[-1][0] > SAME_POSITION_MM:
            kept.append((offset, thickness))
    start = kept[0][0]
    offsets = tuple(offset - start for offset, _ in kept)
    steps = tuple(b - a for a, b in pairwise(offsets))
    local = _local_thickness([thickness for _, thickness in kept])
    middle, between = _thickness(inside)
    return Stack(
        images=len(facts),
        normal_lps=common,
        offsets_mm=offsets,
        steps_mm=steps,
        thickness_mm=middle,
        thickness_range_mm=between,
        duplicates=len(along) - len(kept),
        outside=len(facts) - len(inside),
        gaps_mm=tuple(steps[i] for i in range(len(steps)) if _is_gap(steps, i, local[i])),
        sparse=_is_sparse(steps, local),
        wide_steps=sum(t is not None and step >= SPARSE * t for step, t in zip(steps, local, strict=True)),
    )


def is_contiguous(instances: Iterable[InstanceFacts], *, min_coverage_mm: float, min_slices: int) -> bool:
    """True when the headers prove that the series is whole: see `missing_evidence`."""
    return missing_evidence(stack_of(instances), min_coverage_mm=min_coverage_mm, min_slices=min_slices) is None


def missing_evidence(stack: Stack, *, min_coverage_mm: float, min_slices: int) -> str | None:
    """What speaks against the stack being whole, as a clause for people; None when nothing does.

    Slices lost at either end leave no trace in the geometry; `min_coverage_mm` is the only guard against that.
    """
    for speaks_against, clause in (
        (len(stack.offsets_mm) < min_slices, f"{len(stack.offsets_mm)} slices of at least {min_slices}"),
        (stack.outside, f"{stack.outside} images without position or not parallel to the others"),
        (stack.duplicates, f"{stack.duplicates} images at a position that is already taken"),
        (stack.sparse, f"slices are thinner than the {stack.spacing_mm or 0.0:.1f} mm between them"),
        (stack.gaps_mm, f"a gap of {max(stack.gaps_mm, default=0.0):.1f} mm"),
        (stack.wide_steps, f"{stack.wide_steps} steps of {SPARSE} slice thicknesses or more"),
        (stack.extent_mm < min_coverage_mm, f"covers {stack.extent_mm:.0f} of at least {min_coverage_mm:.0f} mm"),
    ):
        if speaks_against:
            return clause
    return None


def slice_normal(facts: InstanceFacts) -> Vector | None:
    """Unit normal of a slice from its ImageOrientationPatient; None when that or its position is unusable."""
    if facts.orientation_lps is None or facts.position_lps is None:
        return None
    if not all(abs(c) <= FARTHEST_MM for c in (*facts.orientation_lps, *facts.position_lps)):
        return None
    ax, ay, az, bx, by, bz = facts.orientation_lps
    cross = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    length = math.hypot(*cross)
    # Direction cosines are orthonormal (C.7.6.2.1.1); far from it the attribute is garbage.
    return None if abs(length - 1.0) > 0.05 else (cross[0] / length, cross[1] / length, cross[2] / length)


def dot(a: Vector, b: Vector) -> float:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _most_frequent(normals: Sequence[Vector]) -> Vector:
    """The orientation that most slices share (rounded to about 0.1 degrees); the largest of equally frequent ones."""
    counts = Counter(tuple(round(c, 3) + 0.0 for c in normal) for normal in normals)
    winner, _ = max(counts.items(), key=lambda item: (item[1], item[0]))
    return min(n for n in normals if tuple(round(c, 3) + 0.0 for c in n) == winner)


def _thickness(facts: Sequence[InstanceFacts]) -> tuple[float | None, tuple[float, float] | None]:
    """Median and range of SliceThickness, where it is given."""
    known = [f.slice_thickness_mm for f in facts if f.slice_thickness_mm and f.slice_thickness_mm > 0]
    return (median(known), (min(known), max(known))) if known else (None, None)


def _local_thickness(thicknesses: Sequence[float | None]) -> list[float | None]:
    """For each step the thicker of the two slices beside it; None when neither is known."""
    return [max((t for t in pair if t), default=None) for pair in pairwise(thicknesses)]


def _is_sparse(steps: Sequence[float], local: Sequence[float | None]) -> bool:
    ratios = [step / thickness for step, thickness in zip(steps, local, strict=True) if thickness]
    return bool(ratios) and len(ratios) == len(steps) and median(ratios) >= SPARSE


def _is_gap(steps: Sequence[float], index: int, thickness: float | None) -> bool:
    """The step stands out among its neighbours and, where thickness is known, leaves tissue unseen."""
    if thickness is not None and steps[index] <= UNCOVERED * thickness:
        return False
    first, last = _run(steps, index) if thickness is not None else (index, index)
    around = [*steps[max(0, first - 1) : first], *steps[last + 1 : last + 2]]
    return bool(around) and all(steps[index] > ISOLATED * other for other in around)


def _run(steps: Sequence[float], index: int) -> tuple[int, int]:
    """The step with a similar one beside it: two lost slices with one left between them make two large steps."""
    if index + 1 < len(steps) and steps[index + 1] > steps[index] / ISOLATED:
        return index, index + 1
    if index > 0 and steps[index - 1] > steps[index] / ISOLATED:
        return index - 1, index
    return index, index
