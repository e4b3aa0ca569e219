"""Reading a TID 1500 report back, from the content tree alone (PS3.3 C.17.3) and not through highdicom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom import Dataset

    from ml.volume import FloatArray

_GROUP, _TRACKING_ID, _TRACKING_UID, _SEGMENT, _VOLUME = "125007", "112039", "112040", "121191", "118565006"
_SUMMARY, _REGION, _SITE, _LATERALITY = "121111", "111030", "363698007", "272741003"


@dataclass(frozen=True)
class ReportedLesion:
    """One TID 1411 group."""

    tracking_id: str
    tracking_uid: str
    sop_instance_uid: str
    """The SEG that it refers to."""
    segment_number: int
    volume_ml: float
    laterality: str
    """SNOMED code, empty where none is told."""


@dataclass(frozen=True, eq=False)
class ReportedRegion:
    """One TID 1410 group."""

    tracking_uid: str
    sop_instance_uid: str
    """The image that the line lies on."""
    line: FloatArray
    """(n, 2) columns and rows."""


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
                laterality=_laterality(children.get(_SITE)),
            )
        )
    return found


def reported_regions(sr: Dataset) -> list[ReportedRegion]:
    """The groups that hold a closed line on an image, in order."""
    found = []
    for group in (item for item in walk(sr) if concept(item) == _GROUP):
        children = {concept(child): child for child in group.ContentSequence}
        region = children.get(_REGION)
        if region is None or region.ValueType != "SCOORD" or region.GraphicType != "POLYLINE":
            continue
        image = region.ContentSequence[0].ReferencedSOPSequence[0]
        found.append(
            ReportedRegion(
                tracking_uid=str(children[_TRACKING_UID].UID) if _TRACKING_UID in children else "",
                sop_instance_uid=str(image.ReferencedSOPInstanceUID),
                line=np.array(region.GraphicData, dtype=np.float64).reshape(-1, 2),
            )
        )
    return found


def _laterality(site: Dataset | None) -> str:
    modifiers = (site.get("ContentSequence") if site is not None else None) or []
    return next((str(one.ConceptCodeSequence[0].CodeValue) for one in modifiers if concept(one) == _LATERALITY), "")


def _cubic_centimetres(item: Dataset | None) -> float:
    """NaN where there is no volume in cm3, so that every comparison with it fails."""
    if item is None or item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue != "cm3":
        return float("nan")
    return float(item.MeasuredValueSequence[0].NumericValue)
