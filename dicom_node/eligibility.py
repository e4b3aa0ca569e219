"""Which series of a study is the exam, from the header facts of its instances alone, with a reason for each series.

    exclude   every series meets the rules of `[eligibility]` in order; the first that holds is its reason
    rank      what is left is ordered by the preferences, in order; then by series number and Series Instance UID
    choose    the first; a series with a flaw (a gap, one slice) is still chosen when it is the best there is, so that
              the volume reader's refusal names the real problem

The same instances give the same choice, in whatever order they came.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dicom_node.rules import EligibilityRules, Exclusion, Preference
from dicom_node.series import Series, excluded_by, holds, series_of

if TYPE_CHECKING:
    from dicom_node.facts import InstanceFacts

CHOSEN, ELIGIBLE, MIXED_PATIENTS = "CHOSEN", "ELIGIBLE", "MIXED_PATIENTS"

STUDY_SENTENCES: dict[str, str] = {
    "NO_CT": "the study has no CT images",
    "MIXED_PATIENTS": "the study holds images of more than one patient",
    "ONLY_LOCALIZER": "the only CT images are localizers, dose pages or other captures",
    "ONLY_CONTRAST": "every head series was acquired with contrast medium",
    "ONLY_BONE_KERNEL": "every head series was reconstructed with a bone or sharp kernel",
    "ONLY_PERFUSION": "the only series are perfusion or other dynamic scans",
    "ONLY_SPECTRAL": "the only series are spectral (dual-energy) images",
    "ONLY_REFORMATS": "the only series are reformats, projections or other derived images",
    "NOT_HEAD": "the study shows another part of the body",
    "TOO_FEW_SLICES": "no series has enough slices",
    "NO_ELIGIBLE_SERIES": "no series fits the rules",
}
"""Every code that a study without an exam can get, with its sentence for the report."""

STUDY_CODE = {
    "LOCALIZER": "ONLY_LOCALIZER", "SCREEN_SAVE": "ONLY_LOCALIZER", "DOSE_PAGE": "ONLY_LOCALIZER",
    "BOLUS_TRACKING": "ONLY_LOCALIZER", "REFORMAT": "ONLY_REFORMATS", "PROJECTION": "ONLY_REFORMATS",
    "DERIVED": "ONLY_REFORMATS", "NOT_AXIAL": "ONLY_REFORMATS", "PERFUSION": "ONLY_PERFUSION",
    "SPECTRAL": "ONLY_SPECTRAL", "CONTRAST": "ONLY_CONTRAST", "BONE_KERNEL": "ONLY_BONE_KERNEL",
    "NOT_HEAD": "NOT_HEAD", "TOO_FEW_SLICES": "TOO_FEW_SLICES",
}  # fmt: skip
"""What a study is called whose series were all excluded for this reason; a site's own codes stand for themselves."""
TELLS_LITTLE = ("ONLY_LOCALIZER", "ONLY_REFORMATS")
"""Nearly every study has such series; they name the problem only when there is nothing else (the later one first)."""


@dataclass(frozen=True)
class SeriesVerdict:
    """Why a series is or is not the exam."""

    series_instance_uid: str
    series_number: int | None
    eligible: bool
    rank: int | None
    """1 for the exam, then upwards; None for excluded series."""
    reason_code: str
    """CHOSEN, ELIGIBLE, or the code of the rule that excluded it."""
    reason: str
    rule: str | None
    """Name of the rule that excluded it, or of the preference by which it ranks below the next better series."""
    images: int
    slices: int
    """Distinct positions."""
    thickness_mm: float | None
    spacing_mm: float | None
    coverage_mm: float
    """From the centre of the first slice to the centre of the last, along the normal."""
    tilt_degrees: float | None
    intact: bool
    kernel: str | None
    description: str | None
    modality: str | None


@dataclass(frozen=True)
class Choice:
    """The exam of a study, or why it has none."""

    chosen: str | None
    """Series Instance UID."""
    verdicts: tuple[SeriesVerdict, ...]
    """One per series: eligible ones by rank, then excluded ones by series number and UID."""
    code: str | None = None
    """A key of STUDY_SENTENCES, or a site's own code, when nothing is chosen."""
    sentence: str | None = None
    """Why, without "not analysed": that is said where it is shown. Only when nothing is chosen."""


def choose(
    instances: Iterable[InstanceFacts] | Mapping[str, Iterable[InstanceFacts]], rules: EligibilityRules
) -> Choice:
    """Choose the exam among the instances of one study (or a mapping of series to instances).

    Raises ValueError when they belong to several studies.
    """
    groups = instances.values() if isinstance(instances, Mapping) else [instances]
    facts = {f for group in groups for f in group}
    if len({f.study_instance_uid for f in facts}) > 1:
        raise ValueError("choose() takes the instances of one study")
    series = series_of(facts)
    if len({f.patient_digest for f in facts if f.patient_digest}) > 1:
        reason = "excluded: the study holds images of more than one patient"
        verdicts = tuple(_verdict(s, MIXED_PATIENTS, reason) for s in series)
        return Choice(None, verdicts, MIXED_PATIENTS, STUDY_SENTENCES[MIXED_PATIENTS])
    judged = [(s, excluded_by(s, rules)) for s in series]
    excluded = [_verdict(s, rule.code, _why_not(s, rule), rule=rule.name) for s, rule in judged if rule]
    ranked = sorted((s for s, rule in judged if rule is None), key=lambda s: _merits(s, rules))
    if not ranked:
        code, sentence = _study_code([verdict.reason_code for verdict in excluded])
        return Choice(None, tuple(excluded), code, sentence)
    return Choice(ranked[0].uid, (*_ranked_verdicts(ranked, rules), *excluded))


def explain(choice: Choice) -> list[dict[str, Any]]:
    """The choice as rows for a table or JSON, in the order of the verdicts; lengths in mm, rounded to 0.1."""
    return [
        {
            "chosen": verdict.series_instance_uid == choice.chosen,
            "rank": verdict.rank,
            "series": verdict.series_number,
            "description": verdict.description,
            "images": verdict.images,
            "slices": verdict.slices,
            "thickness_mm": _rounded(verdict.thickness_mm),
            "spacing_mm": _rounded(verdict.spacing_mm),
            "coverage_mm": _rounded(verdict.coverage_mm),
            "tilt_degrees": _rounded(verdict.tilt_degrees),
            "kernel": verdict.kernel,
            "code": verdict.reason_code,
            "reason": verdict.reason,
            "rule": verdict.rule,
            "series_instance_uid": verdict.series_instance_uid,
        }
        for verdict in choice.verdicts
    ]


# --- ranking ----------------------------------------------------------------------------------------------------------
def _merits(series: Series, rules: EligibilityRules) -> tuple[float, ...]:
    """One number per preference, smaller is better."""
    return tuple(_merit(preference, series, rules) for preference in rules.prefer)


def _merit(preference: Preference, series: Series, rules: EligibilityRules) -> float:
    """Rounded, so that the rounding of decimal strings in headers decides nothing."""
    stack = series.stack
    match preference.by:
        case "covers_head":
            return float(stack.extent_mm < rules.min_coverage_mm)
        case "intact":
            return float(not stack.intact)
        case "thickness":
            thickness = series.thickness_mm
            return math.inf if thickness is None else round(abs(thickness - rules.preferred_thickness_mm), 1)
        case "coverage":
            return -float(round(min(stack.extent_mm, rules.enough_coverage_mm)))
        case "slices":
            return -float(len(stack.offsets_mm))
        case None:
            return float(not holds(preference, series, rules))


def _ranked_verdicts(ranked: Sequence[Series], rules: EligibilityRules) -> list[SeriesVerdict]:
    verdicts = [_verdict(ranked[0], CHOSEN, f"chosen: {_portrait(ranked[0], rules)}", rank=1)]
    for rank, (better, series) in enumerate(pairwise(ranked), start=2):
        pairs = zip(rules.prefer, _merits(better, rules), _merits(series, rules), strict=True)
        lost = next((preference for preference, a, b in pairs if a != b), None)
        why = f"{lost.worse}{_figures(lost, series, better)}" if lost else "equal, with a later series number or UID"
        reason = f"eligible, but behind {_label(better)}: {why}"
        verdicts.append(_verdict(series, ELIGIBLE, reason, rank=rank, rule=lost.name if lost else None))
    return verdicts


def _figures(lost: Preference, series: Series, better: Series) -> str:
    """The two numbers that a measure compared."""
    match lost.by:
        case "thickness":
            one, other = series.thickness_mm, better.thickness_mm
            return f" ({_mm(one)} against {_mm(other)} mm)" if one and other else ""
        case "coverage" | "covers_head":
            return f" ({series.stack.extent_mm:.0f} against {better.stack.extent_mm:.0f} mm)"
        case "slices":
            return f" ({len(series.stack.offsets_mm)} against {len(better.stack.offsets_mm)})"
        case _:
            return ""


# --- words ------------------------------------------------------------------------------------------------------------
def _portrait(series: Series, rules: EligibilityRules) -> str:
    """`5.0 mm axial slices, kernel H31s, 32 slices cover 155 mm`, and what speaks against it."""
    stack, parts = series.stack, []
    parts.append(f"{_thickness(series)}axial slices" if stack.normal_lps else "images without a usable geometry")
    if series.first.convolution_kernel:
        parts.append(f"kernel {series.first.convolution_kernel}")
    if stack.tilt_degrees is not None and stack.tilt_degrees >= 1.0:
        parts.append(f"tilted by {stack.tilt_degrees:.1f} degrees")
    parts.append(f"{len(stack.offsets_mm)} slices cover {stack.extent_mm:.0f} mm")
    flaws = [] if stack.intact else ["slices are missing, doubled, not parallel or without position"]
    if stack.extent_mm < rules.min_coverage_mm:
        flaws.append(f"covers less than {rules.min_coverage_mm:.0f} mm")
    return ", ".join(parts) + (f"; the best there is, although {' and '.join(flaws)}" if flaws else "")


def _thickness(series: Series) -> str:
    between = series.stack.thickness_range_mm
    if between and between[0] != between[1]:
        return f"{_mm(between[0])} to {_mm(between[1])} mm "
    return f"{_mm(series.thickness_mm)} mm " if series.thickness_mm else ""


def _mm(value: float) -> str:
    """5.0, 0.625."""
    return f"{value:.1f}" if value >= 1 else f"{value:.3g}"


def _why_not(series: Series, rule: Exclusion) -> str:
    """The rule's sentence, with the kernel where it is about that."""
    about_kernel = rule.kernel_words is not None or rule.kernel_matches is not None
    return f"excluded: {rule.reason}" + (f" ({series.first.convolution_kernel})" if about_kernel else "")


def _label(series: Series) -> str:
    return f"series {series.number}" if series.number is not None else f"series {series.uid}"


def _study_code(codes: Sequence[str]) -> tuple[str, str]:
    """The most telling code for a study whose series were all excluded, and its sentence."""
    of_ct = [STUDY_CODE.get(code, code) for code in codes if code != "NOT_CT"]
    if not of_ct:
        return "NO_CT", STUDY_SENTENCES["NO_CT"]
    telling = sorted({code for code in of_ct if code not in TELLS_LITTLE})
    if not telling:
        code = next(code for code in reversed(TELLS_LITTLE) if code in of_ct)
        return code, STUDY_SENTENCES[code]
    if len(telling) == 1:
        return telling[0], STUDY_SENTENCES.get(telling[0], f"every series was excluded ({telling[0]})")
    counted = sorted(Counter(code for code in codes if code != "NOT_CT").items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{count} {code}" for code, count in counted)
    return "NO_ELIGIBLE_SERIES", f"{STUDY_SENTENCES['NO_ELIGIBLE_SERIES']} ({listed})"


def _verdict(
    series: Series, code: str, reason: str, *, rank: int | None = None, rule: str | None = None
) -> SeriesVerdict:
    stack, first = series.stack, series.first
    return SeriesVerdict(
        series_instance_uid=series.uid,
        series_number=series.number,
        eligible=rank is not None,
        rank=rank,
        reason_code=code,
        reason=reason,
        rule=rule,
        images=stack.images,
        slices=len(stack.offsets_mm),
        thickness_mm=stack.thickness_mm,
        spacing_mm=stack.spacing_mm,
        coverage_mm=stack.extent_mm,
        tilt_degrees=stack.tilt_degrees,
        intact=stack.intact,
        kernel=first.convolution_kernel,
        description=first.series_description,
        modality=first.modality,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
