"""The gate: nothing leaves the worker that one of these checks finds wrong. Raises ResultInvalid, or says nothing.

Every check reads the object back from its own bytes, as a PACS would. No validator sees wrong geometry (a reversed or
mirrored mask passes them all), so positions and voxels are compared with the source slice by slice, by
SOP Instance UID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.uid import UID

from dicom_node.result_forms import FormName
from dicom_node.states import ResultKind
from ml.prediction import Side
from worker.results.codes import coded
from worker.results.context import RESEARCH_NOTICE
from worker.results.errors import ResultInvalid
from worker.results.files import through_bytes
from worker.results.identity import character_set, identity_difference
from worker.results.kos import key_slices
from worker.results.masks import frame_sources, read_frames, read_mask, read_segments
from worker.results.module_tables import missing_attributes
from worker.results.outlines import fill, largest_piece
from worker.results.pages import BANNER_PX, MOST_KEY_PAGES, SIZE_PX, draw_banner
from worker.results.pdf import page_texts
from worker.results.report_tree import (
    ReportedLesion,
    ReportedRegion,
    concept,
    referenced_instances,
    report_problem,
    reported_lesions,
    reported_regions,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydicom import Dataset

    from dicom_node.result_forms import Form
    from ml.volume import MaskArray
    from worker.results.exam import AnalysedExam
    from worker.results.source import SourceExam

POSITION_TOLERANCE_MM = 0.01
"""Above the rounding of DS (16 characters), far below any slice spacing or pixel."""
COSINE_TOLERANCE = 1e-4
VOLUME_TOLERANCE_ML = 0.01
"""The SR gives volumes to 0.001 mL."""


def check_form(form: Form, datasets: Sequence[Dataset], exam: AnalysedExam, *, beside: Sequence[Dataset] = ()) -> None:
    """What `write_form` gave, against the exam, what was asked for, and the objects `beside` it."""
    if form.kind is ResultKind.SR:
        seg = next((one for one in beside if one.Modality == "SEG"), None)
        for ds in datasets:
            check_sr(ds, exam, form=form, seg=seg)
        return
    expected = {ResultKind.KOS: 1 if exam.lesions else 0, ResultKind.SC: 1 + min(len(key_slices(exam)), MOST_KEY_PAGES)}
    count = expected.get(form.kind, 1)
    _require(len(datasets) == count, "RESULT_COUNT", f"{len(datasets)} objects of form {form.name}, not {count}")
    for ds in datasets:
        if form.kind is ResultKind.SEG:
            check_seg(ds, exam, form=form)
        elif form.kind is ResultKind.KOS:
            check_kos(ds, exam, form=form)
        else:
            check_document(ds, exam.source.headers, form=form)


def check_kos(kos: Dataset, exam: AnalysedExam, *, form: Form) -> None:
    """Identity, attributes, and the key slices of all lesions, all of them and no other image."""
    kos = through_bytes(kos)
    _check_common(kos, exam.source.headers, form)
    title = concept(kos)
    _require(title == coded("key_images").value, "KOS_CONTENT", f"the title is {title}")
    expected = {exam.source.geometry.sop_instance_uids[z] for z in key_slices(exam)}
    same = set(referenced_instances(kos)) == set(_evidence(kos)) == expected
    _require(same, "KOS_REFERENCE", "the selected images are not the key slices")


def check_document(ds: Dataset, headers: Sequence[Dataset], *, form: Form) -> None:
    """A page or a PDF: identity, attributes, a whole file, and the research banner where a reader cannot miss it."""
    ds = through_bytes(ds)
    _check_common(ds, headers, form)
    _require(ds.get("ConversionType") == "WSD", "RESULT_ATTRIBUTES", "Conversion Type is not WSD")
    _require(ds.get("BurnedInAnnotation") == "NO", "RESULT_ATTRIBUTES", "Burned In Annotation is not NO")
    if form.kind is ResultKind.SC:
        _check_page(ds)
    else:
        _check_pdf(ds)


def _check_page(ds: Dataset) -> None:
    _require((ds.Columns, ds.Rows) == SIZE_PX and ds.PhotometricInterpretation == "RGB", "SC_PAGE", "no page of ours")
    whole = ds.file_meta.TransferSyntaxUID.is_compressed or len(ds.PixelData) == ds.Rows * ds.Columns * 3
    _require(whole, "SC_PAGE", "the pixel data is not one page")
    pixels, banner = ds.pixel_array, np.asarray(draw_banner(ds.Columns))
    shown = all(np.array_equal(bar, banner) for bar in (pixels[:BANNER_PX], pixels[-BANNER_PX:]))
    _require(shown, "SC_BANNER", "a page lacks the research banner")


def _check_pdf(ds: Dataset) -> None:
    _require(ds.MIMETypeOfEncapsulatedDocument == "application/pdf", "PDF_DOCUMENT", "the document is no PDF")
    length = int(ds.EncapsulatedDocumentLength)
    document, padding = ds.EncapsulatedDocument[:length], ds.EncapsulatedDocument[length:]
    whole = document.startswith(b"%PDF-") and document.rstrip().endswith(b"%%EOF") and padding in (b"", b"\0")
    _require(whole, "PDF_DOCUMENT", "the document is not a whole PDF")
    pages = page_texts(document)
    notice = RESEARCH_NOTICE.encode()
    _require(pages and all(page.count(notice) >= 2 for page in pages), "PDF_BANNER", "a page lacks the research banner")


def check_seg(seg: Dataset, exam: AnalysedExam, *, form: Form) -> None:
    """Identity, attributes, UIDs, references, geometry of each frame, and each voxel of each lesion."""
    seg = through_bytes(seg)
    source, lesions = exam.source, exam.lesions
    _check_common(seg, source.headers, form)
    _check_frames(seg, source)
    _check_voxels(read_mask(seg), exam.prediction.mask, source, "the mask of the prediction")
    segments = read_segments(seg)
    expected = [lesion.number for lesion in lesions] or [1]
    if lesions or form.name is not FormName.SEG_LABELMAP:
        _require(list(segments) == expected, "SEG_SEGMENTS", f"segments {list(segments)} for lesions {expected}")
    for lesion in lesions:
        _check_voxels(segments[lesion.number], lesion.region.mask, source, f"lesion {lesion.number}")
    if form.name is FormName.SEG_FRACTIONAL:
        _check_probabilities(seg, exam)


def check_sr(sr: Dataset, exam: AnalysedExam, *, form: Form, seg: Dataset | None) -> None:
    """Identity, attributes, UIDs, references, and per lesion: segment, tracking UID and volume as in the SEG."""
    source, lesions = exam.source, exam.lesions
    _require(seg or not lesions, "SR_WITHOUT_SEG", "there is no segmentation that the report could point at")
    sr = through_bytes(sr)
    _check_report(sr, source.headers, form)
    known = {*source.geometry.sop_instance_uids, *([str(seg.SOPInstanceUID)] if seg else [])}
    strangers = set(referenced_instances(sr)) - known
    _require(not strangers, "SR_REFERENCE", f"the report refers to {len(strangers)} instances of other series")
    evidence = set(_evidence(sr))
    _require(evidence == known, "SR_EVIDENCE", "the evidence is not the source slices and the segmentation")
    reported = reported_lesions(sr)
    _require(len(reported) == len(lesions), "SR_LESIONS", f"{len(reported)} lesion groups for {len(lesions)} lesions")
    if seg:
        _check_lesions(reported, through_bytes(seg), exam)
    if form.planar_regions:
        _check_regions(reported_regions(sr), exam)


def _check_lesions(reported: Sequence[ReportedLesion], seg: Dataset, exam: AnalysedExam) -> None:
    segments, source = read_segments(seg), exam.source
    for group, lesion in zip(reported, exam.lesions, strict=True):
        _check_reported(group, seg, _counted_ml(segments.get(group.segment_number, {}), source))
        side = "" if lesion.side is Side.MIDLINE else str(coded(lesion.side).value)
        _require(group.laterality == side, "SR_SIDE", f"lesion {lesion.number} is {lesion.side}, the report differs")


def check_rejection(form: Form, datasets: Sequence[Dataset], header: Dataset) -> None:
    """What `write_rejection` gave: it must be valid, of that study, and make no finding."""
    if form.kind in {ResultKind.SC, ResultKind.PDF}:
        for ds in datasets:
            check_document(ds, [header], form=form)
        return
    for sr in map(through_bytes, datasets):
        _check_report(sr, [header], form)
        strangers = {*referenced_instances(sr), *_evidence(sr)} - {str(header.get("SOPInstanceUID"))}
        _require(not strangers, "SR_REFERENCE", "the report refers to instances that are not of the study")
        _require(not reported_lesions(sr), "SR_LESIONS", "a report of a rejected study must not name lesions")


def _require(condition: object, code: str, sentence: str) -> None:
    if not condition:
        raise ResultInvalid(code, sentence)


def _check_common(ds: Dataset, headers: Sequence[Dataset], form: Form) -> None:
    _require(ds.SOPClassUID == form.sop_class_uid, "RESULT_FORM", f"the object is not of the SOP class of {form.name}")
    syntax = ds.file_meta.TransferSyntaxUID
    _require(syntax == form.transfer_syntax, "RESULT_FORM", f"the transfer syntax is {syntax}")
    different = identity_difference(headers[0], ds)
    _require(different is None, "RESULT_IDENTITY", f"{different} is not the source's")
    missing = missing_attributes(ds)
    _require(not missing, "RESULT_ATTRIBUTES", f"required attributes are missing: {', '.join(missing[:5])}")
    charset = character_set(ds)
    kept = not form.utf_8 and charset == character_set(headers[0])
    _require(kept or charset == "ISO_IR 192", "RESULT_CHARSET", "the character set is not the one that was asked for")
    theirs = {value for header in headers for value in _uids(header)}
    bad = [value for value in _uids(ds) if value not in theirs and not UID(value).is_valid]
    _require(not bad, "RESULT_UID", f"{len(bad)} UIDs are not valid")
    _require(ds.SOPInstanceUID not in theirs, "RESULT_UID", "the result carries a UID of the source")
    _require(ds.get("ContentQualification"), "RESULT_ATTRIBUTES", "ContentQualification is missing")


def _uids(ds: Dataset) -> Iterator[str]:
    """All UIDs of a dataset and its sequences; texts are not decoded on the way."""
    for unread in ds.elements():
        vr = unread.VR or (dictionary_VR(unread.tag) if dictionary_has_tag(unread.tag) else "UN")
        if vr == "SQ":
            for item in ds[unread.tag].value:
                yield from _uids(item)
        elif vr == "UI" and unread.value:
            element = ds[unread.tag]
            yield from [str(value) for value in element.value] if element.VM > 1 else [str(element.value)]


def _check_frames(seg: Dataset, source: SourceExam) -> None:
    """Each frame lies where its slice lies (PS3.3 C.7.6.16.2), on the grid and in the frame of reference of it."""
    geometry = source.geometry
    shared = seg.SharedFunctionalGroupsSequence[0]
    _require(seg.FrameOfReferenceUID == source.frame_of_reference_uid, "SEG_GEOMETRY", "another frame of reference")
    frames = seg.PerFrameFunctionalGroupsSequence
    _require(len(frames) == seg.NumberOfFrames, "SEG_FRAMES", "NumberOfFrames is not the number of frames")
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    _close(spacing, geometry.pixel_spacing_mm, POSITION_TOLERANCE_MM, "pixel spacing")
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    # With the header and not the geometry, whose vectors have unit length: few digits of a tilt do not.
    _close(orientation, source.headers[0].ImageOrientationPatient, COSINE_TOLERANCE, "orientation")
    z_by_uid = {uid: z for z, uid in enumerate(geometry.sop_instance_uids)}
    for frame, (_, uid) in zip(frames, frame_sources(seg), strict=True):
        _require(uid in z_by_uid, "SEG_REFERENCE", "a frame refers to an instance that is not a slice of the source")
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        _close(position, geometry.positions_lps[z_by_uid[uid]], POSITION_TOLERANCE_MM, f"position on {uid}")
    instances = [item for series in seg.ReferencedSeriesSequence for item in series.ReferencedInstanceSequence]
    referenced = {str(item.ReferencedSOPInstanceUID) for item in instances}
    _require(referenced == set(z_by_uid), "SEG_REFERENCE", "the referenced instances are not the slices of the source")


def _close(found: Iterable[float], expected: Iterable[float], tolerance: float, what: str) -> None:
    same = np.allclose([float(v) for v in found], [float(v) for v in expected], rtol=0.0, atol=tolerance)
    _require(same, "SEG_GEOMETRY", f"the {what} is not the source's")


def _check_voxels(found: dict[str, MaskArray], expected: MaskArray, source: SourceExam, what: str) -> None:
    """Voxel by voxel and slice by slice; a slice without a frame counts as empty."""
    for z, uid in enumerate(source.geometry.sop_instance_uids):
        mask = found.get(uid)
        same = not expected[z].any() if mask is None else np.array_equal(mask, expected[z])
        _require(same, "SEG_VOXELS", f"read back on slice {uid} the segmentation is not {what}")


def _check_probabilities(seg: Dataset, exam: AnalysedExam) -> None:
    """Each stored value is the probability of its voxel, to half a step."""
    z_by_uid = {uid: z for z, uid in enumerate(exam.source.geometry.sop_instance_uids)}
    for (number, uid), frame in zip(frame_sources(seg), read_frames(seg), strict=True):
        prob = np.where(frame > 0, exam.prediction.prob[z_by_uid[uid]], 0)
        step = 1.0 if (frame == 1).any() else 0.51  # a probability that rounds to 0 was lifted to the first step
        close = np.abs(frame - prob * int(seg.MaximumFractionalValue)) <= step
        _require(close.all(), "SEG_VOXELS", f"segment {number} on slice {uid} has other probabilities")


def _check_report(sr: Dataset, headers: Sequence[Dataset], form: Form) -> None:
    _check_common(sr, headers, form)
    problem = report_problem(sr)
    _require(problem is None, "SR_CONTENT", str(problem))


def _evidence(sr: Dataset) -> Iterator[str]:
    for study in sr.get("CurrentRequestedProcedureEvidenceSequence") or []:
        for series in study.ReferencedSeriesSequence:
            yield from (str(item.ReferencedSOPInstanceUID) for item in series.ReferencedSOPSequence)


def _counted_ml(masks: dict[str, MaskArray], source: SourceExam) -> float:
    """The volume counted again from the SEG's own voxels: slice heights along the normal, not table steps."""
    voxel_ml = dict(zip(source.geometry.sop_instance_uids, source.geometry.voxel_volumes_ml, strict=True))
    return sum(float(mask.sum() * voxel_ml[uid]) for uid, mask in masks.items())


def _check_regions(regions: Sequence[ReportedRegion], exam: AnalysedExam) -> None:
    """Each line, filled, is the lesion's largest piece on its key slice, to the pixel."""
    _require(len(regions) == len(exam.lesions), "SR_REGION", f"{len(regions)} lines for {len(exam.lesions)} lesions")
    uids = exam.source.geometry.sop_instance_uids
    for region, lesion in zip(regions, exam.lesions, strict=True):
        z = lesion.key_slice
        _require(region.sop_instance_uid == uids[z], "SR_REGION", f"the line of lesion {lesion.number} is elsewhere")
        piece = largest_piece(lesion.region.on_slice(z))
        same = (region.line[0] == region.line[-1]).all() and np.array_equal(fill(region.line, piece.shape), piece)
        _require(same, "SR_REGION", f"the line of lesion {lesion.number} is not its outline")


def _check_reported(group: ReportedLesion, seg: Dataset, counted_ml: float) -> None:
    described = {int(s.SegmentNumber): s for s in seg.SegmentSequence}
    _require(
        group.segment_number in described and group.sop_instance_uid == seg.SOPInstanceUID,
        "SR_REFERENCE",
        f"segment {group.segment_number} is not in the segmentation",
    )
    segment = described[group.segment_number]
    _require(group.tracking_uid == segment.TrackingUID, "SR_TRACKING", "a tracking UID differs from the segment's")
    _require(group.tracking_id == segment.TrackingID, "SR_TRACKING", "a tracking identifier differs from the segment's")
    _require(
        abs(counted_ml - group.volume_ml) <= VOLUME_TOLERANCE_ML,
        "SR_VOLUME",
        f"lesion {group.segment_number}: {group.volume_ml:.3f} mL reported, {counted_ml:.3f} mL in the segmentation",
    )
