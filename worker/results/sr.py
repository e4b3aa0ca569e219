"""The structured report: TID 1500 (PS3.16) in Comprehensive 3D SR (PS3.3 A.35.13) or Comprehensive SR (A.35.3).

    Imaging Measurement Report
      language, device observer (the bundle), procedure reported
      Imaging Measurements
        exam          TID 1501: hemorrhage present / absent / undetermined, probability, key images
        lesion 1..n   TID 1411: segment of the SEG, same tracking UID, finding, side, volume, ABC/2, long axis,
                      mean attenuation
        outline 1..n  TID 1410, where asked for: closed line on the key slice, same tracking UID, area
      Qualitative Evaluations
        Summary       one line for people
        Comment       research notice

A rejected study has no Imaging Measurements and a Summary that says why.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import highdicom.sr as hd
from highdicom.sr import CodedConcept, ContentSequence, RelationshipTypeValues
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicom_node.result_forms import FormName
from ml.labels import Subtype
from ml.prediction import Side
from worker.results.attributes import blank_header, finish
from worker.results.codes import coded
from worker.results.context import RESEARCH_NOTICE
from worker.results.outlines import largest_piece, outline
from worker.results.seg import tracking_id
from worker.results.summary import answer, rejection_sentence, summary_sentence
from worker.results.uids import form_uid, lesion_tracking_uid, result_uid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom import Dataset

    from dicom_node.result_forms import Form
    from ml.prediction import Lesion
    from worker.results.context import ResultContext
    from worker.results.exam import AnalysedExam
    from worker.results.source import SourceExam


SUBTYPE_FINDINGS = {
    Subtype.IPH: "intraparenchymal_hemorrhage",
    Subtype.SAH: "subarachnoid_hemorrhage",
    Subtype.SDH: "subdural_hemorrhage",
    Subtype.EDH: "epidural_hemorrhage",
}
"""Names in codes.toml; intraventricular hemorrhage has no code there."""
_CLASSES: dict[FormName, type[hd.Comprehensive3DSR | hd.ComprehensiveSR]] = {
    FormName.SR_3D: hd.Comprehensive3DSR,
    FormName.SR: hd.ComprehensiveSR,
}


def write_sr(context: ResultContext, exam: AnalysedExam, *, form: Form, seg: Dataset | None) -> Dataset:
    """The SR of an analysed exam; `seg` is what `write_seg` gave for the same exam, in any form.

    None where no segmentation is sent, which only an exam without lesions can do.
    """
    groups = _exam_group(context, exam, drawn=form.planar_regions)
    if seg is not None:
        for lesion in exam.lesions:
            groups.extend(_lesion_group(context, exam.source, lesion, seg))
            if form.planar_regions:
                groups.extend(_outline_group(context, exam.source, lesion))
    summary = summary_sentence(exam.prediction, exam.lesions, context.operating_points)
    evidence = [blank_header(one) for one in (*exam.source.headers, *([seg] if seg is not None else []))]
    refers_to = str(seg.SOPInstanceUID) if seg is not None else ""
    document = _document(context, _root(context, groups, summary), evidence, form=form, refers_to=refers_to)
    return finish(document, context, exam.header, form=form)


def write_rejection_sr(context: ResultContext, header: Dataset, *, form: Form, code: str, sentence: str) -> Dataset:
    """The SR of a study that was not analysed.

    `header` is any instance of the study, of any modality, and may lack all but the Study Instance UID.
    """
    root = _root(context, ContentSequence(), rejection_sentence(code, sentence))
    # Other UIDs than the SR that the study gets when it is analysed after all: a PACS keeps the first of equal ones.
    document = _document(context, root, [_stand_in(header)], form=form, refers_to=f"rejected {code}")
    _name_evidence(document, header)
    return finish(document, context, header, form=form)


def _document(
    context: ResultContext, root: Dataset, evidence: Sequence[Dataset], *, form: Form, refers_to: str
) -> Dataset:
    label = context.series.label(form.kind)
    return _CLASSES[form.name](
        evidence=evidence,
        content=root,
        series_instance_uid=form_uid(context, form, "series", refers_to=refers_to),
        series_number=label.number,
        sop_instance_uid=form_uid(context, form, "instance 1", refers_to=refers_to),
        instance_number=1,
        manufacturer=context.equipment.manufacturer,
        is_complete=True,
        is_final=False,
        series_description=label.description,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def _stand_in(header: Dataset) -> Dataset:
    """Lets highdicom write a report on an instance of any class, or of none; `_name_evidence` puts it right."""
    blank = blank_header(header)
    blank.SOPClassUID = CTImageStorage
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        setattr(blank, keyword, header.get(keyword) or "2.25.0")
    return blank


def _name_evidence(document: Dataset, header: Dataset) -> None:
    """The evidence of a rejected study: its one known instance by its true class, or nothing (type 1C)."""
    series = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    instance = series.ReferencedSOPSequence[0]
    if all(header.get(keyword) for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")):
        instance.ReferencedSOPClassUID = header.SOPClassUID
    else:
        del document.CurrentRequestedProcedureEvidenceSequence


def _root(context: ResultContext, groups: ContentSequence, summary: str) -> hd.ContainerContentItem:
    root = hd.ContainerContentItem(name=coded("report_title"), template_id="1500")
    root.ContentSequence = ContentSequence()
    language = CodedConcept(value="en", scheme_designator="RFC5646", meaning="English")
    root.ContentSequence.extend(hd.LanguageOfContentItemAndDescendants(language))
    root.ContentSequence.extend(hd.ObservationContext(observer_device_context=observer(context)))
    root.ContentSequence.append(
        hd.CodeContentItem(coded("procedure_reported"), coded("procedure"), RelationshipTypeValues.HAS_CONCEPT_MOD)
    )
    if groups:
        root.ContentSequence.append(_container("imaging_measurements", groups))
    texts = ContentSequence(
        [
            hd.TextContentItem(coded(name), text, RelationshipTypeValues.CONTAINS)
            for name, text in (("summary", summary), ("comment", RESEARCH_NOTICE))
        ]
    )
    root.ContentSequence.append(_container("qualitative_evaluations", texts))
    return root


def _container(name: str, content: ContentSequence) -> hd.ContainerContentItem:
    item = hd.ContainerContentItem(coded(name), relationship_type=RelationshipTypeValues.CONTAINS)
    item.ContentSequence = content
    return item


def observer(context: ResultContext) -> hd.ObserverContext:
    """The bundle as the device that observed (TID 1004)."""
    return hd.ObserverContext(
        observer_type=coded("device"),
        observer_identifying_attributes=hd.DeviceObserverIdentifyingAttributes(
            uid=context.bundle.device_uid,
            name=f"{context.bundle.name} {context.bundle.version}",
            manufacturer_name=context.equipment.manufacturer,
            model_name=context.equipment.model_name,
            serial_number=context.equipment.serial_number,
        ),
    )


def _exam_group(context: ResultContext, exam: AnalysedExam, *, drawn: bool) -> ContentSequence:
    """`drawn`: the probability names the largest lesion's outline as what it was inferred from (TID 320).

    OHIF 3.13 draws nothing of a report in which one group has no line, and opens a report at its first group.
    """
    finding, source, prediction = coded(context.finding), exam.source, exam.prediction
    slices = sorted({z for lesion in exam.lesions for z in lesion.key_slices})
    return hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(result_uid(context, "exam"), "ICH exam"),
        finding_type=finding,
        algorithm_id=_algorithm(context),
        finding_sites=[hd.FindingSite(coded("intracranial"))],
        measurements=[
            hd.Measurement(
                coded("probability"),
                round(prediction.exam_score, 4),
                coded("no_unit"),
                referenced_coordinates=[_inferred_from(source, exam.lesions[0])] if drawn and exam.lesions else None,
            )
        ],
        qualitative_evaluations=[hd.QualitativeEvaluation(finding, coded(answer(prediction)))],
        source_images=[
            hd.SourceImageForMeasurementGroup(str(source.headers[z].SOPClassUID), source.geometry.sop_instance_uids[z])
            for z in slices
        ]
        or None,
    )


def _lesion_group(context: ResultContext, source: SourceExam, lesion: Lesion, seg: Dataset) -> ContentSequence:
    return hd.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(
            lesion_tracking_uid(context, lesion.number), tracking_id(lesion.number)
        ),
        referenced_segment=hd.ReferencedSegment(
            sop_class_uid=str(seg.SOPClassUID),
            sop_instance_uid=str(seg.SOPInstanceUID),
            segment_number=lesion.number,
            source_series=hd.SourceSeriesForSegmentation(source.series_instance_uid),
        ),
        finding_type=_finding(context, lesion),
        algorithm_id=_algorithm(context),
        finding_sites=[_site(lesion)],
        measurements=[
            hd.Measurement(coded("volume"), round(lesion.volume_ml, 3), coded("cubic_centimeter")),
            hd.Measurement(coded("volume_of_ellipsoid"), round(lesion.abc2_ml, 3), coded("cubic_centimeter")),
            hd.Measurement(coded("long_axis"), round(lesion.longest_axial_diameter_mm, 1), coded("millimeter")),
            hd.Measurement(
                coded("attenuation"), round(lesion.mean_hu, 1), coded("hounsfield_unit"), derivation=coded("mean")
            ),
        ],
    )


def _inferred_from(source: SourceExam, lesion: Lesion) -> hd.CoordinatesForMeasurement:
    z = lesion.key_slice
    return hd.CoordinatesForMeasurement(
        hd.GraphicTypeValues.POLYLINE, outline(largest_piece(lesion.region.on_slice(z))), _region_image(source, z)
    )


def _region_image(source: SourceExam, z: int) -> hd.SourceImageForRegion:
    return hd.SourceImageForRegion(str(source.headers[z].SOPClassUID), source.geometry.sop_instance_uids[z])


def _outline_group(context: ResultContext, source: SourceExam, lesion: Lesion) -> ContentSequence:
    """The largest piece of the lesion on its key slice, as a line that a viewer draws over the image."""
    z = lesion.key_slice
    piece = largest_piece(lesion.region.on_slice(z))
    area_mm2 = float(piece.sum()) * math.prod(source.geometry.pixel_spacing_mm)
    return hd.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(
            lesion_tracking_uid(context, lesion.number), tracking_id(lesion.number)
        ),
        referenced_region=hd.ImageRegion(hd.GraphicTypeValues.POLYLINE, outline(piece), _region_image(source, z)),
        finding_type=_finding(context, lesion),
        algorithm_id=_algorithm(context),
        finding_sites=[_site(lesion)],
        measurements=[hd.Measurement(coded("area"), round(area_mm2, 1), coded("square_millimeter"))],
    )


def _finding(context: ResultContext, lesion: Lesion) -> CodedConcept:
    """The subtype's code where the subtype is known and has one, else hemorrhage as such."""
    return coded(SUBTYPE_FINDINGS.get(lesion.subtype, context.finding) if lesion.subtype else context.finding)


def _site(lesion: Lesion) -> hd.FindingSite:
    """Laterality has codes for left and right only (CID 244); a lesion of the midline has none."""
    return hd.FindingSite(
        coded("intracranial"), laterality=coded(lesion.side) if lesion.side is not Side.MIDLINE else None
    )


def _algorithm(context: ResultContext) -> hd.AlgorithmIdentification:
    return hd.AlgorithmIdentification(
        name=context.bundle.name, version=context.bundle.version, parameters=[context.operating_points.as_text()]
    )
