"""Every form, in every option: written, passed by the gate, and judged by an independent validator."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid

from dicom_node.config_sections import ResultsConfig
from dicom_node.result_forms import SOP_CLASSES, Form, FormName, transfer_syntaxes
from dicom_node.states import ResultKind
from ml.labels import Subtype
from ml.prediction import Side
from tests.peers.dicom3tools import dcentvfy, dciodvfy
from tests.worker.conftest import CONTEXT, SEG_FORM, SR_FORM, Exam
from worker.results.checks import check_form, check_rejection
from worker.results.context import SeriesLabel, SeriesPlan
from worker.results.errors import ResultInvalid
from worker.results.files import encode, save, through_bytes
from worker.results.forms import write_form, write_rejection
from worker.results.masks import frame_sources, read_frames
from worker.results.outlines import fill
from worker.results.pdf import page_texts
from worker.results.report_tree import concept, reported_lesions, reported_regions, walk

MakeExam = Callable[..., Exam]
YOUNGER_THAN_THE_VALIDATOR = ("Object Not found", "SegmentNumber not monotonically increasing")
"""What dicom3tools of 2022 says of each Label Map Segmentation, a SOP class of 2024 whose segments start at 0."""
FORMS = [
    *(Form(name, transfer_syntax=syntax) for name in FormName for syntax in transfer_syntaxes(name)),
    *(Form(name, empty_frames=True) for name in FormName if Form(name).kind is ResultKind.SEG),
    *(Form(name, planar_regions=True) for name in FormName if Form(name).kind is ResultKind.SR),
    *(Form(name, utf_8=True) for name in FormName),
]


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("positive", [True, False], ids=["positive", "negative"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.key)
def test_every_form_passes_the_gate_and_dciodvfy(make_exam: MakeExam, form: Form, positive: bool) -> None:
    """Tilted, with pixels that are not square, a name beyond ASCII, and no slice thickness."""
    exam = make_exam(
        positive=positive, tilt_degrees=18.0, pixel_spacing=(3.0, 5.5), missing=["SliceThickness"],
        patient_name="Müller^Jörg",
    )  # fmt: skip
    seg = exam.seg()
    datasets = write_form(form, exam.context, exam, beside=[seg])
    check_form(form, datasets, exam, beside=[seg])
    for ds in datasets:
        received = through_bytes(ds)
        assert received.file_meta.TransferSyntaxUID == form.transfer_syntax
        assert received.SpecificCharacterSet == ("ISO_IR 192" if form.utf_8 else "ISO_IR 100")
        assert received.PatientName == "Müller^Jörg"
        if ds.InstanceNumber > 2:
            continue  # a page like the second one
        inherent = YOUNGER_THAN_THE_VALIDATOR if form.name is FormName.SEG_LABELMAP else ()
        errors = [line for line in dciodvfy(ds).errors if not any(text in line for text in inherent)]
        assert not errors
    assert datasets or (form.kind is ResultKind.KOS and not positive)


@pytest.mark.peer("dicom3tools")
def test_all_forms_are_of_one_study_with_their_source(make_exam: MakeExam, tmp_path: Path) -> None:
    """Patient and study agree over all files, the name in three scripts included; and another patient is seen."""
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    exam = make_exam(charset=["", "ISO 2022 IR 87"], patient_name=name)
    seg = exam.seg()
    made = [ds for form in FormName for ds in write_form(Form(form), CONTEXT, exam, beside=[seg])[:1]]
    assert {str(through_bytes(ds).PatientName) for ds in made} == {name}
    objects = [*exam.source.headers[:2], *(ds for ds in made if ds.SOPClassUID != SOP_CLASSES[FormName.SEG_LABELMAP])]
    files = [tmp_path / f"{index}.dcm" for index in range(len(objects))]
    for ds, path in zip(objects, files, strict=True):
        save(ds, path)
    assert not dcentvfy(files).errors
    stranger = through_bytes(objects[-1])
    stranger.PatientID = "SOMEBODY"
    save(stranger, files[-1])
    assert dcentvfy(files).errors


def test_a_fractional_segmentation_holds_the_probability_of_each_voxel_of_a_lesion(make_exam: MakeExam) -> None:
    """In steps of 1/255, and never 0 inside a lesion."""
    exam = make_exam()
    prob = np.linspace(0, 1, exam.prediction.prob.size, dtype=np.float32).reshape(exam.prediction.prob.shape)
    prob[3, ::2] = 0.0005
    exam = replace(exam, prediction=replace(exam.prediction, prob=prob))
    form = Form(FormName.SEG_FRACTIONAL)
    seg = exam.write(form)
    check_form(form, [seg], exam)
    z_by_uid = {uid: z for z, uid in enumerate(exam.source.geometry.sop_instance_uids)}
    for (number, source), frame in zip(frame_sources(seg), read_frames(seg), strict=True):
        z, lesion = z_by_uid[source], exam.lesions[int(number or 0) - 1]
        expected = np.where(lesion.region.mask[z], np.maximum(prob[z] * 255, 1), 0)
        np.testing.assert_allclose(frame, expected, atol=0.51)
    assert (seg.SegmentationFractionalType, seg.MaximumFractionalValue) == ("PROBABILITY", 255)


def test_a_fractional_segmentation_of_another_probability_is_stopped(make_exam: MakeExam) -> None:
    """The gate compares values, not only where they are above 0."""
    exam = make_exam()
    form = Form(FormName.SEG_FRACTIONAL)
    seg = exam.write(form)
    half = replace(exam.prediction, prob=exam.prediction.prob * np.float32(0.5))
    with pytest.raises(ResultInvalid) as caught:
        check_form(form, [seg], replace(exam, prediction=half))
    assert caught.value.code == "SEG_VOXELS"


@pytest.mark.parametrize("name", [FormName.SEG_FRACTIONAL, FormName.SEG_LABELMAP])
def test_a_report_points_at_the_segmentation_beside_it(make_exam: MakeExam, name: FormName) -> None:
    """Whatever its type."""
    exam = make_exam()
    seg = exam.write(Form(name))
    sr = exam.sr(seg)
    check_form(SR_FORM, [sr], exam, beside=[seg])
    assert {one.sop_instance_uid for one in reported_lesions(sr)} == {seg.SOPInstanceUID}
    assert sr.SOPInstanceUID != exam.sr(exam.seg()).SOPInstanceUID


def test_a_report_without_a_segmentation_is_refused(make_exam: MakeExam) -> None:
    """It would point at nothing; that of an exam without lesions has nothing to point at."""
    with pytest.raises(ResultInvalid) as caught:
        write_form(SR_FORM, CONTEXT, make_exam())
    assert caught.value.code == "SR_WITHOUT_SEG"
    negative = make_exam(positive=False)
    check_form(SR_FORM, write_form(SR_FORM, CONTEXT, negative), negative)


def test_lines_lie_on_the_key_slice_and_belong_to_the_lesion_of_the_same_tracking_uid(make_exam: MakeExam) -> None:
    """Viewers that draw lines join them with the volume of the segment by the tracking UID."""
    exam = make_exam(tilt_degrees=18.0, pixel_spacing=(3.0, 5.5))
    sr = exam.write(Form(FormName.SR_3D, planar_regions=True), exam.seg())
    regions = reported_regions(sr)
    assert [one.tracking_uid for one in regions] == [one.tracking_uid for one in reported_lesions(sr)]
    for region, lesion in zip(regions, exam.lesions, strict=True):
        assert region.sop_instance_uid == exam.source.geometry.sop_instance_uids[lesion.key_slice]
        np.testing.assert_array_equal(fill(region.line, exam.volume.hu.shape[1:]), lesion.region.mask[lesion.key_slice])


@pytest.mark.parametrize("spoil", ["mirrored", "shifted by a pixel", "on another slice", "left out"])
def test_a_line_that_is_not_the_outline_is_stopped(make_exam: MakeExam, spoil: str) -> None:
    """To the pixel."""
    exam, form = make_exam(), Form(FormName.SR, planar_regions=True)
    seg = exam.seg()
    sr = exam.write(form, seg)
    groups = next(item for item in walk(sr) if concept(item) == "126010").ContentSequence
    line = next(item for item in walk(groups[-1]) if item.ValueType == "SCOORD")
    points = np.array(line.GraphicData).reshape(-1, 2)
    if spoil == "mirrored":
        line.GraphicData = (points * [-1, 1] + [40, 0]).ravel().tolist()
    elif spoil == "shifted by a pixel":
        line.GraphicData = (points + np.array([0, 1])).ravel().tolist()
    elif spoil == "on another slice":
        image = line.ContentSequence[0].ReferencedSOPSequence[0]
        image.ReferencedSOPInstanceUID = exam.source.geometry.sop_instance_uids[0]
    else:
        del groups[-1]
    with pytest.raises(ResultInvalid) as caught:
        check_form(form, [sr], exam, beside=[seg])
    assert caught.value.code == "SR_REGION"


def test_the_side_of_a_lesion_is_its_laterality(make_exam: MakeExam) -> None:
    """Right and left by their codes; the midline has none; and a side that differs is stopped."""
    exam = make_exam()
    seg = exam.seg()
    assert [one.laterality for one in reported_lesions(exam.sr(seg))] == ["24028007", "7771000"]
    middle = replace(exam, lesions=tuple(replace(one, side=Side.MIDLINE) for one in exam.lesions))
    sr = middle.sr(seg)
    assert [one.laterality for one in reported_lesions(sr)] == ["", ""]
    with pytest.raises(ResultInvalid) as caught:
        check_form(SR_FORM, [sr], exam, beside=[seg])
    assert caught.value.code == "SR_SIDE"


@pytest.mark.parametrize(
    ("subtype", "code"),
    [
        *((None, "1386000"), (Subtype.SDH, "35486000"), (Subtype.IPH, "274100004"), (Subtype.IVH, "1386000")),
        *((Subtype.SAH, "21454007"), (Subtype.EDH, "82999001")),
    ],
    ids=str,
)
def test_a_known_subtype_is_the_finding(make_exam: MakeExam, subtype: Subtype | None, code: str) -> None:
    """Where it has a code; else hemorrhage as such."""
    exam = make_exam()
    exam = replace(exam, lesions=tuple(replace(one, subtype=subtype) for one in exam.lesions))
    sr = exam.sr(exam.seg())
    findings = [str(i.ConceptCodeSequence[0].CodeValue) for i in walk(sr) if concept(i) == "121071"]
    assert findings == ["1386000", code, code]


def test_an_object_of_another_form_is_stopped(make_exam: MakeExam) -> None:
    """SOP class and transfer syntax are those that were asked for."""
    exam = make_exam()
    for form in (Form(FormName.SEG_LABELMAP), replace(SEG_FORM, transfer_syntax=uid.ImplicitVRLittleEndian)):
        with pytest.raises(ResultInvalid) as caught:
            check_form(form, [exam.seg()], exam)
        assert caught.value.code == "RESULT_FORM"
    with pytest.raises(ResultInvalid) as caught:
        check_form(replace(SEG_FORM, utf_8=True), [exam.seg()], exam)
    assert caught.value.code == "RESULT_CHARSET"


def test_forms_and_destinations_share_no_uid_but_those_of_the_lesions(make_exam: MakeExam) -> None:
    """A PACS keeps the first of two objects with one UID; a lesion is the same lesion in all of them."""
    exam = make_exam()
    elsewhere = replace(exam, context=replace(CONTEXT, series=SeriesPlan(first_number=9101)))
    made = [exam.write(form) for form in FORMS if form.kind is ResultKind.SEG] + [elsewhere.seg()]
    assert len({ds.SOPInstanceUID for ds in made}) == len({ds.SeriesInstanceUID for ds in made}) == len(made)
    assert len({one.TrackingUID for ds in made for one in ds.SegmentSequence if "TrackingUID" in one}) == 2


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.key)
def test_equal_arguments_give_equal_bytes(make_exam: MakeExam, form: Form) -> None:
    """A retry writes the same objects."""
    exam = make_exam()
    seg = exam.seg()
    one, other = (write_form(form, CONTEXT, exam, beside=[seg]) for _ in range(2))
    assert [encode(ds) for ds in one] == [encode(ds) for ds in other]


def test_series_are_numbered_in_a_band_and_described_as_configured(make_exam: MakeExam) -> None:
    """A destination's own band and words, in every form; the pages of a series are numbered in their order."""
    words: dict[str, Any] = {f"{kind.lower()}_series_description": f"Our {kind}" for kind in ResultKind}
    plan = SeriesPlan(first_number=700, words=ResultsConfig(**words))
    exam = replace(make_exam(), context=replace(CONTEXT, series=plan))
    seg = exam.seg()
    numbers = {"SEG": 700, "SR": 701, "KOS": 702, "SC": 703, "PDF": 704}
    for form in map(Form, FormName):
        made = write_form(form, exam.context, exam, beside=[seg])
        told = {(ds.SeriesNumber, ds.SeriesDescription) for ds in made}
        assert told == {(numbers[form.kind], f"Our {form.kind}")}
        assert [ds.InstanceNumber for ds in made] == list(range(1, len(made) + 1))
    for wrong in (lambda: SeriesPlan(first_number=0), lambda: SeriesLabel(0, "x"), lambda: SeriesLabel(1, "x" * 65)):
        with pytest.raises(ValueError, match="series"):
            wrong()


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("name", FormName)
def test_a_rejected_study_is_told_so_in_every_form_that_can_say_it(make_exam: MakeExam, name: FormName) -> None:
    """Segmentations and key images have nothing to show; the others say why."""
    form, header = Form(name), make_exam().header
    datasets = write_rejection(form, CONTEXT, header, code="GAP_IN_SLICES", sentence="A slice is missing: 90°.")
    check_rejection(form, datasets, header)
    assert len(datasets) == (0 if form.kind in {ResultKind.SEG, ResultKind.KOS} else 1)
    for ds in datasets:
        assert not dciodvfy(ds).errors
        if form.kind is ResultKind.PDF:
            assert b"GAP_IN_SLICES" in b"".join(page_texts(ds.EncapsulatedDocument))


def test_options_that_a_form_does_not_have_are_refused_in_a_sentence() -> None:
    """Configuration shows the sentence."""
    with pytest.raises(ValueError, match="empty_frames is for SEG forms, not for sr-3d"):
        Form(FormName.SR_3D, empty_frames=True)
    with pytest.raises(ValueError, match=r"seg-binary cannot be written in .*choose 1\.2\.840\.10008\.1\.2\.1 "):
        Form(FormName.SEG_BINARY, transfer_syntax=uid.RLELossless)
