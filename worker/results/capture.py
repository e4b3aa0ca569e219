"""The Secondary Capture (PS3.3 A.8.1): pictures of the result, for viewers that show neither SEG nor SR.

One image a page, in one series. Colours, so RGB; without identity, so Burned In Annotation NO (C.7.6.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID

from worker.results.attributes import copy_lossy, finish, new_object
from worker.results.codes import coded
from worker.results.pages import draw_pages, draw_rejection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL import Image

    from dicom_node.result_forms import Form
    from worker.results.context import ResultContext
    from worker.results.exam import AnalysedExam


def write_capture(context: ResultContext, exam: AnalysedExam, *, form: Form) -> tuple[Dataset, ...]:
    """The summary page and the key slices of an analysed exam."""
    pages = draw_pages(exam, context.operating_points)
    return tuple(
        _image(context, exam.header, page, form=form, number=number, sources=exam.source.headers)
        for number, page in enumerate(pages, start=1)
    )


def write_rejection_capture(
    context: ResultContext, header: Dataset, *, form: Form, code: str, sentence: str
) -> tuple[Dataset, ...]:
    """One page that says why a study was not analysed."""
    page = draw_rejection(code, sentence)
    return (_image(context, header, page, form=form, number=1, refers_to=f"rejected {code}"),)


def _image(
    context: ResultContext,
    header: Dataset,
    page: Image.Image,
    *,
    form: Form,
    number: int,
    sources: Iterable[Dataset] = (),
    refers_to: str = "",
) -> Dataset:
    ds = new_object(context, header, form=form, number=number, refers_to=refers_to)
    ds.Modality = "OT"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation, ds.Laterality = "", ""  # of a page there is none
    ds.DerivationDescription = "Summary of an analysis by software, research use only"
    ds.SourceImageSequence = [_reference(one) for one in sources]
    if not ds.SourceImageSequence:
        del ds.SourceImageSequence
    copy_lossy(header, ds)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = page.height, page.width
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = np.asarray(page, dtype=np.uint8).tobytes()
    ds["PixelData"].VR = "OB"
    syntax = UID(form.transfer_syntax)
    if syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
    return finish(ds, context, header, form=form)


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [coded("source_image")]
    return item
