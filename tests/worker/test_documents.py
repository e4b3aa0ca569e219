"""What people look at: the pages of the Secondary Capture, the PDF, and the key images."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.result_forms import Form, FormName
from ml.labels import Subtype
from ml.prediction import Lesion, Region
from tests.worker.conftest import CONTEXT, Exam
from worker.results import pdf
from worker.results.checks import check_form
from worker.results.context import RESEARCH_NOTICE
from worker.results.errors import ResultInvalid
from worker.results.forms import write_form, write_rejection
from worker.results.kos import key_slices
from worker.results.overlay import font
from worker.results.pages import BANNER_PX, MOST_KEY_PAGES
from worker.results.pdf import MOST_ROWS, page_texts
from worker.results.report_tree import concept, referenced_instances, walk

MakeExam = Callable[..., Exam]
CAPTURE, PDF, KEY_IMAGES = Form(FormName.SC), Form(FormName.PDF), Form(FormName.KOS)


def spotted(exam: Exam, count: int) -> Exam:
    """The exam with so many lesions of one pixel each, two apart."""
    places = [(z, y, x) for z in range(1, 8) for y in range(10, 38, 4) for x in range(8, 32, 4)][:count]
    mask = np.zeros_like(exam.prediction.mask)
    lesions: list[Lesion] = []
    for number, place in enumerate(places, start=1):
        mask[place] = True
        own = np.zeros_like(mask)
        own[place] = True
        lesions.append(replace(exam.lesions[0], number=number, region=Region.of(own), key_slices=(place[0],)))
    return replace(exam, lesions=tuple(lesions), prediction=replace(exam.prediction, mask=mask))


def judge(form: Form, datasets: tuple[Dataset, ...], exam: Exam) -> str:
    """The code of the first failed check, or "ok"."""
    try:
        check_form(form, datasets, exam)
    except ResultInvalid as error:
        return error.code
    return "ok"


def test_key_images_are_the_largest_areas_of_each_lesion_first(make_exam: MakeExam) -> None:
    """What a reader should open first comes first; each image once, by its own instance."""
    exam = make_exam()
    one, other = exam.lesions
    assert key_slices(exam)[:2] == [one.key_slice, other.key_slice]
    assert set(key_slices(exam)) == {*one.key_slices, *other.key_slices}
    kos = exam.write(KEY_IMAGES)
    uids = exam.source.geometry.sop_instance_uids
    assert list(referenced_instances(kos)) == [uids[z] for z in key_slices(exam)]
    assert (kos.Modality, concept(kos)) == ("KO", "113000")
    assert any(RESEARCH_NOTICE in str(item.get("TextValue", "")) for item in walk(kos))


@pytest.mark.parametrize("count", [1, 5, 40])
def test_however_many_lesions_there_are_the_pages_stay_few(make_exam: MakeExam, count: int) -> None:
    """A summary, at most six key slices, and a PDF that says how many smaller ones it leaves out."""
    exam = spotted(make_exam(), count)
    pages = write_form(CAPTURE, CONTEXT, exam)
    assert len(pages) == 1 + min(len(key_slices(exam)), MOST_KEY_PAGES)
    assert len({page.SOPInstanceUID for page in pages}) == len(pages)
    assert len({page.SeriesInstanceUID for page in pages}) == 1
    (pdf,) = write_form(PDF, CONTEXT, exam)
    texts = page_texts(pdf.EncapsulatedDocument)
    assert len(texts) <= 2
    assert (b"smaller ones" in b"".join(texts)) is (count > MOST_ROWS)
    assert judge(CAPTURE, pages, exam) == judge(PDF, (pdf,), exam) == "ok"


def test_the_report_on_paper_says_what_the_structured_one_says(make_exam: MakeExam) -> None:
    """Answer, probability, each lesion with its side, measures and key slices, thresholds, bundle; as text."""
    exam = make_exam()
    one, other = exam.lesions
    exam = replace(exam, lesions=(one, replace(other, subtype=Subtype.SDH)))
    text = b"".join(page_texts(exam.write(PDF).EncapsulatedDocument)).decode("latin-1")
    for part in (
        f"2 regions, {one.volume_ml + other.volume_ml:.1f} mL.",
        "PRESENT",
        "0.93",
        "right",
        "left",
        "ABC/2",
        "Thresholds: exam",
        "compact 1.2.0",
        "Sides are the patient",
    ):
        assert part in text
    cells = re.findall(r"\((.*?)\) Tj", text)
    table = cells[cells.index("key slices") + 1 :][:14]
    for lesion, side, row in ((one, "right", table[:7]), (other, "left SDH", table[7:])):
        slices = ", ".join(str(z + 1) for z in lesion.key_slices)
        told = [f"{lesion.volume_ml:.1f}", "4.5", "12.3", f"{lesion.mean_hu:.0f}", slices]
        assert row == [str(lesion.number), side, *told]


@pytest.mark.parametrize(("down", "first"), [(1.0, "lowest"), (-1.0, "highest")])
def test_the_report_says_from_which_end_slices_are_numbered(make_exam: MakeExam, down: float, first: str) -> None:
    """Along the normal, which points to the feet where columns of an image run forwards."""
    exam = make_exam(extra={"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, down, 0.0]})
    heights_mm = exam.volume.geometry.positions_lps[:, 2]
    assert (heights_mm[0] < heights_mm[-1]) == (first == "lowest")
    text = b"".join(page_texts(exam.write(PDF).EncapsulatedDocument)).decode("latin-1")
    assert f"count from the {first}" in " ".join(text.split())


@pytest.mark.parametrize("form", [CAPTURE, PDF], ids=lambda form: form.name)
def test_every_document_names_the_images_it_was_made_from(make_exam: MakeExam, form: Form) -> None:
    """Each slice that was read, in the attribute that its class has for that."""
    exam = make_exam()
    for ds in write_form(form, CONTEXT, exam):
        sources = ds.SourceImageSequence if form is CAPTURE else ds.SourceInstanceSequence
        assert [one.ReferencedSOPInstanceUID for one in sources] == list(exam.source.geometry.sop_instance_uids)


def test_pages_of_a_lossy_source_say_so(make_exam: MakeExam) -> None:
    """How it was compressed, and how far; of others that they were not."""
    names = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
    lossy = dict(zip(names, ("01", 9, "ISO_15444_1"), strict=True))
    page, *_ = write_form(CAPTURE, CONTEXT, make_exam(extra=lossy))
    assert {keyword: page[keyword].value for keyword in lossy} == lossy
    page, *_ = write_form(CAPTURE, CONTEXT, make_exam())
    assert page.LossyImageCompression == "00"


@pytest.mark.parametrize("form", [CAPTURE, PDF], ids=lambda form: form.name)
def test_no_page_names_the_patient(make_exam: MakeExam, form: Form) -> None:
    """Two patients, one picture: Burned In Annotation NO is the truth."""
    shown = []
    for name in ("One^Patient", "Other^Patient"):
        datasets = write_form(form, CONTEXT, make_exam(patient_name=name, patient_id=name, seed=1))
        assert {ds.BurnedInAnnotation for ds in datasets} == {"NO"}
        shown.append([ds.PixelData if form is CAPTURE else ds.EncapsulatedDocument for ds in datasets])
    assert shown[0] == shown[1]


def test_the_contour_of_a_page_lies_on_its_side(make_exam: MakeExam) -> None:
    """The lesion in the patient's right is on the left of its key page."""
    exam = make_exam(rows=48, columns=48)
    lesion = exam.lesions[0]
    exam = replace(exam, lesions=(lesion,), prediction=replace(exam.prediction, mask=lesion.region.mask))
    page = write_form(CAPTURE, CONTEXT, exam)[1].pixel_array.astype(int)
    _, x = np.nonzero(np.abs(page - [255, 64, 32]).sum(axis=2) == 0)
    assert 0.1 < x.mean() / page.shape[1] < 0.45


def test_each_page_says_what_it_shows(make_exam: MakeExam, drawn: list[tuple[float, float, str]]) -> None:
    """The summary the answer and the table; a key page its slice, and the lesions on that slice alone."""
    exam = make_exam()
    one, other = exam.lesions
    write_form(CAPTURE, CONTEXT, exam)
    starts = [at for at, (_, y, text) in enumerate(drawn) if text == RESEARCH_NOTICE and y == 18]
    summary, *pages = (drawn[start:end] for start, end in pairwise([*starts, len(drawn)]))
    rows: dict[float, list[str]] = {}
    for _, y, text in sorted(summary):
        rows.setdefault(y, []).append(text)
    texts = {text for *_, text in summary}
    total = f"2 regions, {one.volume_ml + other.volume_ml:.1f} mL"
    assert {"PRESENT", "probability 0.93", total, "compact 1.2.0 (abababababab)"} <= texts
    assert f"thresholds: {CONTEXT.operating_points.as_text()}" in texts
    for lesion, side in ((one, "right"), (other, "left")):
        slices = ", ".join(str(z + 1) for z in lesion.key_slices)
        told = [f"{lesion.volume_ml:.1f}", "4.5", "12.3", f"{lesion.mean_hu:.0f}", slices]
        assert [str(lesion.number), side, *told] in rows.values()
    heads = {2: "1: right, {0:.1f} mL", 3: "1: right, {0:.1f} mL", 5: "1: right, {0:.1f} mL   2: left, {1:.1f} mL"}
    heads[6] = "2: left, {1:.1f} mL"
    assert sorted(key_slices(exam)) == list(heads)
    for page, (z, head) in zip(pages, heads.items(), strict=True):
        texts = {text for *_, text in page}
        assert head.format(one.volume_ml, other.volume_ml) in texts
        assert [text for text in texts if text.startswith(f"slice {z + 1} of 9")]


def test_the_head_of_a_crowded_key_page_is_not_cut(make_exam: MakeExam) -> None:
    """Four large lesions are named, the others counted, and both ends of the line are on the page."""
    exam = spotted(make_exam(), 17)
    crowd = tuple(replace(one, number=10 + one.number, volume_ml=104.5, key_slices=(1,)) for one in exam.lesions)
    page = write_form(CAPTURE, CONTEXT, replace(exam, lesions=crowd))[1].pixel_array
    head = np.asarray(page[BANNER_PX : BANNER_PX + 58].any(axis=(0, 2)))
    assert head[40:60].any()
    assert not head[:30].any()
    assert not head[-30:].any()


def test_the_page_of_a_rejected_study_says_why(make_exam: MakeExam, drawn: list[tuple[float, float, str]]) -> None:
    """Code and whole sentence, in lines that end on the page, and that no finding is meant."""
    sentence = f"The series has {'very ' * 60}few slices."
    write_rejection(CAPTURE, CONTEXT, make_exam().header, code="TOO_FEW_SLICES", sentence=sentence)
    told = " ".join(text for *_, text in drawn)
    for part in ("Not analysed", "TOO_FEW_SLICES", sentence, "No statement about hemorrhage is made."):
        assert part in " ".join(told.split())
    for x, y, text in drawn:
        if text != RESEARCH_NOTICE:
            assert x + font(28).getlength(text) < 1024
            assert y + 28 < 1024 - 36


def test_a_pdf_whose_second_page_lacks_the_banner_is_stopped(
    make_exam: MakeExam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be printed alone."""
    exam = spotted(make_exam(), 40)
    furnish = pdf._furnish
    monkeypatch.setattr(pdf, "_furnish", lambda canvas, page: furnish(canvas, page) if page.page == 1 else None)
    datasets = write_form(PDF, CONTEXT, exam)
    assert len(page_texts(datasets[0].EncapsulatedDocument)) == 2
    assert judge(PDF, datasets, exam) == "PDF_BANNER"


def without_banner(ds: Dataset) -> None:
    """The bar at the top, gone."""
    ds.PixelData = bytes(60 * 1024 * 3) + ds.PixelData[60 * 1024 * 3 :]


def without_foot(ds: Dataset) -> None:
    """The bar at the bottom, gone."""
    ds.PixelData = ds.PixelData[: -60 * 1024 * 3] + bytes(60 * 1024 * 3)


def one_page_short(ds: Dataset) -> None:
    """Cut off in the middle."""
    ds.EncapsulatedDocument = ds.EncapsulatedDocument[: len(ds.EncapsulatedDocument) // 2 * 2 - 1000]


def another_text(ds: Dataset) -> None:
    """A PDF that is whole and of no use."""
    ds.EncapsulatedDocument = b"%PDF-1.4\n1 0 obj << >> endobj\n%%EOF"
    ds.EncapsulatedDocumentLength = len(ds.EncapsulatedDocument)


def evidence(kos: Dataset) -> list[Dataset]:
    """The images that the selection says it is made of."""
    images: list[Dataset] = (
        kos.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    )
    return images


SPOILED: dict[str, tuple[Form, Callable[[Dataset], object], str]] = {
    "no banner": (CAPTURE, without_banner, "SC_BANNER"),
    "no banner at the foot": (CAPTURE, without_foot, "SC_BANNER"),
    "half a page": (CAPTURE, lambda ds: setattr(ds, "PixelData", ds.PixelData[:3000]), "SC_PAGE"),
    "another colour space": (CAPTURE, lambda ds: setattr(ds, "PhotometricInterpretation", "YBR_FULL"), "SC_PAGE"),
    "burned in, it says": (CAPTURE, lambda ds: setattr(ds, "BurnedInAnnotation", "YES"), "RESULT_ATTRIBUTES"),
    "another conversion": (CAPTURE, lambda ds: setattr(ds, "ConversionType", "SI"), "RESULT_ATTRIBUTES"),
    "another patient": (CAPTURE, lambda ds: setattr(ds, "PatientID", "X"), "RESULT_IDENTITY"),
    "half a document": (PDF, one_page_short, "PDF_DOCUMENT"),
    "not a PDF": (PDF, lambda ds: setattr(ds, "MIMETypeOfEncapsulatedDocument", "text/plain"), "PDF_DOCUMENT"),
    "a PDF without banner": (PDF, another_text, "PDF_BANNER"),
    "another title": (
        KEY_IMAGES, lambda ds: setattr(ds.ConceptNameCodeSequence[0], "CodeValue", "113001"), "KOS_CONTENT"
    ),
    "one image less": (KEY_IMAGES, lambda ds: ds.ContentSequence.pop(), "KOS_REFERENCE"),
    "one image less in evidence": (KEY_IMAGES, lambda ds: evidence(ds).pop(), "KOS_REFERENCE"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "spoil", "code"), SPOILED.values(), ids=SPOILED)
def test_what_is_spoiled_is_stopped(
    make_exam: MakeExam, form: Form, spoil: Callable[[Dataset], object], code: str
) -> None:
    """Each fault has its code; the rest of the objects is as written."""
    exam = make_exam()
    datasets = write_form(form, CONTEXT, exam)
    spoil(datasets[0])
    assert judge(form, datasets, exam) == code


def test_a_page_that_is_left_out_is_missed(make_exam: MakeExam) -> None:
    """Also a selection of key images of an exam that has some."""
    exam = make_exam()
    assert judge(CAPTURE, write_form(CAPTURE, CONTEXT, exam)[:-1], exam) == "RESULT_COUNT"
    assert judge(KEY_IMAGES, (), exam) == "RESULT_COUNT"
