"""Reading a TID 1500 report back, from the content tree alone (PS3.3 C.17.3) and not through highdicom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom import Dataset

_GROUP, _TRACKING_ID, _TRACKING_UID, _SEGMENT, _VOLUME = "125007", "112039", "112040", "121191", "118565006"
_SUMMARY = "121111"


@dataclass(frozen=True)
class ReportedLesion:
    """One TID 1411 group."""

    tracking_id: str
    tracking_uid: str
    sop_instance_uid: str
    """The SEG that it refers to."""
    segment_number: int
    volume_ml: float


def walk(item: Dataset) -> Iterator[Dataset]:
    """An item of the tree and all below it, parents first."""
    yield item
    for child in item.get("ContentSequence") or []:
        yield from walk(child)


def concept(item: Dataset) -> str:
    """Code value of an item's concept name, empty where it has none."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def report_problem(sr: Dataset) -> str | None:
    """What makes the tree unusable as a TID 1500 report, or None."""
    template = sr.get("ContentTemplateSequence")
    if not template or (template[0].MappingResource, template[0].TemplateIdentifier) != ("DCMR", "1500"):
        return "the report does not name template DCMR 1500"
    for item in walk(sr):
        if not item.get("ValueType") or (item is not sr and not item.get("RelationshipType")):
            return "a content item has no value type or no relationship"
        if item.ValueType == "NUM" and not item.MeasuredValueSequence[0].get("MeasurementUnitsCodeSequence"):
            return "a number has no unit"
    if not summary_text(sr):
        return "the report has no summary"
    return None


def summary_text(sr: Dataset) -> str:
    """The line for people."""
    return next((str(item.TextValue) for item in walk(sr) if concept(item) == _SUMMARY), "")


def referenced_instances(sr: Dataset) -> Iterator[str]:
    """SOP Instance UIDs that content items refer to."""
    for item in walk(sr):
        for reference in item.get("ReferencedSOPSequence") or []:
            yield str(reference.ReferencedSOPInstanceUID)


def reported_lesions(sr: Dataset) -> list[ReportedLesion]:
    """The groups that refer to a segment, in order."""
    groups = [item for item in walk(sr) if concept(item) == _GROUP]
    found = []
    for group in groups:
        children = {concept(child): child for child in group.ContentSequence}
        if _SEGMENT not in children:
            continue
        reference = children[_SEGMENT].ReferencedSOPSequence[0]
        found.append(
            ReportedLesion(
                tracking_id=str(children[_TRACKING_ID].TextValue) if _TRACKING_ID in children else "",
                tracking_uid=str(children[_TRACKING_UID].UID) if _TRACKING_UID in children else "",
                sop_instance_uid=str(reference.ReferencedSOPInstanceUID),
                segment_number=int(reference.ReferencedSegmentNumber),
                volume_ml=_cubic_centimetres(children.get(_VOLUME)),
            )
        )
    return found


def _cubic_centimetres(item: Dataset | None) -> float:
    """NaN where there is no volume in cm3, so that every comparison with it fails."""
    if item is None or item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue != "cm3":
        return float("nan")
    return float(item.MeasuredValueSequence[0].NumericValue)
