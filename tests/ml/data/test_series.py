"""What becomes a volume, and what is refused with which code."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from ml.data import series
from ml.data.headers import SliceHeader, read_headers
from ml.data.refusals import SENTENCES
from ml.data.series import read_intact, read_volume
from ml.errors import UnreadableStudy
from ml.volume import Volume
from tests.ml.data.conftest import WriteSeries, head_hu
from tests.ml.data.disk import fail_to_read
from tests.real_heads import ge_head

Change = Callable[[int, Dataset], None]


def refusal_code(paths: list[Path]) -> str:
    """The code with which a set of files is refused."""
    with pytest.raises(UnreadableStudy) as refused:
        read_volume(paths)
    assert refused.value.code in SENTENCES
    assert "{" not in str(refused.value)
    return refused.value.code


def test_slices_are_ordered_by_position_whatever_the_order_of_files(write_series: WriteSeries) -> None:
    """HU, positions and SOP Instance UIDs stay together."""
    paths = write_series()
    volume = read_volume([paths[index] for index in (3, 0, 9, 1, 2, 8, 4, 7, 5, 6)])
    assert np.array_equal(volume.hu, [head_hu(z) for z in range(10)])
    assert volume.hu.dtype == np.float32
    assert volume.geometry.offsets_mm.tolist() == list(range(0, 50, 5))
    assert [uid.rsplit(".", 1)[1] for uid in volume.geometry.sop_instance_uids] == [str(z + 1) for z in range(10)]
    assert volume.geometry.pixel_spacing_mm == (3.5, 3.5)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless]
)
def test_every_lossless_encoding_gives_the_same_volume(write_series: WriteSeries, syntax: UID) -> None:
    """Bytes on disk differ, HU do not."""

    def encode(_: int, ds: Dataset) -> None:
        if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
            ds.compress(syntax, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = syntax

    assert np.array_equal(read_volume(write_series(change=encode)).hu, [head_hu(z) for z in range(10)])


def test_frame_of_reference_and_instance_number_may_be_missing(write_series: WriteSeries) -> None:
    """Type 2 and even missing type 1 attributes that the volume does not need."""

    def strip(_: int, ds: Dataset) -> None:
        del ds.FrameOfReferenceUID
        ds.PatientID = ""

    assert read_volume(write_series(change=strip)).geometry.frame_of_reference_uid is None


@pytest.mark.parametrize("degrees", [17.0, 30.0])
def test_a_tilted_gantry_keeps_its_geometry(write_series: WriteSeries, degrees: float) -> None:
    """Spacing is measured along the normal; nothing is resampled."""
    angle = np.radians(degrees)
    tilt = put_all("ImageOrientationPatient", [1, 0, 0, 0, float(np.cos(angle)), float(-np.sin(angle))])
    geometry = read_volume(write_series(change=tilt)).geometry
    assert geometry.tilt_degrees == pytest.approx(degrees, abs=1e-3)
    assert np.diff(geometry.offsets_mm) == pytest.approx(5 * np.cos(angle))


def test_directions_of_few_digits_are_made_unit_vectors(write_series: WriteSeries) -> None:
    """0.96 and 0.27 have a length of 0.997: lengths and volumes must not shrink with them."""
    turned = put_all("ImageOrientationPatient", [0.96, 0.27, 0, -0.27, 0.96, 0])
    geometry = read_volume(write_series(change=turned)).geometry
    assert np.linalg.norm([geometry.row_lps, geometry.column_lps], axis=1) == pytest.approx([1.0, 1.0], abs=1e-12)
    assert np.diff(geometry.offsets_mm) == pytest.approx(5)


def test_slices_may_be_seen_from_above(write_series: WriteSeries) -> None:
    """Columns that run forwards turn the normal to the feet, along which slices are ordered; images go with them."""
    volume = read_volume(write_series(change=put_all("ImageOrientationPatient", [1, 0, 0, 0, -1, 0])))
    assert volume.geometry.positions_lps[:, 2].tolist() == list(range(45, -5, -5))
    assert np.array_equal(volume.hu, [head_hu(z) for z in reversed(range(10))])


def test_oblong_images_of_oblong_pixels_keep_rows_and_columns_apart(write_series: WriteSeries) -> None:
    """Rows, and the distance between them, come first."""

    def cut(z: int, ds: Dataset) -> None:
        ds.Rows, ds.PixelSpacing = 62, [3.5, 3.4]
        ds.PixelData = (head_hu(z)[:62] + 1024).astype(np.uint16).tobytes()

    volume = read_volume(write_series(change=cut))
    assert np.array_equal(volume.hu, [head_hu(z)[:62] for z in range(10)])
    assert volume.geometry.pixel_spacing_mm == (3.5, 3.4)


def test_thin_slices_are_slices_of_their_own(write_series: WriteSeries) -> None:
    """Half a millimetre apart; a thickness of 0 is none."""
    volume = read_volume(write_series(np.arange(0, 10, 0.5).tolist(), thickness_mm=0.0))
    assert len(volume.hu) == 20


def test_identical_images_at_one_position_are_one_slice(write_series: WriteSeries) -> None:
    """A slice sent twice under two UIDs: the lowest SOP Instance UID stays."""

    def same(z: int, ds: Dataset) -> None:
        ds.PixelData = (head_hu(min(z, 8)) + 1024).astype(np.uint16).tobytes()

    paths = write_series([0, 5, 10, 15, 20, 25, 30, 35, 40, 40], change=same)
    volume = read_volume(paths[::-1])
    assert len(volume.hu) == 9
    assert volume.geometry.sop_instance_uids[-1].endswith(".10")


def test_a_real_ge_head_with_tilt_and_two_spacings_reads() -> None:
    """28 slices, 18.5 degrees, 4 then 7 mm, padding -1500, two image types."""
    volume = ge_head()
    assert volume.hu.shape == (28, 512, 512)
    assert volume.hu.min() == -1024
    assert volume.geometry.tilt_degrees == pytest.approx(18.5, abs=0.05)
    steps = np.diff(volume.geometry.offsets_mm)
    assert steps[:13] == pytest.approx(4.0, abs=0.01)
    assert steps[14:] == pytest.approx(7.0, abs=0.01)


@pytest.mark.parametrize("written", [0, -150])
def test_what_was_written_around_a_head_is_air(write_series: WriteSeries, written: int) -> None:
    """Masks and resampling leave 0, without a Pixel Padding Value; the same value within the head stays."""

    def mask(z: int, ds: Dataset) -> None:
        hu = head_hu(z)
        hu[30:34, 30:34] = [-1000, -1000, written, written]
        rows, columns = np.mgrid[:64, :64] - 32
        hu[np.hypot(rows / 1.2, columns) > 26] = written
        ds.PixelData = (hu + 1024).astype(np.uint16).tobytes()

    hu = read_volume(write_series(change=mask)).hu
    assert hu[:, [0, 0, 63, 63, 32], [0, 63, 0, 63, 3]].max() == -1024
    assert hu[:, 31, [31, 33]].tolist() == [[-1000, written]] * 10


def test_a_value_at_the_border_of_a_head_that_is_cut_off_stays(write_series: WriteSeries) -> None:
    """As simulated: 35 in all of the brain, which reaches the right border of two slices."""

    def cut(z: int, ds: Dataset) -> None:
        hu = head_hu(z)
        if z < 2:
            hu[:, 32:] = hu[:, 16:48]
            hu[0, 63] = 35
        ds.PixelData = (hu + 1024).astype(np.uint16).tobytes()

    assert read_volume(write_series(change=cut)).hu[0, 32, 63] == 35


def scout(z: int, ds: Dataset) -> None:
    """The last image."""
    if z == 10:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        ds.PixelSpacing = [1.0, 1.0]


@pytest.mark.parametrize("read", [read_volume, lambda paths: read_intact(paths)[0]], ids=["read", "intact"])
def test_a_scout_among_the_slices_is_left_out(write_series: WriteSeries, read: Callable[[list[Path]], Volume]) -> None:
    """As older scanners put it into their series; the node reads such a series, too."""
    volume = read(write_series([*range(0, 50, 5), 20.0], change=scout))
    assert [uid.rsplit(".", 1)[1] for uid in volume.geometry.sop_instance_uids] == [str(z + 1) for z in range(10)]


def test_a_series_of_localizers_alone_is_refused(write_series: WriteSeries) -> None:
    """For what they are."""
    coronal = put_all("ImageOrientationPatient", [0, 1, 0, 0, 0, -1])

    def localize(z: int, ds: Dataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        coronal(z, ds)

    assert refusal_code(write_series(change=localize)) == "NOT_AXIAL"


def test_images_that_all_lie_in_one_place_have_no_position(write_series: WriteSeries) -> None:
    """Conversions that write the same position into every file; no two acquisitions are mixed."""
    assert refusal_code(write_series([0.0] * 10)) == "POSITION_MISSING"


def remove(keyword: str, *, at: int = 3) -> Change:
    """Deletes an attribute of one image."""

    def change(z: int, ds: Dataset) -> None:
        if z == at:
            delattr(ds, keyword)

    return change


def put(keyword: str, value: object, *, at: int = 3) -> Change:
    """Sets an attribute of one image."""

    def change(z: int, ds: Dataset) -> None:
        if z == at:
            setattr(ds, keyword, value)

    return change


def put_all(keyword: str, value: object) -> Change:
    """Sets an attribute of every image."""
    return lambda _, ds: setattr(ds, keyword, value)


def cut_pixels(z: int, ds: Dataset) -> None:
    """The truncated file of RSNA 2019 in small."""
    if z == 3:
        ds.PixelData = ds.PixelData[:2000]


def cut_jpeg(z: int, ds: Dataset) -> None:
    """A compressed stream that lost its second half."""
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    if z == 3:
        half = bytes(ds.PixelData[16 : len(ds.PixelData) // 2 // 2 * 2])
        ds.PixelData = pydicom.encaps.encapsulate([half])


def magnetic(_: int, ds: Dataset) -> None:
    """An MR image."""
    ds.Modality, ds.SOPClassUID = "MR", MRImageStorage


def boneless(_: int, ds: Dataset) -> None:
    """A water phantom."""
    ds.PixelData = np.minimum(head_hu(0) + 1024, 1100).astype(np.uint16).tobytes()


def open_ribs(_: int, ds: Dataset) -> None:
    """Bone that closes around nothing: a quarter of the ring is missing in every slice."""
    hu = head_hu(0)
    hu[:32, :32] = np.where(hu[:32, :32] == 900, 35, hu[:32, :32])
    ds.PixelData = (hu + 1024).astype(np.uint16).tobytes()


def hollow(_: int, ds: Dataset) -> None:
    """A skull without a brain."""
    hu = head_hu(0)
    ds.PixelData = (np.where(hu == 35, -1000, hu) + 1024).astype(np.uint16).tobytes()


def solid(_: int, ds: Dataset) -> None:
    """Bone around something that is denser than a brain, as in a phantom for training."""
    hu = head_hu(0)
    ds.PixelData = (np.where(hu == 35, 150, hu) + 1024).astype(np.uint16).tobytes()


def limbs(_: int, ds: Dataset) -> None:
    """Two long bones of 50 mm, and what is in them as dense as brain."""
    rows, columns = np.mgrid[:64, :64]
    radius = np.hypot(rows - 32, columns % 32 - 16)
    hu = np.select([radius < 6, radius < 8], [35, 900], -1000)
    ds.PixelData = (hu + 1024).astype(np.uint16).tobytes()


def one_slice_of_brain(z: int, ds: Dataset) -> None:
    """The rest is shoulder and neck."""
    if z != 4:
        limbs(z, ds)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("NOT_CT", magnetic),
        ("NOT_CT", put("Modality", "MR")),
        ("NOT_CT", put_all("SOPClassUID", SecondaryCaptureImageStorage)),
        ("MULTI_FRAME", put_all("SOPClassUID", EnhancedCTImageStorage)),
        ("MULTI_FRAME", put("NumberOfFrames", 4)),
        ("NO_IMAGES", remove("Rows")),
        ("MATRIX_UNUSUAL", put("Rows", 60_000)),
        ("PIXELS_UNDECODABLE", remove("BitsStored")),
        ("UID_MISSING", remove("SOPInstanceUID")),
        ("POSITION_MISSING", remove("ImagePositionPatient")),
        ("POSITION_MISSING", put("ImagePositionPatient", [1.0, 2.0])),
        ("ORIENTATION_MISSING", remove("ImageOrientationPatient")),
        ("ORIENTATION_MISSING", put("ImageOrientationPatient", [1, 0, 0, 1, 0, 0])),
        ("SPACING_MISSING", remove("PixelSpacing")),
        ("SPACING_MISSING", put("PixelSpacing", [0.0, 3.5])),
        ("RESCALE_MISSING", remove("RescaleIntercept")),
        ("RESCALE_MISSING", put("RescaleSlope", 0)),
        ("PIXELS_UNDECODABLE", cut_pixels),
        ("PIXELS_UNDECODABLE", cut_jpeg),
        ("PIXELS_UNDECODABLE", remove("PixelData")),
        ("MIXED_SERIES", put("SeriesInstanceUID", "1.2.3")),
        ("MIXED_PATIENTS", put("PatientID", "someone else")),
        ("MIXED_FRAMES_OF_REFERENCE", put("FrameOfReferenceUID", "1.2.3")),
        ("MIXED_ORIENTATIONS", put("ImageOrientationPatient", [1, 0, 0, 0, 0.99985, 0.01745])),
        ("MIXED_ORIENTATIONS", put("ImageOrientationPatient", [-1, 0, 0, 0, 1, 0])),
        ("MIXED_GEOMETRY", put("PixelSpacing", [3.5, 3.48])),
        ("MIXED_GEOMETRY", put("Rows", 32)),
        ("MIXED_ACQUISITIONS", put("ImagePositionPatient", [-112, -112, 20])),
        ("DUPLICATE_POSITIONS", put("ImagePositionPatient", [-100, -112, 20])),
        ("DUPLICATE_UIDS", put_all("SOPInstanceUID", "1.2.3")),
        ("NOT_AXIAL", put_all("ImageOrientationPatient", [1, 0, 0, 0, 0, -1])),
        ("NOT_AXIAL", put_all("ImageOrientationPatient", [1, 0, 0, 0, 0.5, -0.8660254])),
        ("NOT_HEAD", put_all("BodyPartExamined", "CHEST")),
        *(("NOT_HEAD", change) for change in (open_ribs, hollow, solid, limbs, one_slice_of_brain)),
        ("IMPLAUSIBLE_HU", boneless),
        ("IMPLAUSIBLE_HU", put_all("RescaleIntercept", 0)),
    ],
)
def test_what_cannot_be_analysed_is_refused_with_its_code(write_series: WriteSeries, code: str, change: Change) -> None:
    """One spoiled image is enough; the sentence is complete."""
    assert refusal_code(write_series(change=change)) == code


def test_a_file_that_is_not_dicom_is_refused(write_series: WriteSeries) -> None:
    """Garbage among slices is not skipped: a slice may hide in it."""
    paths = write_series()
    paths[2].write_bytes(b"garbage" * 100)
    assert refusal_code(paths) == "NOT_DICOM"


def test_too_few_slices_are_refused(write_series: WriteSeries) -> None:
    """A single slice, or none."""
    assert refusal_code(write_series([0.0])) == "TOO_FEW_SLICES"
    assert refusal_code([]) == "NO_IMAGES"


def test_a_lost_slice_is_refused(write_series: WriteSeries) -> None:
    """The gap rule is asked, and told how thick slices are."""
    assert refusal_code(write_series([0, 5, 10, 20, 25, 30])) == "GAP_IN_SLICES"
    assert refusal_code(write_series(thickness_mm=2.5)) == "GAP_IN_SLICES"


def test_what_is_left_of_a_damaged_exam_is_read_for_training(write_series: WriteSeries) -> None:
    """Each slice at its own place, with a word on each file that is none; what is no head teaches nothing."""
    paths = write_series(change=cut_pixels)
    paths[5].write_bytes(b"garbage" * 100)
    volume, faults = read_intact(paths)
    assert {path: fault.partition(":")[0] for path, fault in faults.items()} == {
        paths[3]: "PIXELS_UNDECODABLE",
        paths[5]: "NOT_DICOM",
    }
    left = [z for z in range(10) if z not in (3, 5)]
    assert np.array_equal(volume.hu, [head_hu(z) for z in left])
    assert volume.geometry.positions_lps[:, 2].tolist() == [5 * z for z in left]
    with pytest.raises(UnreadableStudy, match="skull"):
        read_intact(write_series(change=hollow))


def test_broken_bytes_are_refused_or_read_but_never_crash(write_series: WriteSeries) -> None:
    """One file cut anywhere or with changed header bytes: a volume, or a code of the table."""
    paths = write_series(range(0, 30, 5))
    intact = paths[2].read_bytes()
    rng = random.Random(1)
    refused = 0
    for attempt in range(150):
        content = bytearray(intact)
        if attempt % 2:
            del content[rng.randrange(len(content)) :]
        else:
            for _ in range(rng.randint(1, 6)):
                content[rng.randrange(132, 900)] = rng.randrange(256)
        paths[2].write_bytes(content)
        try:
            read_volume(paths)
        except UnreadableStudy as error:
            refused += error.code in SENTENCES
    assert refused > 100


def test_a_file_that_cannot_be_opened_is_no_refusal(write_series: WriteSeries) -> None:
    """A store that is away for a moment: the caller may try again."""
    paths = write_series()
    with pytest.raises(FileNotFoundError):
        read_volume([*paths, paths[0].with_name("gone.dcm")])


@pytest.mark.parametrize("what", ["header", "pixels"])
def test_a_file_that_the_disk_does_not_give_is_no_refusal(
    what: str, write_series: WriteSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, and the caller may try again: a refused study is never tried again."""
    paths = write_series()
    if what == "header":
        fail_to_read(paths[3])
    else:

        def read_then_fail(given: list[Path]) -> tuple[SliceHeader, ...]:
            found = read_headers(given)
            fail_to_read(paths[3])
            return found

        monkeypatch.setattr(series, "read_headers", read_then_fail)
    with pytest.raises(OSError, match="Input/output error") as failed:
        read_volume(paths)
    assert failed.value.filename == str(paths[3])


def test_refusals_name_no_patient(write_series: WriteSeries) -> None:
    """Sentences go to logs and reports."""
    with pytest.raises(UnreadableStudy) as refused:
        read_volume(write_series(change=put("PatientID", "Secret^Id")))
    assert "Secret" not in str(refused.value)
