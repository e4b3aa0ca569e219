"""What a result takes over from its source: identities in any character set, broken and missing values."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from dicom_node.config_sections import ResultsConfig
from dicom_node.states import ResultKind
from tests.peers.dicom3tools import dciodvfy
from tests.worker.conftest import BUNDLE, CONTEXT, SR_FORM, Exam, as_received, raw_element, rejection, through
from worker.results.checks import check_rejection
from worker.results.context import Equipment, SeriesPlan
from worker.results.files import save
from worker.results.identity import identity_difference

MakeExam = Callable[..., Exam]
NAMES: dict[str, tuple[str | list[str] | None, str]] = {
    "Latin 1": ("ISO_IR 100", "Müller^Jörg"),
    "UTF-8": ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Japanese katakana": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "GB18030": ("GB18030", "Wang^XiaoDong=王^小东"),
    "none": (None, "Plain^Name"),
}


@pytest.mark.parametrize(("charset", "name"), NAMES.values(), ids=NAMES)
def test_a_name_in_any_character_set_comes_back_byte_for_byte(
    make_exam: MakeExam, tmp_path: Path, charset: str | list[str] | None, name: str
) -> None:
    """The PACS must find the patient whom it sent; nested texts keep the character set too."""
    exam = make_exam(charset=charset, patient_name=name, extra={"InstitutionName": name.partition("=")[0]})
    seg = exam.seg()
    for ds in (seg, exam.sr(seg), rejection(exam.source.headers[0])):
        save(ds, tmp_path / "result.dcm")
        again = dcmread(tmp_path / "result.dcm")
        raw = again.get_item("PatientName")
        source = as_received(exam.source.headers[0]).get_item("PatientName")
        assert raw is not None
        assert source is not None
        assert raw.value == source.value
        assert str(again.PatientName) == name
        assert again.ContributingEquipmentSequence[0].InstitutionName == name.partition("=")[0]
        assert identity_difference(exam.source.headers[0], again) is None
    exam.check(seg, exam.sr(seg))


def test_bytes_that_no_character_set_explains_are_carried_over(make_exam: MakeExam) -> None:
    """Latin 1 under the name of UTF-8 is common in the field; decoding it would lose the name for good."""
    exam = make_exam(patient_name="Müller^Jörg")
    for header in exam.source.headers:
        header.SpecificCharacterSet = "ISO_IR 192"
    seg = exam.seg()
    raw = through(seg).get_item("PatientName")
    assert raw is not None
    assert raw.value.rstrip() == "Müller^Jörg".encode("latin-1")
    exam.check(seg, exam.sr(seg))


def test_an_empty_character_set_is_none(make_exam: MakeExam) -> None:
    """Many archives write the attribute without a value; that says no more than to leave it out."""
    exam = make_exam()
    for header in exam.source.headers:
        header[0x00080005] = raw_element(0x00080005, "CS", b"")
    seg = exam.seg()
    sr = exam.sr(seg)
    assert "SpecificCharacterSet" not in sr
    exam.check(seg, sr)
    check_rejection(SR_FORM, [rejection(exam.header)], exam.header)


@pytest.mark.parametrize(
    "own",
    [
        {"equipment": Equipment(institution_name="Universitätsklinikum Süd")},
        {"series": SeriesPlan(9001, ResultsConfig(seg_series_description="Blutung, für Ärzte"))},
        {"bundle": replace(BUNDLE, name="Prüfung")},
    ],
    ids=lambda own: next(iter(own)),
)
def test_own_texts_beyond_ascii_turn_the_whole_object_to_utf_8(make_exam: MakeExam, own: dict[str, Any]) -> None:
    """A hospital's name in the settings must not break a patient's name in another character set."""
    exam = make_exam(charset=["", "ISO 2022 IR 87"], patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう")
    exam = replace(exam, context=replace(CONTEXT, **own))
    seg = through(exam.seg())
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert str(seg.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert seg.get("InstitutionName") == exam.context.equipment.institution_name
    assert seg.SeriesDescription == exam.context.series.label(ResultKind.SEG).description
    assert seg.SegmentSequence[0].SegmentAlgorithmName == exam.context.bundle.name
    exam.check(seg, exam.sr(seg))


@pytest.mark.parametrize(("own", "expected"), [(None, "Klinikum Süd"), ("Nordhaus", "Nordhaus")])
def test_the_institution_is_that_of_the_settings_else_of_the_source(
    make_exam: MakeExam, own: str | None, expected: str
) -> None:
    """Of the node; the scanner's stays with the scanner."""
    exam = make_exam(extra={"InstitutionName": "Klinikum Süd"})
    exam = replace(exam, context=replace(CONTEXT, equipment=Equipment(institution_name=own)))
    seg = through(exam.seg())
    scanner, algorithm = seg.ContributingEquipmentSequence
    assert [ds.InstitutionName for ds in (seg, algorithm, scanner)] == [expected, expected, "Klinikum Süd"]


@pytest.mark.peer("dicom3tools")
def test_values_that_break_their_form_are_left_empty(make_exam: MakeExam) -> None:
    """A birth date of "UNKNOWN" or a sex of "X" would make every result invalid."""
    exam = make_exam()
    for header in exam.source.headers:
        for tag, vr, value in ((0x00100030, "DA", b"UNKNOWN "), (0x00100040, "CS", b"X "), (0x00101030, "DS", b"?kg ")):
            header[tag] = raw_element(tag, vr, value)
    seg = exam.seg()
    sr = exam.sr(seg)
    assert (seg.PatientBirthDate, seg.PatientSex, "PatientWeight" in seg) == ("", "", False)
    assert not dciodvfy(seg).errors
    assert not dciodvfy(sr).errors
    exam.check(seg, sr)


@pytest.mark.parametrize(("own", "expected"), [(None, "not stated in the source"), ("Basic Profile", "Basic Profile")])
def test_an_identity_that_was_removed_stays_removed(make_exam: MakeExam, own: str | None, expected: str) -> None:
    """How must be said, though not every source does (type 1C)."""
    told = {"DeidentificationMethod": own} if own else {}
    exam = make_exam(extra={"PatientIdentityRemoved": "YES", **told})
    seg = exam.seg()
    assert (seg.PatientIdentityRemoved, seg.DeidentificationMethod) == ("YES", expected)
    exam.check(seg, exam.sr(seg))


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("meaning", [None, b"", b"    "], ids=["absent", "empty", "spaces"])
def test_an_incomplete_item_of_the_source_stops_no_result(make_exam: MakeExam, meaning: bytes | None) -> None:
    """Codes without a meaning and references to nothing come from worklists and de-identification, and stay behind."""

    def spoil(header: Dataset) -> None:
        good, bad = Dataset(), Dataset()
        for code in (good, bad):
            code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "CTHEAD", "99LOCAL", "CT Schädel"
        if meaning is None:
            del bad.CodeMeaning
        else:
            bad[0x00080104] = raw_element(0x00080104, "LO", meaning)
        header.ProcedureCodeSequence = [good, bad]
        header.ReasonForPerformedProcedureCodeSequence = [bad]
        header.ReferencedStudySequence = [Dataset()]
        other = Dataset()
        other.PatientID = "7"
        header.OtherPatientIDsSequence = [other]
        physician = Dataset()
        physician.PersonIdentificationCodeSequence = [bad]
        header.PhysiciansOfRecordIdentificationSequence = [physician]

    exam = make_exam(change=spoil)
    seg = exam.seg()
    sr = exam.sr(seg)
    for ds in (seg, sr, rejection(exam.header)):
        assert [code.CodeMeaning for code in ds.ProcedureCodeSequence] == ["CT Schädel"]
        for keyword in (
            "ReferencedStudySequence",
            "OtherPatientIDsSequence",
            "PhysiciansOfRecordIdentificationSequence",
        ):
            assert keyword not in ds
        assert not dciodvfy(ds).errors
    exam.check(seg, sr)
    exam.check(seg, sr)  # the source is read anew for each form
    check_rejection(SR_FORM, [rejection(exam.header)], exam.header)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
@pytest.mark.parametrize("uid", ["1.2.840.0123.4", "1.2.840.123."])
def test_a_study_uid_is_carried_over_in_whatever_form(make_exam: MakeExam, uid: str) -> None:
    """A component with a leading zero is against PS3.5 9.1, but a report under another UID, or none, finds no study."""
    exam = make_exam()
    for header in exam.source.headers:
        header[0x0020000D] = raw_element(0x0020000D, "UI", uid.encode())
    seg = exam.seg()
    sr = exam.sr(seg)
    assert (seg.StudyInstanceUID, sr.StudyInstanceUID) == (uid, uid)
    exam.check(seg, sr)
    check_rejection(SR_FORM, [rejection(exam.header)], exam.header)
