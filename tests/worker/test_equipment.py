"""What a scanner says of itself and of its compression, as it stands in the field: only what is valid is passed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from pydicom import Dataset

from dicom_node.result_forms import Form, FormName
from tests.peers.dicom3tools import dciodvfy
from tests.worker.conftest import BUNDLE, Exam, raw_element
from worker.results.checks import check_form
from worker.results.context import Equipment
from worker.results.files import through_bytes
from worker.results.forms import write_form

MakeExam = Callable[..., Exam]
MANUFACTURER, INSTITUTION, STATION, SERIAL = 0x00080070, 0x00080080, 0x00081010, 0x00181000
DEVICE_UID, VERSIONS = 0x00181002, 0x00181020
LOSSY, RATIO, METHOD = 0x00282110, 0x00282112, 0x00282114
VRS = {STATION: "SH", DEVICE_UID: "UI", LOSSY: "CS", RATIO: "DS", METHOD: "CS"}


def said(exam: Exam, values: dict[int, bytes]) -> Exam:
    """Each header says this."""
    for header in exam.source.headers:
        for tag, value in values.items():
            header[tag] = raw_element(tag, VRS.get(tag, "LO"), value)
    return exam


def written(exam: Exam, name: FormName) -> Dataset:
    """The first object of that form, past the gate and from its bytes."""
    seg = exam.seg()
    datasets = write_form(Form(name), exam.context, exam, beside=[seg])
    check_form(Form(name), datasets, exam, beside=[seg])
    return through_bytes(datasets[0])


@pytest.mark.filterwarnings("ignore:Invalid value for VR", "ignore:The value length")
@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("name", [FormName.SEG_BINARY, FormName.SR_3D, FormName.KOS, FormName.SC, FormName.PDF])
@pytest.mark.parametrize(
    "values",
    [
        {INSTITUTION: b"I" * 70, STATION: b"S" * 18, SERIAL: b"N" * 66, VERSIONS: b"V" * 66},
        {INSTITUTION: b"House\\Hall", STATION: b"A\\B ", SERIAL: b"1\\2 ", DEVICE_UID: b"none"},
        {MANUFACTURER: b"M" * 66},
        {MANUFACTURER: b"GE\\GE "},
        {LOSSY: b"01", RATIO: b"10:1", METHOD: b"ISO_10918_1 "},
        {LOSSY: b"01", RATIO: b"10", METHOD: b"jpeg"},
        {LOSSY: b"YES ", RATIO: b"10"},
        {LOSSY: b"1 "},
    ],
)
def test_what_is_not_valid_is_left_out(make_exam: MakeExam, name: FormName, values: dict[int, bytes]) -> None:
    """The object would be invalid, and a PACS may refuse it."""
    ds = written(said(make_exam(), values), name)
    errors = dciodvfy(ds).errors
    assert not errors, errors


@pytest.mark.filterwarnings("ignore:Invalid value for VR", "ignore:The value length")
@pytest.mark.parametrize("name", [FormName.SEG_BINARY, FormName.SC])
def test_what_is_valid_is_passed_on(make_exam: MakeExam, name: FormName) -> None:
    """Beside what is not: the scanner by its names, and that and how the images lost something."""
    values = {
        MANUFACTURER: b"GE", INSTITUTION: b"House ", STATION: b"CT1 ", SERIAL: b"N" * 66, VERSIONS: b"1\\2 ",
        LOSSY: b"01", RATIO: b"10\\2", METHOD: b"jpeg",
    }  # fmt: skip
    ds = written(said(make_exam(), values), name)
    scanner, algorithm = ds.ContributingEquipmentSequence
    assert (scanner.Manufacturer, scanner.InstitutionName, scanner.StationName) == ("GE", "House", "CT1")
    assert scanner.SoftwareVersions == ["1", "2"]
    assert "DeviceSerialNumber" not in scanner
    assert ds.InstitutionName == algorithm.InstitutionName == "House"
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", [10, 2])
    assert "LossyImageCompressionMethod" not in ds


@pytest.mark.parametrize("name", [FormName.SEG_BINARY, FormName.SR_3D, FormName.KOS, FormName.SC, FormName.PDF])
def test_every_object_says_which_node_and_which_bundle_made_it(make_exam: MakeExam, name: FormName) -> None:
    """Not the scanner: after an update or a recall, the objects of one installation or of one bundle can be told."""
    exam = make_exam(extra={"Manufacturer": "GE", "ManufacturerModelName": "CT 1", "DeviceSerialNumber": "S"})
    node = Equipment("House", "reader", "7", "3.1")
    ds = written(replace(exam, context=replace(exam.context, equipment=node)), name)
    scanner, algorithm = ds.ContributingEquipmentSequence
    assert (scanner.Manufacturer, scanner.ManufacturerModelName, scanner.DeviceSerialNumber) == ("GE", "CT 1", "S")
    assert (ds.Manufacturer, ds.ManufacturerModelName, ds.DeviceSerialNumber) == ("House", "reader", "7")
    assert (algorithm.Manufacturer, algorithm.ManufacturerModelName) == ("House", BUNDLE.name)
    for one in (ds, algorithm):
        assert one.SoftwareVersions == ["3.1", f"{BUNDLE.name} {BUNDLE.version}"]
        assert one.DeviceUID == BUNDLE.device_uid
    assert BUNDLE.digest in algorithm.ContributionDescription
    assert ds.ContentQualification == "RESEARCH"
