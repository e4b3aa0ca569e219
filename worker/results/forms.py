"""The result of an exam, or of a study that was rejected, in a form that a destination asks for.

Pure: no database, no file. The pipeline calls `write_form` for each form that a destination gets, in the order SEG, SR
and the rest, then `worker.results.checks.check_form` on what came back, and saves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_node.states import ResultKind
from worker.results.capture import write_capture, write_rejection_capture
from worker.results.errors import ResultInvalid
from worker.results.kos import write_kos
from worker.results.pdf import write_pdf, write_rejection_pdf
from worker.results.seg import write_seg
from worker.results.sr import write_rejection_sr, write_sr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom import Dataset

    from dicom_node.result_forms import Form
    from worker.results.context import ResultContext
    from worker.results.exam import AnalysedExam

_ALONE = {ResultKind.KOS: write_kos, ResultKind.SC: write_capture, ResultKind.PDF: write_pdf}
"""Families whose objects stand on the exam alone."""


def write_form(
    form: Form, context: ResultContext, exam: AnalysedExam, *, beside: Sequence[Dataset] = ()
) -> tuple[Dataset, ...]:
    """The objects of one form, ready to save; the same arguments give the same bytes.

    One object, but for a Secondary Capture of several pages, and a selection of key images that has none to select.

    `beside` are the objects already written for the same destination: a report points at the segmentation among them.

    Raises ResultInvalid when the lesions are not the mask, or when a report of lesions has no segmentation to point at.
    """
    if form.kind is ResultKind.SEG:
        return (write_seg(context, exam, form=form),)
    if form.kind in _ALONE:
        return _ALONE[form.kind](context, exam, form=form)
    seg = next((ds for ds in beside if ds.Modality == "SEG"), None)
    if seg is None and exam.lesions:
        raise ResultInvalid("SR_WITHOUT_SEG", "a report needs the segmentation that it points at; write that first")
    return (write_sr(context, exam, form=form, seg=seg),)


def write_rejection(
    form: Form, context: ResultContext, header: Dataset, *, code: str, sentence: str
) -> tuple[Dataset, ...]:
    """What a destination gets of a study that was not analysed: why, in forms that can say it, else nothing.

    `header` is any instance of the study, of any modality, and may lack all but the Study Instance UID.
    """
    if not header.get("StudyInstanceUID"):
        raise ResultInvalid("SOURCE_WITHOUT_STUDY", "the header names no study, so no report can belong to it")
    if form.kind is ResultKind.SR:
        return (write_rejection_sr(context, header, form=form, code=code, sentence=sentence),)
    if form.kind is ResultKind.SC:
        return write_rejection_capture(context, header, form=form, code=code, sentence=sentence)
    if form.kind is ResultKind.PDF:
        return write_rejection_pdf(context, header, form=form, code=code, sentence=sentence)
    return ()
