"""Attributes that all results share and that highdicom does not set: times, equipment, qualification, file header."""

from __future__ import annotations

import copy
import re
from datetime import datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from worker.results.codes import coded
from worker.results.files import through_bytes
from worker.results.identity import copy_identity, set_character_set, valid_element
from worker.results.uids import IMPLEMENTATION_CLASS_UID, INSTANCE_CREATOR_UID, form_uid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dicom_node.result_forms import Form
    from worker.results.context import ResultContext

IMPLEMENTATION_VERSION_NAME = "DICOM_NODE"
"""(0002,0013), 16 characters at most."""
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")
_SCANNER_TEXTS = (
    "Manufacturer", "InstitutionName", "StationName", "ManufacturerModelName", "DeviceSerialNumber",
    "SoftwareVersions", "DeviceUID",
)  # fmt: skip


def blank_header(header: Dataset) -> Dataset:
    """What highdicom wants of a source instance and nothing that it could refuse: identity empty, geometry as it is.

    An attribute without a value is left out: highdicom copies it where a value must stand, and knows what an absent one
    means. Identity is copied afterwards by `copy_identity`; highdicom would refuse a sex of "X" or re-encode names.
    """
    blank = Dataset()
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                    "StudyDate", "StudyTime", "ReferringPhysicianName"):  # fmt: skip
        setattr(blank, keyword, "")
    for keyword in (
        "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "Rows",
        "Columns", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
        "SliceThickness",
    ):  # fmt: skip
        if keyword in header and not header[keyword].is_empty:
            blank[keyword] = copy.deepcopy(header[keyword])  # setting a value later must not reach the source
    _copy_valid(header, blank, ["PositionReferenceIndicator"])
    copy_lossy(header, blank)
    return blank


def copy_lossy(header: Dataset, target: Dataset) -> None:
    """Whether the source was compressed with losses, and how, where it says so: what is made of it was too."""
    said = valid_element(header, "LossyImageCompression")
    target.LossyImageCompression = "01" if said is not None and said.value == "01" else "00"
    if target.LossyImageCompression == "01":
        _copy_valid(header, target, ["LossyImageCompressionRatio", "LossyImageCompressionMethod"])


def _copy_valid(header: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """What is valid of it: the rest would make the object invalid."""
    for keyword in keywords:
        element = valid_element(header, keyword)
        if element is not None:
            setattr(target, keyword, copy.deepcopy(element.value))


def new_object(context: ResultContext, header: Dataset, *, form: Form, number: int, refers_to: str = "") -> Dataset:
    """The beginnings of instance `number` of a result that highdicom has no class for (PS3.3 C.7.3.1, C.8.6.1)."""
    label = context.series.label(form.kind)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = form.sop_class_uid
    ds.SOPInstanceUID = form_uid(context, form, f"instance {number}", refers_to=refers_to)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.StudyInstanceUID = header.StudyInstanceUID
    ds.SeriesInstanceUID = form_uid(context, form, "series", refers_to=refers_to)
    ds.SeriesNumber, ds.SeriesDescription, ds.InstanceNumber = label.number, label.description, number
    ds.Manufacturer = context.equipment.manufacturer
    ds.ConversionType = "WSD"
    ds.BurnedInAnnotation = "NO"  # true: nothing that names the patient or tells a date is drawn
    return ds


def result_time(context: ResultContext, header: Dataset) -> datetime:
    """The time of the analysis in the zone that holds for the whole object."""
    return context.created_at.astimezone(_zone(header) or context.local_zone).replace(microsecond=0)


def finish(ds: Dataset, context: ResultContext, header: Dataset, *, form: Form) -> Dataset:
    """The completed result, plain and from its own bytes.

    Adds times, equipment, qualification (PS3.3 C.7.5, C.12.1), file header and, last of all, the identity.
    """
    set_character_set(header, ds, context.own_texts, utf_8=form.utf_8)
    time = result_time(context, header)
    ds.InstanceCreationDate = ds.ContentDate = ds.SeriesDate = time.strftime("%Y%m%d")
    ds.InstanceCreationTime = ds.ContentTime = ds.SeriesTime = time.strftime("%H%M%S")
    ds.TimezoneOffsetFromUTC = time.strftime("%z")
    ds.InstanceCreatorUID = INSTANCE_CREATOR_UID
    ds.DeviceUID = context.bundle.device_uid
    ds.SoftwareVersions = _software_versions(context)
    ds.ManufacturerModelName = context.equipment.model_name
    ds.DeviceSerialNumber = context.equipment.serial_number
    algorithm = _algorithm(context, time)
    if context.equipment.institution_name:
        ds.InstitutionName = algorithm.InstitutionName = context.equipment.institution_name
    else:
        for one in (ds, algorithm):
            _copy_valid(header, one, ["InstitutionName"])
    ds.ContentQualification = context.content_qualification
    ds.ContributingEquipmentSequence = [*_scanner(header), algorithm]
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    ds.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    ds.file_meta.TransferSyntaxUID = UID(form.transfer_syntax)
    result = through_bytes(ds)
    copy_identity(header, result)
    return result


def _zone(header: Dataset) -> tzinfo | None:
    match = _OFFSET.fullmatch(str(header.get("TimezoneOffsetFromUTC", "")).strip())
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset) if offset <= timedelta(hours=14) else None


def _software_versions(context: ResultContext) -> list[str]:
    return [context.equipment.software_version, f"{context.bundle.name} {context.bundle.version}"[:64]]


def _scanner(header: Dataset) -> list[Dataset]:
    """Item for the scanner (109101), or nothing where the source names no manufacturer (type 1 here)."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded("acquisition_equipment")]
    _copy_valid(header, item, _SCANNER_TEXTS)
    return [item] if "Manufacturer" in item else []


def _algorithm(context: ResultContext, time: datetime) -> Dataset:
    """Item for the algorithm (109102), with the Device UID of the bundle."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded("processing_equipment")]
    item.Manufacturer = context.equipment.manufacturer
    item.ManufacturerModelName = context.bundle.name[:64]
    item.DeviceSerialNumber = context.equipment.serial_number
    item.SoftwareVersions = _software_versions(context)
    item.DeviceUID = context.bundle.device_uid
    item.ContributionDateTime = time.strftime("%Y%m%d%H%M%S%z")
    item.ContributionDescription = f"Weights SHA-256 {context.bundle.digest}"
    return item
