from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmwrite

from tests.peers.dicom3tools import dciodvfy
from tests.worker.conftest import CONTEXT, SEG_FORM, SR_FORM, Exam, predicted
from worker.results.checks import check_form, check_rejection
from worker.results.errors import ResultInvalid
from worker.results.forms import write_rejection
from worker.results.report_tree import concept, walk
from worker.results.source import order_source, read_source

MakeExam = Callable[..., Exam]


def judge(exam: Exam, seg: Dataset, sr: Dataset) -> str:
    """The code of the first failed check, or "ok"."""
    try:
        exam.check(seg, sr)
    except ResultInvalid as error:
        if "Phantom" in str(error) or "PHANTOM1" in str(error):
            return "the sentence names the patient"
        return error.code
    return "ok"


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("tilt", [0.0, 18.0])
def test_results_as_written_pass(make_exam: MakeExam, positive: bool, tilt: float) -> None:
    """Also tilted, also empty."""
    exam = make_exam(positive=positive, tilt_degrees=tilt)
    seg = exam.seg()
    assert judge(exam, seg, exam.sr(seg)) == "ok"


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize(
    "turn", [np.s_[::-1], np.s_[:, ::-1], np.s_[:, :, ::-1]], ids=["reversed", "upside down", "mirrored"]
)
def test_a_turned_mask_fails_though_dciodvfy_is_content(make_exam: MakeExam, turn: tuple[slice, ...]) -> None:
    """No validator sees wrong geometry; volumes are equal too. Only the voxels tell."""
    exam = make_exam()
    prediction, lesions = predicted(exam.volume, [lesion.region.mask[turn] for lesion in exam.lesions], 0.93)
    wrong = replace(exam, prediction=prediction, lesions=lesions)
    seg = wrong.seg()
    assert not dciodvfy(seg).errors
    with pytest.raises(ResultInvalid) as caught:
        check_form(SEG_FORM, [seg], exam)
    assert caught.value.code == "SEG_VOXELS"


def move_frame(seg: Dataset) -> None:
    """The first frame somewhere else."""
    seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]


def swap_sources(seg: Dataset) -> None:
    """The first two frames name each other's slice."""
    one, other = (seg.PerFrameFunctionalGroupsSequence[i].DerivationImageSequence for i in (0, 1))
    a, b = one[0].SourceImageSequence[0], other[0].SourceImageSequence[0]
    a.ReferencedSOPInstanceUID, b.ReferencedSOPInstanceUID = b.ReferencedSOPInstanceUID, a.ReferencedSOPInstanceUID


def foreign_source(seg: Dataset) -> None:
    """A frame of a slice that is not ours."""
    frame = seg.PerFrameFunctionalGroupsSequence[0]
    frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"


def stretch(seg: Dataset) -> None:
    """Another pixel spacing."""
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1, 1]


def turn(seg: Dataset) -> None:
    """Rows the other way."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def one_voxel(seg: Dataset) -> None:
    """The first voxel of the first frame, changed."""
    seg.PixelData = bytes([seg.PixelData[0] ^ 1]) + seg.PixelData[1:]


def swap_segments(seg: Dataset) -> None:
    """Each lesion under the number of the other."""
    for frame in seg.PerFrameFunctionalGroupsSequence:
        item = frame.SegmentIdentificationSequence[0]
        item.ReferencedSegmentNumber = 3 - item.ReferencedSegmentNumber


def double_frame(seg: Dataset) -> None:
    """The second frame says that it is the first."""
    frames = seg.PerFrameFunctionalGroupsSequence
    frames[1] = deepcopy(frames[0])


def double_source(seg: Dataset) -> None:
    """A frame names two slices."""
    sources = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    sources.append(deepcopy(sources[0]))


def unknown_segment(seg: Dataset) -> None:
    """A frame of a segment that is not described."""
    seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 3


def segment_too_many(seg: Dataset) -> None:
    """A lesion that no frame shows."""
    seg.SegmentSequence.append(deepcopy(seg.SegmentSequence[0]))
    seg.SegmentSequence[-1].SegmentNumber = 3


def name_of_a_slice(seg: Dataset) -> None:
    """The object under the UID of one of its slices."""
    seg.SOPInstanceUID = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID


SPOILED_SEG: dict[str, tuple[Callable[[Dataset], object], str]] = {
    "another patient": (lambda ds: setattr(ds, "PatientID", "X"), "RESULT_IDENTITY"),
    "another study": (lambda ds: setattr(ds, "StudyInstanceUID", "1.2.9"), "RESULT_IDENTITY"),
    "another character set": (lambda ds: setattr(ds, "SpecificCharacterSet", "ISO_IR 101"), "RESULT_CHARSET"),
    "required attribute gone": (lambda ds: delattr(ds, "ContentLabel"), "RESULT_ATTRIBUTES"),
    "attribute gone that may be empty": (lambda ds: delattr(ds, "ContentDescription"), "RESULT_ATTRIBUTES"),
    "nested attribute gone": (lambda ds: delattr(ds.SegmentSequence[0], "SegmentAlgorithmType"), "RESULT_ATTRIBUTES"),
    "no research flag": (lambda ds: delattr(ds, "ContentQualification"), "RESULT_ATTRIBUTES"),
    "UID with leading zero": (lambda ds: setattr(ds, "DeviceUID", "1.2.03"), "RESULT_UID"),
    "UID of a slice": (name_of_a_slice, "RESULT_UID"),
    "another frame of reference": (lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.9"), "SEG_GEOMETRY"),
    "frame moved": (move_frame, "SEG_GEOMETRY"),
    "sources swapped": (swap_sources, "SEG_GEOMETRY"),
    "source unknown": (foreign_source, "SEG_REFERENCE"),
    "a slice unnamed": (
        lambda ds: ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence.pop(),
        "SEG_REFERENCE",
    ),
    "a frame twice": (double_frame, "SEG_FRAMES"),
    "two sources": (double_source, "SEG_FRAMES"),
    "segment unknown": (unknown_segment, "SEG_FRAMES"),
    "segment too many": (segment_too_many, "SEG_SEGMENTS"),
    "pixels cut": (lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2]), "SEG_PIXELS"),
    "pixels stretched": (stretch, "SEG_GEOMETRY"),
    "orientation turned": (turn, "SEG_GEOMETRY"),
    "one voxel": (one_voxel, "SEG_VOXELS"),
    "segments swapped": (swap_segments, "SEG_VOXELS"),
    "frame count": (lambda ds: setattr(ds, "NumberOfFrames", 3), "SEG_FRAMES"),
}


@pytest.mark.parametrize(("spoil", "code"), SPOILED_SEG.values(), ids=SPOILED_SEG)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_spoiled_segmentation_is_stopped(make_exam: MakeExam, spoil: Callable[[Dataset], object], code: str) -> None:
    """Each fault has its code."""
    exam = make_exam()
    seg = exam.seg()
    sr = exam.sr(seg)
    spoil(seg)
    assert judge(exam, seg, sr) == code


def test_a_voxel_in_the_segmentation_of_a_negative_exam_is_stopped(make_exam: MakeExam) -> None:
    """There is no lesion to compare it with, only the empty mask."""
    exam = make_exam(positive=False)
    seg = exam.seg()
    one_voxel(seg)
    assert judge(exam, seg, exam.sr(seg)) == "SEG_VOXELS"


def item(sr: Dataset, code: str) -> Dataset:
    """The last content item with this concept: the second lesion's."""
    return [i for i in walk(sr) if concept(i) == code][-1]


def foreign_image(sr: Dataset) -> None:
    """A key image that is not of the source."""
    image = next(i for i in walk(sr) if i.get("ValueType") == "IMAGE")
    image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def evidence(sr: Dataset) -> list[Dataset]:
    """The slices that the report says it rests on."""
    series: list[Dataset] = sr.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    return max((one.ReferencedSOPSequence for one in series), key=len)


SPOILED_SR: dict[str, tuple[Callable[[Dataset], object], str]] = {
    "another patient": (lambda ds: setattr(ds, "PatientName", "X"), "RESULT_IDENTITY"),
    "no template": (lambda ds: delattr(ds, "ContentTemplateSequence"), "SR_CONTENT"),
    "no unit": (
        lambda ds: delattr(item(ds, "118565006").MeasuredValueSequence[0], "MeasurementUnitsCodeSequence"),
        "SR_CONTENT",
    ),
    "no summary": (lambda ds: setattr(item(ds, "121111"), "TextValue", ""), "SR_CONTENT"),
    "another tracking UID": (lambda ds: setattr(item(ds, "112040"), "UID", "1.2.3"), "SR_TRACKING"),
    "unknown segment": (
        lambda ds: setattr(item(ds, "121191").ReferencedSOPSequence[0], "ReferencedSegmentNumber", 7),
        "SR_REFERENCE",
    ),
    "another segmentation": (
        lambda ds: setattr(item(ds, "121191").ReferencedSOPSequence[0], "ReferencedSOPInstanceUID", "1.2.3"),
        "SR_REFERENCE",
    ),
    "another tracking identifier": (lambda ds: setattr(item(ds, "112039"), "TextValue", "ICH 9"), "SR_TRACKING"),
    "an image of another series": (foreign_image, "SR_REFERENCE"),
    "evidence gone": (lambda ds: delattr(ds, "CurrentRequestedProcedureEvidenceSequence"), "SR_EVIDENCE"),
    "a slice less in evidence": (lambda ds: evidence(ds).pop(), "SR_EVIDENCE"),
    "volume by table steps": (
        lambda ds: setattr(
            item(ds, "118565006").MeasuredValueSequence[0],
            "NumericValue",
            round(float(item(ds, "118565006").MeasuredValueSequence[0].NumericValue) * 1.051, 3),
        ),
        "SR_VOLUME",
    ),
    "lesion left out": (lambda ds: item(ds, "126010").ContentSequence.pop(), "SR_LESIONS"),
}


@pytest.mark.parametrize(("spoil", "code"), SPOILED_SR.values(), ids=SPOILED_SR)
def test_a_spoiled_report_is_stopped(make_exam: MakeExam, spoil: Callable[[Dataset], object], code: str) -> None:
    """Among them the 5.1 % that a tilted volume gains when the table step is taken for the slice height."""
    exam = make_exam()
    seg = exam.seg()
    sr = exam.sr(seg)
    spoil(sr)
    assert judge(exam, seg, sr) == code


def test_a_rejection_that_names_another_study_is_stopped(make_exam: MakeExam) -> None:
    """It must be of the study that was sent."""
    header = make_exam().source.headers[0]
    (sr,) = datasets = write_rejection(SR_FORM, CONTEXT, header, code="NO_HEAD", sentence="No series shows a head.")
    check_rejection(SR_FORM, datasets, header)
    sr.StudyInstanceUID = "1.2.9"
    with pytest.raises(ResultInvalid):
        check_rejection(SR_FORM, datasets, header)


def test_a_rejection_that_makes_a_finding_is_stopped(make_exam: MakeExam) -> None:
    """The report of an analysis in its place."""
    exam = make_exam()
    with pytest.raises(ResultInvalid) as caught:
        check_rejection(SR_FORM, [exam.sr(exam.seg())], exam.header)
    assert caught.value.code == "SR_REFERENCE"


def test_the_source_is_read_in_volume_order_and_must_be_whole(make_exam: MakeExam, tmp_path: Path) -> None:
    """File names and instance numbers say nothing about the order."""
    exam = make_exam(reverse=True)
    paths = [tmp_path / f"{index}.dcm" for index in range(len(exam.source.headers))]
    for header, path in zip(reversed(exam.source.headers), paths, strict=True):
        dcmwrite(path, header, enforce_file_format=True)
    source = read_source(paths, exam.volume.geometry)
    assert tuple(str(h.SOPInstanceUID) for h in source.headers) == exam.volume.geometry.sop_instance_uids
    with pytest.raises(ResultInvalid) as caught:
        read_source(paths[1:], exam.volume.geometry)
    assert caught.value.code == "SOURCE_INCOMPLETE"


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_slices_of_two_series_or_of_none_are_no_source(make_exam: MakeExam, keyword: str) -> None:
    """The result would go to the patient of the first slice."""
    exam = make_exam()
    headers = {str(header.SOPInstanceUID): header for header in exam.source.headers}
    last = exam.source.headers[-1]
    for wrong in (lambda: setattr(last, keyword, "1.2.9"), lambda: [h.pop(keyword) for h in headers.values()]):
        wrong()
        with pytest.raises(ResultInvalid) as caught:
            order_source(headers, exam.source.geometry)
        assert caught.value.code == "SOURCE_MIXED"
