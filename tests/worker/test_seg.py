import gzip
import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from ml.prediction import Prediction, Region
from tests.peers.dicom3tools import dcentvfy, dciodvfy
from tests.peers.presence import program
from tests.real_heads import ge_files
from tests.worker.conftest import BUNDLE, CONTEXT, SEG_FORM, Exam, raw_element
from worker.results.errors import ResultInvalid
from worker.results.files import encode, save
from worker.results.masks import read_mask, read_segments
from worker.results.uids import derive_uid

MakeExam = Callable[..., Exam]
GEOMETRIES: dict[str, dict[str, Any]] = {
    "axial": {},
    "tilted": {"tilt_degrees": 18.0},
    "reversed": {"reverse": True},
    "oblong pixels": {"pixel_spacing": (3.0, 5.5)},
    "uneven": {"spacing_mm": [4.0, 4.0, 4.0, 4.0, 7.0, 7.0, 7.0, 7.0]},
    "uneven and tilted": {"spacing_mm": [4.0] * 4 + [7.0] * 4, "tilt_degrees": -18.5},
    "odd frame size": {"rows": 47, "columns": 41},
}


def assert_voxels(seg: Dataset, exam: Exam) -> None:
    """Compares read-back and prediction by SOP Instance UID."""
    found = read_mask(seg)
    for z, uid in enumerate(exam.volume.geometry.sop_instance_uids):
        expected = exam.prediction.mask[z]
        np.testing.assert_array_equal(found.get(uid, np.zeros_like(expected)), expected)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_the_mask_read_back_is_the_prediction_on_every_slice(make_exam: MakeExam, geometry: dict[str, Any]) -> None:
    """Voxel by voxel, by two readers: our own and highdicom's."""
    exam = make_exam(**geometry)
    seg = exam.seg()
    assert_voxels(seg, exam)
    reader = highdicom.seg.Segmentation.from_dataset(seg)
    pixels = reader.get_pixels_by_source_instance(
        exam.volume.geometry.sop_instance_uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels.any(axis=-1), exam.prediction.mask)


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_dciodvfy_finds_no_error(make_exam: MakeExam, geometry: dict[str, Any]) -> None:
    """An independent validator, for every geometry."""
    verdict = dciodvfy(make_exam(**geometry).seg())
    assert not verdict.errors, verdict.output
    assert all("DICOMDIR" in w or "DeviceUID" in w for w in verdict.warnings), verdict.output


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_sees_a_broken_segmentation(make_exam: MakeExam) -> None:
    """Negative control of the test above."""
    seg = make_exam().seg()
    del seg.SegmentSequence[0].SegmentAlgorithmName
    assert dciodvfy(seg).errors


def test_each_lesion_has_its_own_segment_and_tracking_uid(make_exam: MakeExam) -> None:
    """A reader can switch lesions on and off; the SR points at them one by one."""
    exam = make_exam()
    seg = exam.seg()
    assert [(s.SegmentNumber, s.TrackingID) for s in seg.SegmentSequence] == [(1, "ICH 1"), (2, "ICH 2")]
    one, other = (f"{lesion.volume_ml:.1f} mL" for lesion in exam.lesions)
    labels = [s.SegmentLabel for s in seg.SegmentSequence]
    assert labels == [f"Hemorrhage 1, right, {one}", f"Hemorrhage 2, left, {other}"]
    assert len({s.TrackingUID for s in seg.SegmentSequence}) == 2
    segments = read_segments(seg)
    for lesion in exam.lesions:
        for z, uid in enumerate(exam.volume.geometry.sop_instance_uids):
            mask = segments[lesion.number].get(uid, np.zeros(exam.volume.hu.shape[1:], bool))
            np.testing.assert_array_equal(mask, lesion.region.mask[z])


def test_frames_lie_where_their_slices_lie(make_exam: MakeExam) -> None:
    """Tilted: each frame carries its own slice's position, nothing is straightened."""
    exam = make_exam(tilt_degrees=18.0)
    seg = exam.seg()
    positions = {str(h.SOPInstanceUID): list(h.ImagePositionPatient) for h in exam.source.headers}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == pytest.approx(positions[uid], abs=1e-4)
    assert seg.FrameOfReferenceUID == exam.source.headers[0].FrameOfReferenceUID


@pytest.mark.parametrize("lesion_count", [1, 2])
def test_the_attributes_that_a_pacs_looks_for(make_exam: MakeExam, lesion_count: int) -> None:
    """Research flag, device, algorithm, series, times; one segment or two."""
    exam = make_exam()
    if lesion_count == 1:
        kept = exam.lesions[:1]
        exam = replace(exam, lesions=kept, prediction=replace_mask(exam.prediction, kept[0].region.mask))
    seg = exam.seg()
    assert seg.SegmentationType == "BINARY"
    assert seg.ContentQualification == "RESEARCH"
    assert (seg.SeriesNumber, seg.Modality, seg.BodyPartExamined) == (9001, "SEG", "HEAD")
    assert seg.DeviceUID == BUNDLE.device_uid
    assert (seg.SeriesDate, seg.SeriesTime, seg.TimezoneOffsetFromUTC) == ("20260304", "050607", "+0000")
    assert [i.PurposeOfReferenceCodeSequence[0].CodeValue for i in seg.ContributingEquipmentSequence] == [
        "109101",
        "109102",
    ]
    for segment in seg.SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (BUNDLE.name, BUNDLE.version)
        assert segment.AnatomicRegionSequence[0].CodeValue == "1101003"
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "50960005"


def replace_mask(prediction: Prediction, mask: Any) -> Prediction:
    """The prediction with another mask."""
    return replace(prediction, mask=mask)


@pytest.mark.peer("dicom3tools")
def test_a_negative_exam_gives_an_empty_segmentation_on_every_slice(make_exam: MakeExam) -> None:
    """Every analysed study has its SEG, and it says which slices were read."""
    exam = make_exam(positive=False)
    seg = exam.seg()
    masks = read_mask(seg)
    assert set(masks) == set(exam.volume.geometry.sop_instance_uids)
    assert not any(mask.any() for mask in masks.values())
    assert "TrackingUID" not in seg.SegmentSequence[0]
    assert not dciodvfy(seg).errors


def test_empty_frames_are_written_where_a_destination_wants_them(make_exam: MakeExam) -> None:
    """A frame of every slice for each lesion; else of those alone that show it."""
    exam = make_exam()
    frames = [int(exam.write(replace(SEG_FORM, empty_frames=empty)).NumberOfFrames) for empty in (True, False)]
    shown = sum(int(lesion.region.mask.any(axis=(1, 2)).sum()) for lesion in exam.lesions)
    assert frames == [2 * len(exam.source.headers), shown]


def test_the_headers_of_the_source_are_left_as_they_were(make_exam: MakeExam) -> None:
    """They are written again in no other object, and read by the gate."""
    exam = make_exam(missing=["SliceThickness"])
    before = [encode(header) for header in exam.source.headers]
    exam.sr(exam.seg())
    assert [encode(header) for header in exam.source.headers] == before


def test_equal_inputs_give_equal_bytes(make_exam: MakeExam) -> None:
    """A retry writes the same object under the same UID."""
    exam = make_exam()
    assert encode(exam.seg()) == encode(exam.seg())


def test_another_input_setting_or_bundle_gives_another_object(make_exam: MakeExam) -> None:
    """UIDs hang on the input, the settings and the bundle, and on nothing else."""
    exam = make_exam()
    contexts = (
        CONTEXT,
        replace(CONTEXT, input_digest="33" * 32),
        replace(CONTEXT, config_digest="33" * 32),
        replace(CONTEXT, bundle=replace(BUNDLE, digest="33" * 32)),
    )
    results = [replace(exam, context=context).seg() for context in contexts]
    assert len({seg.SOPInstanceUID for seg in results}) == 4
    assert len({seg.SeriesInstanceUID for seg in results}) == 4
    assert len({seg.SegmentSequence[0].TrackingUID for seg in results}) == 4


def test_derived_uids_are_valid_uuids() -> None:
    """2.25 is followed by a UUID as an integer (PS3.5 B.2), here of version 8."""
    for number in range(50):
        uid = derive_uid("test", str(number))
        bits = int(uid.removeprefix("2.25."))
        assert UID(uid).is_valid
        assert (bits >> 76 & 0xF, bits >> 62 & 0x3) == (8, 2)
    assert derive_uid("a", "bc") != derive_uid("ab", "c")


def test_a_uid_stays_what_it_was() -> None:
    """Another one for the same input would leave a PACS with the result twice after an update."""
    assert derive_uid("frame of reference", "1.2.3") == "2.25.16887771134444950132860615057738524255"


@pytest.mark.peer("dicom3tools")
def test_a_source_without_frame_of_reference_gets_one_that_stays(make_exam: MakeExam) -> None:
    """The same for every result of the series, another for another series."""
    exam = make_exam(missing=["FrameOfReferenceUID"])
    seg = exam.seg()
    assert UID(seg.FrameOfReferenceUID).is_valid
    again = replace(exam, context=replace(CONTEXT, config_digest="5")).seg()
    assert again.FrameOfReferenceUID == seg.FrameOfReferenceUID
    assert make_exam(missing=["FrameOfReferenceUID"]).seg().FrameOfReferenceUID != seg.FrameOfReferenceUID
    assert not dciodvfy(seg).errors


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize(
    "missing",
    [
        ["StudyDate", "StudyTime"],
        ["PatientID"],
        ["InstanceNumber"],
        ["SliceThickness"],
        ["Manufacturer"],
        ["PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "ReferringPhysicianName"],
    ],
    ids=lambda missing: missing[0],
)
def test_missing_attributes_of_the_source_are_no_obstacle(make_exam: MakeExam, missing: list[str]) -> None:
    """Type 2 attributes may be empty or not there; the results are valid all the same."""
    exam = make_exam(missing=missing)
    seg = exam.seg()
    assert not dciodvfy(seg).errors, dciodvfy(seg).output
    assert not dciodvfy(exam.sr(seg)).errors
    assert_voxels(seg, exam)


def test_empty_attributes_of_the_source_are_no_obstacle(make_exam: MakeExam) -> None:
    """An attribute without a value says no more than one that is not there, of whatever type it is."""
    names = ("LossyImageCompression", "PositionReferenceIndicator", "SliceThickness", "FrameOfReferenceUID")
    exam = make_exam(extra=dict.fromkeys(names, ""))
    seg = exam.seg()
    assert seg.LossyImageCompression == "00"
    exam.check(seg, exam.sr(seg))


@pytest.mark.parametrize("value", [b"5\\5 ", b"-5", b"0 ", b"nan "])
def test_a_thickness_that_is_none_is_no_obstacle(make_exam: MakeExam, value: bytes) -> None:
    """The volume is read without it; the distance of slices stands in, as where there is no thickness."""
    exam = make_exam(spacing_mm=4.0)
    for header in exam.source.headers:
        header[0x00180050] = raw_element(0x00180050, "DS", value)
    seg = exam.seg()
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 4.0
    exam.check(seg, exam.sr(seg))


def test_an_orientation_of_few_digits_is_kept(make_exam: MakeExam) -> None:
    """0.96 and -0.27 have a length of 0.997: near enough for the volume reader, which makes unit vectors of them."""
    exam = make_exam(tilt_degrees=15.7, extra={"ImageOrientationPatient": [1, 0, 0, 0, 0.96, -0.27]})
    column = np.array([0.0, 0.96, -0.27]) / np.hypot(0.96, 0.27)
    geometry = replace(exam.volume.geometry, column_lps=column)
    exam = replace(exam, source=replace(exam.source, geometry=geometry), volume=replace(exam.volume, geometry=geometry))
    seg = exam.seg()
    orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    assert orientation == exam.header.ImageOrientationPatient
    exam.check(seg, exam.sr(seg))


@pytest.mark.parametrize("fault", ["lost", "in another order", "over one another"])
def test_lesions_that_are_not_the_mask_are_refused(make_exam: MakeExam, fault: str) -> None:
    """A lesion that was lost or changed its number on the way must not go unnoticed, nor a voxel of two lesions."""
    exam = make_exam()
    one, other = exam.lesions
    both = Region.of(one.region.mask | other.region.mask)
    lesions = {"lost": (one,), "in another order": (other, one), "over one another": (one, replace(other, region=both))}
    with pytest.raises(ResultInvalid) as caught:
        replace(exam, lesions=lesions[fault]).seg()
    assert caught.value.code == "SEG_LESIONS"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("+0530", ("+0530", "20260304", "103607")),
        ("-0830", ("-0830", "20260303", "203607")),
        ("", ("+0100", "20260304", "060607")),
        ("CET", ("+0100", "20260304", "060607")),
        ("+9900", ("+0100", "20260304", "060607")),
    ],
)
def test_the_zone_of_the_source_holds_for_the_result(
    make_exam: MakeExam, told: str, expected: tuple[str, str, str]
) -> None:
    """One offset holds for all times of an object, the copied StudyTime too; else that of the settings."""
    context = replace(CONTEXT, local_zone=timezone(timedelta(hours=1)))
    seg = replace(make_exam(extra={"TimezoneOffsetFromUTC": told}), context=context).seg()
    assert (seg.TimezoneOffsetFromUTC, seg.SeriesDate, seg.SeriesTime) == expected
    assert (seg.ContentDate, seg.ContentTime) == expected[1:]
    made_at = seg.ContributingEquipmentSequence[-1].ContributionDateTime
    assert datetime.strptime(str(made_at), "%Y%m%d%H%M%S%z") == CONTEXT.created_at


def test_save_writes_the_bytes_it_names_and_leaves_nothing_else(make_exam: MakeExam, tmp_path: Path) -> None:
    """The SHA-256 goes into a row; a half-written file never has the final name."""
    path = tmp_path / "new" / "seg.dcm"
    digest = save(make_exam().seg(), path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert list(path.parent.iterdir()) == [path]
    assert dcmread(path).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


@pytest.mark.peer("dicom3tools")
def test_a_real_tilted_head_gives_valid_objects(real_exam: Exam, tmp_path: Path) -> None:
    """GE, 18.5 degrees of tilt, 4 then 7 mm; the source itself is not valid everywhere."""
    seg = real_exam.seg()
    sr = real_exam.sr(seg)
    assert_voxels(seg, real_exam)
    assert not dciodvfy(seg).errors, dciodvfy(seg).output
    assert not dciodvfy(sr).errors, dciodvfy(sr).output
    save(seg, tmp_path / "seg.dcm")
    save(sr, tmp_path / "sr.dcm")
    verdict = dcentvfy([*ge_files(), tmp_path / "seg.dcm", tmp_path / "sr.dcm"])
    assert not verdict.errors, verdict.output


@pytest.mark.peer("dcmqi")
def test_dcmqi_reads_the_same_voxels(make_exam: MakeExam, tmp_path: Path) -> None:
    """A reader of another code base (C++, DCMTK) agrees in patient space."""
    exam = make_exam()
    convert(exam.seg(), tmp_path)
    labels, origin_lps = read_nrrd(tmp_path / "1.nrrd")
    first = int(np.abs(exam.volume.geometry.positions_lps - origin_lps).sum(axis=1).argmin())
    np.testing.assert_allclose(exam.volume.geometry.positions_lps[first], origin_lps, atol=0.01)
    expected = sum(lesion.number * lesion.region.mask.astype(int) for lesion in exam.lesions)
    np.testing.assert_array_equal(labels, np.asarray(expected)[first : first + len(labels)])
    assert np.count_nonzero(labels) == exam.prediction.mask.sum()


@pytest.mark.peer("dcmqi")
def test_dcmqi_makes_no_image_of_a_tilted_stack(make_exam: MakeExam, tmp_path: Path) -> None:
    """What the README says of dcmqi 1.5.7: its image is a box along the normal, so it writes none, and ends with 0."""
    convert(make_exam(tilt_degrees=18.0).seg(), tmp_path)
    assert not list(tmp_path.glob("*.nrrd"))


def convert(seg: Dataset, folder: Path) -> None:
    """Has dcmqi write the segments as one image in the folder."""
    save(seg, folder / "seg.dcm")
    command = [str(program("segimage2itkimage")), "--inputDICOM", "seg.dcm", "--outputDirectory", ".", "-t", "nrrd"]
    subprocess.run([*command, "--mergeSegments"], cwd=folder, check=True, capture_output=True)


def read_nrrd(path: Path) -> tuple[Any, Any]:
    """(z, y, x) labels and the origin of an uncompressed or gzip NRRD as dcmqi writes it (LPS)."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    assert fields["space"] == "left-posterior-superior"
    data = gzip.decompress(body) if fields["encoding"] == "gzip" else body
    kinds = {"unsigned char": np.uint8, "short": np.int16, "unsigned short": np.uint16}
    array = np.frombuffer(data, kinds[fields["type"]]).reshape([int(n) for n in fields["sizes"].split()][::-1])
    return array, np.array([float(v) for v in fields["space origin"].strip("()").split(",")])
