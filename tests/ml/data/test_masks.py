"""Masks land on the voxels that they were drawn on, however their own voxels are ordered."""

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from ml.data.masks import read_mask, segment_code
from ml.data.series import read_volume
from ml.errors import UnreadableStudy
from ml.labels import BLEED, Subtype
from ml.volume import Volume
from tests.ml.data.disk import head_volume, mask_of, write_dicom, write_nifti

VALUES = {int(subtype): int(subtype) for subtype in Subtype}


def drawn(volume: Volume) -> np.ndarray:
    """Two subtypes that touch, nothing symmetric."""
    mask = mask_of(volume, Subtype.SAH)
    mask[6, 20:24, 30:39] = Subtype.EDH
    return mask


@pytest.mark.parametrize("orientation", [None, "RAS", "LAS", "LPI", "ASR", "PSR"])
def test_nifti_masks_are_placed_by_their_affine(tmp_path: Path, orientation: str | None) -> None:
    """Flipped rows, feet last, rows and columns exchanged: the same voxels."""
    volume = head_volume()
    path = write_nifti(tmp_path / "m.nii.gz", drawn(volume), volume.geometry, orientation=orientation)
    assert np.array_equal(read_mask(path, volume.geometry, shape=(64, 64), values=VALUES), drawn(volume))


def test_a_mask_of_other_images_is_refused(tmp_path: Path) -> None:
    """Half a slice off, half a pixel off, other pixels, fewer slices."""
    volume = head_volume()
    geometry = volume.geometry
    off = {
        "slice": replace(geometry, positions_lps=geometry.positions_lps + np.array([0, 0, 5.0])),
        "pixel": replace(geometry, positions_lps=geometry.positions_lps + np.array([1.7, 0, 0])),
        "size": replace(geometry, pixel_spacing_mm=(3.4, 3.4)),
    }
    for name, other in off.items():
        path = write_nifti(tmp_path / f"{name}.nii", drawn(volume), other)
        with pytest.raises(UnreadableStudy, match="does not lie on the images"):
            read_mask(path, geometry, shape=(64, 64), values=VALUES)
    path = write_nifti(tmp_path / "short.nii", drawn(volume)[:9], geometry)
    with pytest.raises(UnreadableStudy, match="3 of 12 images"):
        read_mask(path, geometry, shape=(64, 64), values=VALUES)


def test_a_mask_whose_header_says_nothing_is_taken_voxel_by_voxel(tmp_path: Path) -> None:
    """Written by programs that lost the affine: in the order of the image's file, whichever way its slices run."""
    volume = head_volume()
    mask = tmp_path / "m.nii"
    nib.save(nib.Nifti1Image(drawn(volume).transpose(2, 1, 0), None), mask)
    assert np.array_equal(read_mask(mask, volume.geometry, shape=(64, 64), values=VALUES), drawn(volume))
    names = volume.geometry.sop_instance_uids[::-1]
    down = replace(volume.geometry, sop_instance_uids=names)
    assert np.array_equal(read_mask(mask, down, shape=(64, 64), values=VALUES), drawn(volume)[::-1])
    dicom = replace(volume.geometry, sop_instance_uids=tuple(f"1.2.{name}" for name in names))
    with pytest.raises(UnreadableStudy, match="header does not say"):
        read_mask(mask, dicom, shape=(64, 64), values=VALUES)


def test_values_without_a_meaning_are_refused(tmp_path: Path) -> None:
    """A sixth value in a set of five subtypes; a binary mask may hold 1 or 255."""
    volume = head_volume()
    path = write_nifti(tmp_path / "m.nii", mask_of(volume, 255), volume.geometry)
    binary = read_mask(path, volume.geometry, shape=(64, 64))
    assert np.array_equal(binary, mask_of(volume, BLEED))
    with pytest.raises(UnreadableStudy, match="value 255"):
        read_mask(path, volume.geometry, shape=(64, 64), values=VALUES)


def test_a_binary_mask_with_values_below_0_is_refused(tmp_path: Path) -> None:
    """255 that was written into 8 bits with a sign is -1: such an exam would pass for one that is free of blood."""
    volume = head_volume()
    path = write_nifti(tmp_path / "m.nii", mask_of(volume, 255), volume.geometry, dtype=np.int8)
    with pytest.raises(UnreadableStudy, match="value -1"):
        read_mask(path, volume.geometry, shape=(64, 64))


@pytest.mark.parametrize(("highest", "voxels"), [(0.6, 192), (0.4, None), (1 / 255, None)])
def test_a_mask_in_fractions_is_rounded_or_refused(highest: float, voxels: int | None, tmp_path: Path) -> None:
    """A soft mask counts from a half; one that lies below it everywhere would pass for one without blood."""
    volume = head_volume()
    soft = mask_of(volume) * highest
    path = write_nifti(tmp_path / "m.nii", soft, volume.geometry, dtype=np.float32)
    if voxels is None:
        with pytest.raises(UnreadableStudy, match="its highest value is 0"):
            read_mask(path, volume.geometry, shape=(64, 64))
    else:
        assert (read_mask(path, volume.geometry, shape=(64, 64)) == BLEED).sum() == voxels


def segment(number: int, label: str) -> hd.seg.SegmentDescription:
    """A segment of a made-up algorithm."""
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Hemorrhage if "edema" not in label else codes.SCT.Edema,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


def whole(z: int, ds: pydicom.Dataset) -> None:
    """What highdicom copies from source images."""
    for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"):
        setattr(ds, keyword, "")
    ds.StudyID, ds.ReferringPhysicianName, ds.PositionReferenceIndicator = "1", "", ""
    ds.InstanceNumber = z + 1


def write_seg(path: Path, images: list[Path], masks_nzyx: np.ndarray, labels: list[str], kind: str = "BINARY") -> Path:
    """A DICOM SEG over the images, empty frames omitted."""
    seg = hd.seg.Segmentation(
        source_images=[pydicom.dcmread(one) for one in images],
        pixel_array=np.moveaxis(masks_nzyx, 0, -1).astype(np.uint8 if kind == "BINARY" else np.float32),
        segmentation_type=kind,
        segment_descriptions=[segment(n + 1, label) for n, label in enumerate(labels)],
        series_instance_uid=hd.UID(),
        series_number=9,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_segmentation_objects_say_what_their_segments_are(tmp_path: Path, kind: str) -> None:
    """Subtypes by name; edema is no blood; a segment for all blood hides no subtype."""
    images = write_dicom(tmp_path / "ct", series="1.2.3.4", change=whole)
    volume = read_volume(images)
    sdh, every, edema = np.zeros((3, *volume.hu.shape), dtype=np.uint8)
    sdh[4, 30:36, 20:30] = 1
    every[4:6, 28:40, 20:30] = 1
    edema[7, 10:20, 10:20] = 1
    path = write_seg(
        tmp_path / "seg.dcm", images, np.stack([every, sdh, edema]), ["Hemorrhage", "Subdural hematoma", "edema"], kind
    )
    expected = np.where(sdh > 0, int(Subtype.SDH), np.where(every > 0, BLEED, 0))
    assert np.array_equal(read_mask(path, volume.geometry, shape=(64, 64)), expected)


def test_a_segmentation_object_without_blood_is_refused(tmp_path: Path) -> None:
    """Rather than read as an exam free of blood."""
    images = write_dicom(tmp_path / "ct", series="1.2.3.4", change=whole)
    volume = read_volume(images)
    mask = np.zeros((1, *volume.hu.shape), dtype=np.uint8)
    mask[0, 4, 30:36, 20:30] = 1
    path = write_seg(tmp_path / "seg.dcm", images, mask, ["edema"])
    with pytest.raises(UnreadableStudy, match="none of its segments"):
        read_mask(path, volume.geometry, shape=(64, 64))


@pytest.mark.parametrize(
    ("label", "code"),
    [
        ("Subdural Hematoma", Subtype.SDH),
        ("acute on chronic subdural", Subtype.SDH),
        ("chronic subdural", 0),
        ("IPH bleed", Subtype.IPH),
        ("SDH left", Subtype.SDH),
        ("chronic SDH", 0),
        ("SAH_1", Subtype.SAH),
        ("ICH", BLEED),
        ("Brain hemorrhage", BLEED),
        ("thick skull", 0),
        ("perihematomal edema", 0),
        ("Extradural haemorrhage", Subtype.EDH),
    ],
)
def test_segments_are_understood_by_their_words(label: str, code: int) -> None:
    """Whole words where parts of words would lie."""
    description = pydicom.Dataset()
    description.SegmentLabel = label
    assert segment_code(description) == code
