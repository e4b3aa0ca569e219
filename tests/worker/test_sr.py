import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.result_forms import Form, FormName
from tests.peers.dcmqi import read_report, values
from tests.peers.dicom3tools import dcentvfy, dciodvfy
from tests.peers.presence import find, need
from tests.worker.conftest import BUNDLE, CONTEXT, SR_FORM, Exam, rejection, through
from worker.results.checks import check_rejection
from worker.results.errors import ResultInvalid
from worker.results.files import encode, save
from worker.results.forms import write_form, write_rejection
from worker.results.report_tree import concept, reported_lesions, summary_text, walk
from worker.results.summary import summary_sentence

MakeExam = Callable[..., Exam]
THRESHOLDS = "exam >= 0.5, voxel >= 0.4, lesion >= 0.1 mL"


def evaluations(sr: Dataset) -> dict[str, str]:
    """Concept -> coded value of the qualitative evaluations."""
    return {concept(i): str(i.ConceptCodeSequence[0].CodeValue) for i in walk(sr) if i.get("ValueType") == "CODE"}


def numbers(sr: Dataset) -> Iterator[tuple[str, float, str]]:
    """(concept, value, unit) of every number, in order."""
    for item in walk(sr):
        if item.get("ValueType") == "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = str(measured.MeasurementUnitsCodeSequence[0].CodeValue)
            yield concept(item), float(measured.NumericValue), unit


def test_the_answer_and_each_lesion_can_be_read_from_the_tree(make_exam: MakeExam) -> None:
    """Present with its probability and all key images, then per lesion volume, ABC/2, long axis, mean attenuation."""
    exam = make_exam()
    sr = exam.sr(exam.seg())
    assert evaluations(sr)["1386000"] == "52101004"
    found = list(numbers(sr))
    assert found[0] == ("122157", 0.93, "1")
    for index, lesion in enumerate(exam.lesions):
        volume, estimate, axis, density = found[1 + 4 * index : 5 + 4 * index]
        assert (volume[0], volume[2]) == ("118565006", "cm3")
        assert volume[1] == pytest.approx(lesion.volume_ml, abs=0.0006)
        assert estimate == ("121221", 4.5, "cm3")
        assert axis == ("103339001", 12.3, "mm")
        assert (density[0], density[2]) == ("112031", "[hnsf'U]")
        assert density[1] == pytest.approx(lesion.mean_hu, abs=0.06)
    shown = {z for lesion in exam.lesions for z in lesion.key_slices}
    group = next(i for i in walk(sr) if concept(i) == "126010").ContentSequence[0]
    images = [i.ReferencedSOPSequence[0] for i in walk(group) if i.ValueType == "IMAGE"]
    uids = exam.source.geometry.sop_instance_uids
    assert [image.ReferencedSOPInstanceUID for image in images] == [uids[z] for z in sorted(shown)]


def test_a_report_is_complete_preliminary_and_not_verified(make_exam: MakeExam) -> None:
    """No physician has seen it; and a rejection is no more than that either."""
    exam = make_exam()
    for sr in (exam.sr(exam.seg()), rejection(exam.header)):
        assert (sr.CompletionFlag, sr.PreliminaryFlag, sr.VerificationFlag) == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")


def test_the_tree_says_who_found_it_by_which_thresholds_and_in_what(make_exam: MakeExam) -> None:
    """The device, and in each group the algorithm and the site; of a lesion also the series that was read."""
    exam = make_exam()
    sr = exam.write(replace(SR_FORM, planar_regions=True), exam.seg())
    device = {concept(item): item for item in sr.ContentSequence}
    assert (device["121012"].UID, device["121013"].TextValue) == (BUNDLE.device_uid, "compact 1.2.0")
    groups = [
        {concept(child): child for child in item.ContentSequence} for item in walk(sr) if concept(item) == "125007"
    ]
    assert len(groups) == 5
    for group in groups:
        algorithm = [group[code].TextValue for code in ("111001", "111003", "111002")]
        assert algorithm == ["compact", "1.2.0", THRESHOLDS]
        assert group["363698007"].ConceptCodeSequence[0].CodeValue == "1101003"
    for group in groups[1::2]:
        read_series = group["121232"].UID
        assert read_series == exam.source.series_instance_uid
        (derivation,) = group["112031"].ContentSequence
        assert (concept(derivation), derivation.ConceptCodeSequence[0].CodeValue) == ("121401", "373098007")
    (shown,), region = groups[0]["122157"].ContentSequence, groups[2]["111030"]
    assert shown.GraphicData == region.GraphicData
    assert shown.ContentSequence[0].ReferencedSOPSequence[0] == region.ContentSequence[0].ReferencedSOPSequence[0]


def test_lesions_carry_the_tracking_uids_of_the_segments(make_exam: MakeExam) -> None:
    """A PACS joins SEG and SR by them."""
    exam = make_exam()
    seg = exam.seg()
    reported = reported_lesions(exam.sr(seg))
    assert [(r.segment_number, r.tracking_uid, r.tracking_id) for r in reported] == [
        (s.SegmentNumber, s.TrackingUID, s.TrackingID) for s in seg.SegmentSequence
    ]
    assert {r.sop_instance_uid for r in reported} == {seg.SOPInstanceUID}


def test_the_summary_line_says_it_all(make_exam: MakeExam) -> None:
    """The same sentence everywhere: answer, probability, volume in mL, thresholds, bundle, research notice."""
    exam = make_exam()
    line = summary_text(exam.sr(exam.seg()))
    assert line == summary_sentence(exam.prediction, exam.lesions, CONTEXT.operating_points)
    total_ml = sum(lesion.volume_ml for lesion in exam.lesions)
    of_all = f"2 regions, {total_ml:.1f} mL in all, largest {exam.lesions[0].volume_ml:.1f} mL, right."
    for part in ("PRESENT", "0.93", of_all, THRESHOLDS, "compact 1.2.0 (abababababab)", "RESEARCH USE ONLY"):
        assert part in line
    other = exam.lesions[1]
    line = summary_sentence(exam.prediction, [other], CONTEXT.operating_points)
    assert f"1 region of {other.volume_ml:.1f} mL, left." in line
    assert "No region could be outlined." in summary_sentence(exam.prediction, [], CONTEXT.operating_points)


@pytest.mark.parametrize(
    ("positive", "probability", "code"),
    [(True, 0.9, "52101004"), (False, 0.1, "272519000"), (True, 0.2, "373068000"), (False, 0.9, "52101004")],
    ids=["outlined", "nothing", "outlined below the exam threshold", "above it but nothing outlined"],
)
def test_absent_is_never_said_beside_a_contour(
    make_exam: MakeExam, positive: bool, probability: float, code: str
) -> None:
    """An exam below the operating point with an outlined region is undetermined."""
    exam = make_exam(positive=positive, probability=probability)
    sr = exam.sr(exam.seg())
    assert evaluations(sr)["1386000"] == code
    assert len(reported_lesions(sr)) == len(exam.lesions)


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("positive", [True, False])
def test_dciodvfy_and_dcentvfy_find_no_error(make_exam: MakeExam, tmp_path: Path, positive: bool) -> None:
    """Valid by itself and of one study with its source."""
    exam = make_exam(positive=positive, tilt_degrees=18.0)
    seg = exam.seg()
    sr = exam.sr(seg)
    verdict = dciodvfy(sr)
    assert not verdict.errors, verdict.output
    assert all("DICOMDIR" in w or "DeviceUID" in w for w in verdict.warnings), verdict.output
    files = [tmp_path / f"{index}.dcm" for index in range(len(exam.source.headers) + 2)]
    for ds, path in zip([*exam.source.headers, seg, sr], files, strict=True):
        save(ds, path)
    assert not dcentvfy(files).errors


@pytest.mark.peer("dicom3tools")
def test_dcentvfy_sees_another_patient(make_exam: MakeExam, tmp_path: Path) -> None:
    """Negative control of the test above."""
    exam = make_exam()
    seg = exam.seg()
    seg.PatientID = "SOMEBODY ELSE"
    save(exam.source.headers[0], tmp_path / "ct.dcm")
    save(seg, tmp_path / "seg.dcm")
    assert dcentvfy([tmp_path / "ct.dcm", tmp_path / "seg.dcm"]).errors


@pytest.mark.peer("dcmtk")
def test_dsrdump_renders_the_report(make_exam: MakeExam, tmp_path: Path) -> None:
    """DCMTK's SR reader checks the tree while it reads."""
    dsrdump = find("dsrdump")
    if dsrdump is None:
        need("dcmtk")
        pytest.skip("Peer missing: dcmtk (no dsrdump; make peers)")
    exam = make_exam()
    save(exam.sr(exam.seg()), tmp_path / "sr.dcm")
    done = subprocess.run([dsrdump, "+Pl", tmp_path / "sr.dcm"], capture_output=True, text=True, check=True)
    assert "RESEARCH USE ONLY" in done.stdout
    assert '"Volume")=' in done.stdout
    assert not done.stderr


@pytest.mark.peer("dcmqi")
def test_dcmqi_reads_the_same_measurements(make_exam: MakeExam) -> None:
    """A TID 1500 reader of another code base."""
    exam = make_exam()
    seg = exam.seg()
    groups = read_report(exam.write(replace(SR_FORM, planar_regions=True), seg))
    assert [group.get("ReferencedSegment") for group in groups] == [None, 1, None, 2, None]
    for group, segment, lesion in zip(groups[1::2], seg.SegmentSequence, exam.lesions, strict=True):
        assert group["TrackingUniqueIdentifier"] == segment.TrackingUID
        assert group["Laterality"]["CodeMeaning"].lower() == lesion.side
        told = values(group)
        assert told["Volume"] == pytest.approx(lesion.volume_ml, abs=0.0006)
        assert (told["Volume of ellipsoid"], told["Long axis"]) == (lesion.abc2_ml, lesion.longest_axial_diameter_mm)
    area_mm2 = exam.lesions[1].region.mask[exam.lesions[1].key_slice].sum() * np.prod(
        exam.volume.geometry.pixel_spacing_mm
    )
    assert values(groups[-1])["Area"] == pytest.approx(float(area_mm2), abs=0.06)


def test_equal_inputs_give_equal_bytes(make_exam: MakeExam) -> None:
    """A retry writes the same report."""
    exam = make_exam()
    seg = exam.seg()
    assert encode(exam.sr(seg)) == encode(exam.sr(seg))


def magnetic_resonance() -> Dataset:
    """An MR image with the least of attributes."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3.4"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2.3", "1.2.3.5", "MR"
    ds.PatientName, ds.PatientID = "Doe^Jane", "4711"
    return ds


def private_class() -> Dataset:
    """An object of a class that no table knows."""
    ds = magnetic_resonance()
    ds.SOPClassUID = "1.3.12.2.1107.5.9.1"
    return ds


def only_a_study() -> Dataset:
    """What is left of a broken file."""
    ds = Dataset()
    ds.StudyInstanceUID = "1.2.3"
    return ds


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("header", [magnetic_resonance, private_class, only_a_study])
def test_a_rejected_study_gets_a_valid_report_that_says_why(header: Callable[[], Dataset]) -> None:
    """Whatever the study holds: MR, a private class, or a header with nothing but the study."""
    source = header()
    sr = rejection(source)
    assert source == header()
    assert "TOO_FEW_SLICES: The series has 2 slices. No statement about hemorrhage is made." in summary_text(sr)
    assert not list(numbers(sr))
    assert sr.StudyInstanceUID == "1.2.3"
    if "SOPClassUID" in source:
        series = sr.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        assert series.ReferencedSOPSequence[0].ReferencedSOPClassUID == source.SOPClassUID
    else:
        assert "CurrentRequestedProcedureEvidenceSequence" not in sr
    check_rejection(SR_FORM, [sr], source)
    assert not dciodvfy(sr).errors, dciodvfy(sr).output


def test_a_rejection_from_an_implicit_file_carries_the_identity(make_exam: MakeExam, tmp_path: Path) -> None:
    """Implicit VR files name no VR; texts are carried over under the dictionary's."""
    header = make_exam(patient_name="Müller^Jörg").source.headers[0]
    header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    header.save_as(tmp_path / "ct.dcm", implicit_vr=True, little_endian=True)
    source = dcmread(tmp_path / "ct.dcm")
    sr = rejection(source)
    check_rejection(SR_FORM, [sr], source)
    assert str(sr.PatientName) == "Müller^Jörg"


@pytest.mark.parametrize("form", [SR_FORM, Form(FormName.SC), Form(FormName.PDF)], ids=lambda form: form.name)
def test_a_study_analysed_after_its_rejection_gets_a_report_of_its_own(make_exam: MakeExam, form: Form) -> None:
    """A PACS keeps the first of two objects with one UID."""
    exam = make_exam()
    analysed = write_form(form, CONTEXT, exam, beside=[exam.seg()])[0]
    rejected, again = (
        write_rejection(form, CONTEXT, exam.header, code="GAP_IN_SLICES", sentence="A slice is missing.")[0]
        for _ in range(2)
    )
    assert rejected.SOPInstanceUID != analysed.SOPInstanceUID
    assert rejected.SeriesInstanceUID != analysed.SeriesInstanceUID
    assert encode(rejected) == encode(again)


def test_a_reason_fits_every_character_set() -> None:
    """The source may declare a set without a degree sign."""
    source = only_a_study()
    sentence = "The slices are turned by 90°."
    (sr,) = datasets = write_rejection(SR_FORM, CONTEXT, source, code="NOT_AXIAL", sentence=sentence)
    assert "turned by 90?" in summary_text(through(sr))
    check_rejection(SR_FORM, datasets, source)


def test_a_header_without_a_study_is_refused() -> None:
    """A report that belongs to no study would be an orphan in the PACS."""
    with pytest.raises(ResultInvalid) as caught:
        rejection(Dataset())
    assert caught.value.code == "SOURCE_WITHOUT_STUDY"
