"""What later decisions need to know of an instance, read once from its header when it arrives.

No patient name, id or birth date is kept: `patient_digest` only tells whether two instances are of the same patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class InstanceFacts:
    """Header facts of one instance; a missing or unusable attribute is None (or an empty tuple)."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str | None = None
    image_type: tuple[str, ...] = ()
    series_number: int | None = None
    series_description: str | None = None
    study_description: str | None = None
    body_part_examined: str | None = None
    protocol_name: str | None = None
    convolution_kernel: str | None = None
    contrast_bolus_agent: str | None = None
    manufacturer: str | None = None
    slice_thickness_mm: float | None = None
    position_lps: tuple[float, float, float] | None = None
    """ImagePositionPatient, mm."""
    orientation_lps: tuple[float, float, float, float, float, float] | None = None
    """ImageOrientationPatient."""
    pixel_spacing_mm: tuple[float, float] | None = None
    rows: int | None = None
    columns: int | None = None
    lossy: bool | None = None
    """True where pixels were compressed with loss at some time (Lossy Image Compression 01, PS3.3 C.7.6.1.1.5)."""
    patient_digest: str = ""
    """SHA-256 over PatientID and IssuerOfPatientID; equal digests mean the same patient."""


def facts_to_json(facts: InstanceFacts) -> dict[str, Any]:
    """The facts as a row keeps them: only what is known."""
    return {key: value for key, value in vars(facts).items() if value not in (None, (), "")}


def facts_from_json(stored: dict[str, Any]) -> InstanceFacts:
    """The facts as `facts_to_json` stored them; keys of another release are passed over."""
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return InstanceFacts(**{key: value for key, value in known.items() if key in InstanceFacts.__dataclass_fields__})
