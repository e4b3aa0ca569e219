"""The segmentation object (PS3.3 A.51): BINARY, FRACTIONAL or LABELMAP, one segment per lesion.

One segment per lesion and not one for all: the SR gives each lesion its volume and points at its segment, the tracking
UID belongs to a segment, and a reader can switch lesions on and off. A negative exam gives one empty segment on every
slice: the PACS then shows that the exam was read and which slices were read, and each analysed study has its SEG.
Frames are tied to slices by SOP Instance UID; nothing is resampled, so a tilted or uneven stack keeps its geometry.

The three types say the same: a voxel belongs to a lesion, and in FRACTIONAL also with which probability. A probability
outside the lesions is not written; it would show what the operating point has turned down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from highdicom import AlgorithmIdentificationSequence, PixelMeasuresSequence
from highdicom.color import CIELabColor
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)

from dicom_node.result_forms import FormName
from worker.results.attributes import blank_header, finish
from worker.results.codes import coded
from worker.results.errors import ResultInvalid
from worker.results.identity import decoded_element, usable
from worker.results.uids import form_uid, lesion_tracking_uid

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from pydicom import Dataset

    from dicom_node.result_forms import Form
    from ml.prediction import Lesion
    from ml.volume import MaskArray
    from worker.results.context import ResultContext
    from worker.results.exam import AnalysedExam
    from worker.results.source import SourceExam

_HEMORRHAGE_COLOUR = CIELabColor(45.8, 44.1, 47.1)
"""sRGB 188, 65, 28: 3D Slicer's colour of hemorrhage."""
EMPTY_SEGMENT_LABEL = "Hemorrhage (none outlined)"
FULL_PROBABILITY = 255
"""The stored value of probability 1 in a FRACTIONAL segmentation."""


_TYPES = {
    FormName.SEG_BINARY: SegmentationTypeValues.BINARY,
    FormName.SEG_FRACTIONAL: SegmentationTypeValues.FRACTIONAL,
    FormName.SEG_LABELMAP: SegmentationTypeValues.LABELMAP,
}


def write_seg(context: ResultContext, exam: AnalysedExam, *, form: Form) -> Dataset:
    """The SEG of an analysed exam, ready to save.

    Raises ResultInvalid when the lesions are not exactly the prediction's mask or do not fit the source.
    """
    source, lesions = exam.source, exam.lesions
    labels = _labels(exam.prediction.mask, lesions)
    if len(source.headers) != len(labels):
        raise ResultInvalid("SEG_SHAPE", f"the mask has {len(labels)} slices, the source {len(source.headers)}")
    label = context.series.label(form.kind)
    seg = Segmentation(
        source_images=_sources(source),
        pixel_array=_probabilities(exam) if form.name is FormName.SEG_FRACTIONAL else labels,
        segmentation_type=_TYPES[form.name],
        segment_descriptions=_descriptions(context, lesions),
        series_instance_uid=form_uid(context, form, "series"),
        series_number=label.number,
        sop_instance_uid=form_uid(context, form, "instance 1"),
        instance_number=1,
        manufacturer=context.equipment.manufacturer,
        manufacturer_model_name=context.equipment.model_name,
        software_versions=context.equipment.software_version,
        device_serial_number=context.equipment.serial_number,
        series_description=label.description,
        content_label="ICH",
        content_description="Intracranial hemorrhage, outlined by software, research use only",
        content_creator_name=f"{context.bundle.name}^{context.bundle.version}"[:64],
        transfer_syntax_uid=form.transfer_syntax,
        pixel_measures=_pixel_measures(source),
        omit_empty_frames=bool(lesions) and not form.empty_frames,
        fractional_type=SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=FULL_PROBABILITY,
    )
    _fix_dimension_organization(seg, form_uid(context, form, "dimension organization"))
    seg.BodyPartExamined = "HEAD"
    return finish(seg, context, exam.header, form=form)


def tracking_id(number: int) -> str:
    """Tracking ID of a lesion, equal in SEG and SR."""
    return f"ICH {number}"


def _labels(mask: MaskArray, lesions: Sequence[Lesion]) -> npt.NDArray[np.uint16]:
    """(z, y, x): the number of the lesion at each voxel, 0 outside."""
    labels = np.zeros(mask.shape, dtype=np.uint16)
    for index, lesion in enumerate(lesions, start=1):
        box, inside = lesion.region.box, lesion.region.inside
        if lesion.number != index or lesion.region.shape != mask.shape or labels[box][inside].any():
            raise ResultInvalid("SEG_LESIONS", "lesions must be numbered from 1, apart, and on the grid of the mask")
        labels[box][inside] = index
    if not np.array_equal(labels > 0, mask):
        raise ResultInvalid("SEG_LESIONS", "the lesions together are not the mask of the prediction")
    return labels


def _probabilities(exam: AnalysedExam) -> npt.NDArray[np.float32]:
    """(z, y, x, segment): the probability of each voxel of each lesion, 0 outside; one empty segment without lesions.

    A voxel of a lesion is at least one step above 0, or it would be lost in rounding.
    """
    prob = exam.prediction.prob
    planes = np.zeros((*prob.shape, max(1, len(exam.lesions))), dtype=np.float32)
    for segment, lesion in enumerate(exam.lesions):
        box, inside = lesion.region.box, lesion.region.inside
        planes[..., segment][box][inside] = prob[box][inside].clip(1 / FULL_PROBABILITY, 1)
    return planes


def _sources(source: SourceExam) -> list[Dataset]:
    blanks = [blank_header(header) for header in source.headers]
    for blank in blanks:
        blank.FrameOfReferenceUID = source.frame_of_reference_uid
        # Type 2 in the Frame of Reference module.
        blank.PositionReferenceIndicator = blank.get("PositionReferenceIndicator") or ""
        blank.SliceThickness = _thickness_mm(source)
    return blanks


def _thickness_mm(source: SourceExam) -> float:
    """The slice thickness; the distance of slices stands in where the source tells none that can be one."""
    element = decoded_element(source.headers[0], "SliceThickness")
    if element is not None and element.VM == 1 and usable(element) and float(element.value) > 0:
        return float(element.value)
    return round(float(np.median(source.geometry.slice_heights_mm)), 4)


def _pixel_measures(source: SourceExam) -> PixelMeasuresSequence:
    header = source.headers[0]
    return PixelMeasuresSequence(
        pixel_spacing=[float(mm) for mm in header.PixelSpacing],
        slice_thickness=_thickness_mm(source),
    )


def _descriptions(context: ResultContext, lesions: Sequence[Lesion]) -> list[SegmentDescription]:
    if not lesions:
        return [_description(context, 1, EMPTY_SEGMENT_LABEL, tracked=False)]
    return [
        _description(
            context,
            lesion.number,
            f"Hemorrhage {lesion.number}, {lesion.side}, {lesion.volume_ml:.1f} mL",
            tracked=True,
        )
        for lesion in lesions
    ]


def _description(context: ResultContext, number: int, label: str, *, tracked: bool) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=coded("segment_category"),
        segmented_property_type=coded("segment_type"),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=context.bundle.name,
            family=coded("artificial_intelligence"),
            version=context.bundle.version,
            source=context.equipment.manufacturer,
            parameters={"thresholds": context.operating_points.as_text(), "weights": context.bundle.digest},
        ),
        tracking_uid=lesion_tracking_uid(context, number) if tracked else None,
        tracking_id=tracking_id(number) if tracked else None,
        anatomic_regions=[coded("intracranial")],
        display_color=_HEMORRHAGE_COLOUR,
    )


def _fix_dimension_organization(seg: Dataset, uid: str) -> None:
    """highdicom draws this UID at random; a retry must not."""
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
