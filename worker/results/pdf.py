"""The report on paper: a PDF of one or two pages, encapsulated (PS3.3 A.45.1).

Text is text, so it can be searched and copied; pictures are those of the Secondary Capture. The same exam gives the
same bytes: the file holds no time and no random number. Nothing that names the patient or tells a date is in it.
"""

from __future__ import annotations

import base64
import re
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from pydicom import Dataset
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Image, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from worker.results.attributes import finish, new_object
from worker.results.codes import coded
from worker.results.context import RESEARCH_NOTICE
from worker.results.kos import key_slices
from worker.results.overlay import draw_panel, panel_slices
from worker.results.summary import Answer, answer, lesion_cells, regions_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicom_node.result_forms import Form
    from worker.results.context import OperatingPoints, ResultContext
    from worker.results.exam import AnalysedExam

TITLE = "Intracranial hemorrhage: analysis by software"
PICTURES_PER_ROW, MOST_PICTURES = 3, 6
MOST_ROWS = 15
_WIDTH = A4[0] - 36 * mm
_INK, _QUIET, _LINE, _BANNER = HexColor("#1a1a1a"), HexColor("#666666"), HexColor("#cccccc"), HexColor("#ffd040")
_COLOURS = {Answer.PRESENT: "#c0341d", Answer.ABSENT: "#2e7d32", Answer.UNDETERMINED: "#9a6a00"}
_TEXT = ParagraphStyle("text", fontName="Helvetica", fontSize=9.5, leading=13.5, textColor=_INK)
_TITLE = ParagraphStyle("title", parent=_TEXT, fontName="Helvetica-Bold", fontSize=17, leading=22)
_ANSWER = ParagraphStyle("answer", parent=_TEXT, fontName="Helvetica-Bold", fontSize=21, leading=26, spaceBefore=6)
_HEADING = ParagraphStyle("heading", parent=_TEXT, fontName="Helvetica-Bold", fontSize=11, spaceBefore=12, spaceAfter=4)
_NOTE = ParagraphStyle("note", parent=_TEXT, fontSize=8.5, leading=12, textColor=_QUIET)


def write_pdf(context: ResultContext, exam: AnalysedExam, *, form: Form) -> tuple[Dataset, ...]:
    """The report of an analysed exam."""
    ds = new_object(context, exam.header, form=form, number=1)
    ds.SourceInstanceSequence = [_reference(header) for header in exam.source.headers]
    story = [*_answer(exam), *_lesions(exam), *_pictures(exam), *_provenance(context.operating_points, exam)]
    return (_encapsulate(ds, context, exam.header, form=form, document=_render(story)),)


def write_rejection_pdf(
    context: ResultContext, header: Dataset, *, form: Form, code: str, sentence: str
) -> tuple[Dataset, ...]:
    """A page that says why a study was not analysed."""
    ds = new_object(context, header, form=form, number=1, refers_to=f"rejected {code}")
    story = [
        Paragraph(f'<font color="{_COLOURS[Answer.UNDETERMINED]}">Not analysed</font>', _ANSWER),
        Paragraph(f"<b>{escape(code)}</b>: {escape(_latin(sentence))}", _TEXT),
        Spacer(1, 4 * mm),
        Paragraph("No statement about hemorrhage is made.", _TEXT),
    ]
    return (_encapsulate(ds, context, header, form=form, document=_render(story)),)


def _reference(header: Dataset) -> Dataset:
    """An image that the document is derived from (PS3.3 C.24.2: type 1C)."""
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def page_texts(document: bytes) -> list[bytes]:
    """The drawing commands of each page of a PDF as `write_pdf` writes it: text stands in them as it is."""
    pages = []
    for head, body in re.findall(rb"<<(.*?)>>\s*stream\r?\n(.*?)endstream", document, re.DOTALL):
        if b"/Subtype /Image" not in head and b"/FlateDecode" in head:
            pages.append(zlib.decompress(_unpacked(head, body)))
    return pages


def _unpacked(head: bytes, body: bytes) -> bytes:
    if b"/ASCII85Decode" not in head:
        return body
    return base64.a85decode(b"<~" + body.strip().removeprefix(b"<~"), adobe=True)


def _encapsulate(ds: Dataset, context: ResultContext, header: Dataset, *, form: Form, document: bytes) -> Dataset:
    """The Encapsulated Document module (PS3.3 C.24.2)."""
    ds.Modality = "DOC"
    ds.AcquisitionDateTime = ""
    ds.DocumentTitle = TITLE
    ds.ConceptNameCodeSequence = [coded("report_document")]
    ds.VerificationFlag = "UNVERIFIED"
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocumentLength = len(document)
    ds.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    return finish(ds, context, header, form=form)


def _render(story: Sequence[Any]) -> bytes:
    buffer = BytesIO()
    template = SimpleDocTemplate(
        buffer, pagesize=A4, leftMargin=18 * mm, rightMargin=18 * mm, topMargin=24 * mm, bottomMargin=22 * mm,
        title=TITLE, author="dicom-node", subject=RESEARCH_NOTICE, invariant=1, pageCompression=1,
    )  # fmt: skip
    template.build([Paragraph(TITLE, _TITLE), *story], onFirstPage=_furnish, onLaterPages=_furnish)
    return buffer.getvalue()


def _furnish(canvas: Canvas, template: SimpleDocTemplate) -> None:
    """The research banner at the top and the bottom of every page, and its number."""
    width, height = A4
    canvas.saveState()
    for y in (height - 14 * mm, 6 * mm):
        canvas.setFillColor(_BANNER)
        canvas.rect(0, y, width, 8 * mm, stroke=0, fill=1)
        canvas.setFillColor(_INK)
        canvas.setFont("Helvetica-Bold", 11)
        canvas.drawCentredString(width / 2, y + 2.7 * mm, RESEARCH_NOTICE)
    canvas.setFillColor(_QUIET)
    canvas.setFont("Helvetica", 8)
    canvas.drawRightString(width - 18 * mm, 16.5 * mm, f"page {template.page}")
    canvas.restoreState()


def _answer(exam: AnalysedExam) -> list[Any]:
    """The study-level answer in one line, and what it rests on."""
    word = answer(exam.prediction)
    return [
        Paragraph(f'Hemorrhage <font color="{_COLOURS[word]}">{word.upper()}</font>', _ANSWER),
        Paragraph(f"Probability {exam.prediction.exam_score:.2f}, {regions_text(exam.lesions)}.", _TEXT),
    ]


def _lesions(exam: AnalysedExam) -> list[Any]:
    if not exam.lesions:
        return []
    head, *rows = lesion_cells(exam.lesions)
    shown = [list(head), *(list(row) for row in rows[:MOST_ROWS])]
    table = Table(shown, colWidths=[_WIDTH * share for share in (0.06, 0.16, 0.15, 0.15, 0.16, 0.13, 0.19)])
    table.setStyle(
        TableStyle(
            [
                ("FONT", (0, 0), (-1, -1), "Helvetica", 9.5),
                ("FONT", (0, 0), (-1, 0), "Helvetica-Bold", 9),
                ("TEXTCOLOR", (0, 0), (-1, 0), _QUIET),
                ("TEXTCOLOR", (0, 1), (-1, -1), _INK),
                ("ALIGN", (2, 0), (5, -1), "RIGHT"),
                ("LEFTPADDING", (6, 0), (6, -1), 18),
                ("LINEBELOW", (0, 0), (-1, 0), 0.8, _INK),
                ("LINEBELOW", (0, 1), (-1, -1), 0.4, _LINE),
                ("TOPPADDING", (0, 0), (-1, -1), 4),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 4),
            ]
        )
    )
    more = len(rows) - MOST_ROWS
    return [
        Paragraph("Lesions, largest first", _HEADING),
        table,
        *([Paragraph(f"and {more} smaller ones", _NOTE)] if more > 0 else []),
    ]


def _pictures(exam: AnalysedExam) -> list[Any]:
    """The key slices with contours; without lesions, slices spread over the head that was read."""
    chosen = key_slices(exam)[:MOST_PICTURES] or panel_slices(exam.prediction, exam.lesions)
    width = _WIDTH / PICTURES_PER_ROW - 6
    pictures = []
    for z in sorted(chosen):
        panel = draw_panel(exam.volume, z, exam.lesions)
        file = BytesIO()
        panel.save(file, format="PNG")
        pictures.append(Image(file, width=width, height=width * panel.height / panel.width))
    rows = [pictures[first : first + PICTURES_PER_ROW] for first in range(0, len(pictures), PICTURES_PER_ROW)]
    rows[-1] += [""] * (PICTURES_PER_ROW - len(rows[-1]))
    table = Table(rows, colWidths=[_WIDTH / PICTURES_PER_ROW] * PICTURES_PER_ROW)
    table.setStyle(TableStyle([("LEFTPADDING", (0, 0), (-1, -1), 3), ("RIGHTPADDING", (0, 0), (-1, -1), 3)]))
    heading = "Key slices" if exam.lesions else "Slices that were read"
    return [Paragraph(heading, _HEADING), table]


def _provenance(points: OperatingPoints, exam: AnalysedExam) -> list[Any]:
    """What made the answer, and how the numbers are meant."""
    bundle = exam.prediction.bundle
    slices, first = len(exam.source.headers), "lowest" if exam.volume.geometry.normal_lps[2] > 0 else "highest"
    lines = (
        f"Network: {_latin(bundle.name)} {_latin(bundle.version)}, weights SHA-256 {bundle.digest[:12]}.",
        f"Thresholds: {points.as_text()}.",
        f"{slices} slices were read; slice numbers count from the {first}. Display window 40/80 HU.",
        "Volumes are voxel counts times voxel sizes, slice heights along the normal. ABC/2 is the bedside estimate.",
        "Sides are the patient's, from the midline of the skull.",
        "Made by software without review by a physician.",
    )
    return [Paragraph("How this was made", _HEADING), *(Paragraph(escape(line), _NOTE) for line in lines)]


def _latin(text: str) -> str:
    """What the standard fonts of PDF can show."""
    return text.encode("cp1252", "replace").decode("cp1252")
