"""The Key Object Selection (PS3.3 A.35.4, TID 2010): which images to open first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument

from worker.results.attributes import blank_header, finish
from worker.results.codes import coded
from worker.results.sr import observer
from worker.results.summary import summary_sentence
from worker.results.uids import form_uid

if TYPE_CHECKING:
    from pydicom import Dataset

    from dicom_node.result_forms import Form
    from worker.results.context import ResultContext
    from worker.results.exam import AnalysedExam


def key_slices(exam: AnalysedExam) -> list[int]:
    """z of the key slices of all lesions, each once: all largest areas first, then all second largest and so on."""
    longest = max((len(lesion.key_slices) for lesion in exam.lesions), default=0)
    ranked = [one.key_slices[rank] for rank in range(longest) for one in exam.lesions if rank < len(one.key_slices)]
    return list(dict.fromkeys(ranked))


def write_kos(context: ResultContext, exam: AnalysedExam, *, form: Form) -> tuple[Dataset, ...]:
    """The selection of an exam's key slices, or nothing where there is no lesion: it may not be empty."""
    images = [blank_header(exam.source.headers[z]) for z in key_slices(exam)]
    if not images:
        return ()
    label = context.series.label(form.kind)
    document = KeyObjectSelectionDocument(
        evidence=images,
        content=KeyObjectSelection(
            document_title=coded("key_images"),
            referenced_objects=images,
            observer_device_context=observer(context),
            description=summary_sentence(exam.prediction, exam.lesions, context.operating_points),
        ),
        series_instance_uid=form_uid(context, form, "series"),
        series_number=label.number,
        sop_instance_uid=form_uid(context, form, "instance 1"),
        instance_number=1,
        manufacturer=context.equipment.manufacturer,
    )
    document.SeriesDescription = label.description
    return (finish(document, context, exam.header, form=form),)
