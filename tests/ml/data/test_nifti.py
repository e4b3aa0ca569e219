"""NIfTI's RAS affine becomes the same patient geometry as DICOM's."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial import KDTree

from ml.data.nifti import read_nifti, read_stack
from ml.data.series import read_volume
from ml.data.shards import hash_images
from ml.errors import UnreadableStudy
from ml.inference.preprocessing import Orientation, prepare
from ml.phantom import SimulatedExam, draw_spec, simulate
from ml.phantom.dicom import write_series
from ml.volume import Volume
from tests.ml.conftest import TINY_PREPROCESSING
from tests.ml.data.disk import affine_ras, head_volume, write_nifti


@pytest.fixture(scope="module")
def phantom() -> SimulatedExam:
    """A tilted scan of even spacing."""
    spec = draw_spec(5, institution="A", bleed=True)
    zone = replace(spec.scanner.zones[0], slices=24, thickness_mm=6.0, step_mm=6.0)
    return simulate(replace(spec, scanner=replace(spec.scanner, zones=(zone,), tilt_degrees=17.0)), matrix=128)


def bright(volume: Volume) -> np.ndarray:
    """(n, 3) LPS mm of every voxel of bone."""
    return np.array([volume.geometry.to_lps(z, y, x) for z, y, x in np.argwhere(volume.hu >= 800)])


@pytest.mark.parametrize("orientation", [None, "RAS", "LAS", "LPI", "RPS"])
def test_a_phantom_is_the_same_patient_as_dicom_and_as_nifti(
    phantom: SimulatedExam, tmp_path: Path, orientation: str | None
) -> None:
    """Tilted, its voxels in five orders: bone lies at the same points, and the network sees the same."""
    from_dicom = read_volume(write_series(phantom, tmp_path / "dicom"))
    path = write_nifti(tmp_path / "head.nii.gz", from_dicom.hu, from_dicom.geometry, orientation=orientation)
    volume = read_nifti(path)
    assert volume.geometry.tilt_degrees == pytest.approx(17.0, abs=0.2)
    here, there = bright(volume), bright(from_dicom)
    assert len(here) == len(there) > 500
    assert KDTree(here).query(there)[0].max() < 0.02
    one, two = prepare(volume, TINY_PREPROCESSING), prepare(from_dicom, TINY_PREPROCESSING)
    assert np.abs(one.hu_zvu - two.hu_zvu).max() < 1e-2
    turned = [Orientation.of(each.geometry).apply(each.hu) for each in (volume, from_dicom)]
    assert hash_images(turned[0]) == hash_images(turned[1])


def test_a_wrong_sign_would_be_seen(phantom: SimulatedExam, tmp_path: Path) -> None:
    """The comparison above fails for a patient mirrored left to right."""
    volume = phantom.volume
    mirrored = replace(volume.geometry, row_lps=-volume.geometry.row_lps)
    path = write_nifti(tmp_path / "head.nii", volume.hu, mirrored)
    other = prepare(read_nifti(path), TINY_PREPROCESSING)
    assert np.abs(other.hu_zvu - prepare(volume, TINY_PREPROCESSING).hu_zvu).max() > 100


def test_slices_are_named_by_their_index_in_the_file(tmp_path: Path) -> None:
    """Tables count slices in the file's order, wherever the feet are."""
    volume = head_volume()
    up = read_nifti(write_nifti(tmp_path / "up.nii", volume.hu, volume.geometry))
    down = read_nifti(write_nifti(tmp_path / "down.nii", volume.hu, volume.geometry, orientation="LPI"))
    assert up.geometry.sop_instance_uids[:2] == ("0", "1")
    assert down.geometry.sop_instance_uids == up.geometry.sop_instance_uids[::-1]
    assert (down.geometry.offsets_mm[1:] > down.geometry.offsets_mm[:-1]).all()


def test_not_a_number_is_air(tmp_path: Path) -> None:
    """Some programs write NaN outside the field of view."""
    volume = head_volume()
    hu = volume.hu.copy()
    hu[:, :3] = np.nan
    read = read_nifti(write_nifti(tmp_path / "nan.nii", hu, volume.geometry, dtype=np.float32))
    assert (read.hu[:, :3] == -1024).all()


def test_what_is_no_head_ct_is_refused_with_a_code(tmp_path: Path) -> None:
    """Damaged, a truncated stream, two volumes, a flat affine, sagittal slices only, no bone."""
    volume = head_volume()
    whole = write_nifti(tmp_path / "whole.nii.gz", volume.hu, volume.geometry)
    (tmp_path / "cut.nii.gz").write_bytes(whole.read_bytes()[:-400])
    (tmp_path / "text.nii").write_text("not an image" * 100)
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9, 2), np.int16), np.eye(4)), tmp_path / "two.nii")
    skewed = affine_ras(volume.geometry)
    skewed[:3, 1] += 0.4 * skewed[:3, 0]
    nib.save(nib.Nifti1Image(volume.hu.transpose(2, 1, 0), skewed), tmp_path / "skewed.nii")
    write_nifti(tmp_path / "water.nii", np.zeros_like(volume.hu), volume.geometry)
    write_nifti(tmp_path / "few.nii", volume.hu[:3], volume.geometry)
    expected = {
        "cut.nii.gz": "NIFTI_UNREADABLE",
        "text.nii": "NIFTI_UNREADABLE",
        "two.nii": "NIFTI_GEOMETRY",
        "skewed.nii": "NIFTI_GEOMETRY",
        "water.nii": "IMPLAUSIBLE_HU",
        "few.nii": "TOO_FEW_SLICES",
    }
    for name, code in expected.items():
        with pytest.raises(UnreadableStudy) as refused:
            read_nifti(tmp_path / name)
        assert refused.value.code == code, name
    with pytest.raises(FileNotFoundError):
        read_stack(tmp_path / "none.nii")
