"""Series and studies as header facts, for tests that need no files."""

from __future__ import annotations

from typing import Any

from dicom_node.eligibility import Choice, SeriesVerdict, choose
from dicom_node.facts import InstanceFacts
from dicom_node.rules import EligibilityRules

RULES = EligibilityRules()
CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
SECONDARY_CAPTURE, SEG, SR = (
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.88.34",
)
RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
GE, SIEMENS, PHILIPS, TOSHIBA = "GE MEDICAL SYSTEMS", "SIEMENS", "Philips", "TOSHIBA"
ORIGINAL = ("ORIGINAL", "PRIMARY", "AXIAL")


def series(number: int | None, description: str | None, **knobs: Any) -> list[InstanceFacts]:
    """The instances of a series: `n` slices `step` mm apart along the body axis; other knobs are header facts."""
    n, step = knobs.pop("n", 32), knobs.pop("step", None)
    thickness = knobs.pop("thickness", 5.0)
    uid = knobs.pop("uid", f"1.2.3.{number}")
    step = step if step is not None else thickness
    orientation = knobs.get("orientation_lps", AXIAL)
    axis = {CORONAL: 1, SAGITTAL: 0}.get(orientation, 2)
    start = knobs.pop("start", 0.0)
    known: dict[str, Any] = {
        "sop_class_uid": CT, "modality": "CT", "image_type": ORIGINAL, "orientation_lps": orientation,
        "pixel_spacing_mm": (0.45, 0.45), "rows": 512, "columns": 512, "patient_digest": "p1",
        "slice_thickness_mm": thickness, "series_description": description, "series_number": number,
    } | knobs  # fmt: skip
    positions = [[0.0, 0.0, 0.0] for _ in range(n)]
    for index, position in enumerate(positions):
        position[axis] = start + index * step
    return [
        InstanceFacts(
            sop_instance_uid=f"{uid}.{index}",
            study_instance_uid="1.2.3",
            series_instance_uid=uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            **({"position_lps": (position[0], position[1], position[2])} | known),
        )
        for index, position in enumerate(positions)
    ]


def judge(*members: list[InstanceFacts], rules: EligibilityRules = RULES) -> Choice:
    """The choice among these series."""
    return choose([facts for member in members for facts in member], rules)


def number_of(choice: Choice) -> int | None:
    """Series Number of the exam."""
    return next((v.series_number for v in choice.verdicts if v.series_instance_uid == choice.chosen), None)


def verdict(choice: Choice, number: int) -> SeriesVerdict:
    """On the series of this number."""
    return next(v for v in choice.verdicts if v.series_number == number)


def localizer(number: int = 1, **knobs: Any) -> list[InstanceFacts]:
    """Two scouts."""
    known = {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER"), "orientation_lps": CORONAL, "n": 2, "step": 0.0}
    return series(number, knobs.pop("description", "SCOUT"), **(known | knobs))
