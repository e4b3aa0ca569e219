"""One format for every exam, whatever is known about it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.data.exams import LabelledExam, patient_key
from ml.data.shards import hash_images, is_written, open_exam, open_folder, save_array, write_exam
from ml.errors import DataError
from ml.labels import BLEED, FINDINGS, IGNORE, LabelLevel, Subtype, unknown
from tests.ml.conftest import TINY_PREPROCESSING, MakeVolume


def exam(make_volume: MakeVolume, **labels: object) -> LabelledExam:
    """Ten slices of 5 mm."""
    return LabelledExam("test", "one", patient_key("test", "p"), make_volume(), **labels)  # type: ignore[arg-type]


def blood(shape: tuple[int, ...], code: int, where: slice = slice(4, 6)) -> np.ndarray:
    """A square of a code in some slices."""
    pixels = np.zeros(shape, dtype=np.uint8)
    pixels[where, 40:60, 50:70] = code
    return pixels


def test_pixel_labels_reach_the_disk_with_their_subtypes(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Blood where at least half a pixel is; ignored pixels stay ignored; slices and exam follow from the pixels."""
    one = exam(make_volume)
    pixels = blood(one.volume.hu.shape, Subtype.SDH)
    pixels[7, 20:60, 20:60] = IGNORE
    write_exam(tmp_path / "one", replace(one, pixels=pixels), TINY_PREPROCESSING)
    shard = open_exam(tmp_path / "one")
    assert shard.level is LabelLevel.PIXEL
    assert shard.hu.shape == shard.blood.shape == (10, 64, 64)
    assert shard.hu.dtype == np.int16
    assert set(np.unique(shard.blood)) == {0, 1, IGNORE}
    assert [int((one == 1).sum()) for one in shard.blood] == [0, 0, 0, 0, 100, 100, 0, 0, 0, 0]
    assert shard.subtype is not None
    assert np.array_equal(shard.subtype == Subtype.SDH, shard.blood == 1)
    assert shard.positive_slices.tolist() == [4, 5]
    assert shard.slice_findings[4].tolist() == [1, 0, 0, 0, 0, 1]
    assert shard.slice_findings[7].tolist() == [-1] * 6
    assert shard.findings[0] == shard.findings[Subtype.SDH] == 1
    assert shard.findings[Subtype.IPH] == -1
    assert shard.hemorrhage_ml == pytest.approx(800 * 0.02)


def test_blood_of_unknown_subtype_has_no_subtype_array(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Binary masks: INSTANCE 2022, Seg-CQ500."""
    one = exam(make_volume)
    write_exam(tmp_path / "one", replace(one, pixels=blood(one.volume.hu.shape, BLEED)), TINY_PREPROCESSING)
    shard = open_exam(tmp_path / "one")
    assert shard.subtype is None
    assert shard.blood.sum() == 200
    assert shard.findings.tolist() == [1, -1, -1, -1, -1, -1]


def test_exams_without_pixel_labels_say_so_when_asked(make_volume: MakeVolume, tmp_path: Path) -> None:
    """At slice level, at exam level, and without any label."""
    slices = unknown(10)
    slices[:, 0] = [0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    told = unknown()
    told[:] = [1, 0, 1, 0, 0, 0]
    write_exam(tmp_path / "a", exam(make_volume, told_slices=slices), TINY_PREPROCESSING)
    write_exam(tmp_path / "b", exam(make_volume, told=told), TINY_PREPROCESSING)
    write_exam(tmp_path / "c", exam(make_volume), TINY_PREPROCESSING)
    a, b, c = open_folder(tmp_path)
    assert [shard.level for shard in (a, b, c)] == ["slice", "exam", "none"]
    assert a.positive_slices.tolist() == [3, 4]
    assert a.findings[0] == 1
    assert b.findings.tolist() == told.tolist()
    assert b.positive_slices.tolist() == []
    assert (c.findings == -1).all()
    assert c.hemorrhage_ml is None
    with pytest.raises(DataError, match="not of its pixels"):
        _ = a.blood


def test_labels_turn_with_a_series_stored_from_the_vertex_down(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Slice labels and pixels stay on their images."""
    one = exam(make_volume)
    geometry = one.volume.geometry
    down = replace(geometry, row_lps=-geometry.row_lps, positions_lps=geometry.positions_lps[::-1])
    assert down.normal_lps[2] == -1
    slices = unknown(10)
    slices[:, 0] = 0
    slices[9, 0] = 1
    volume = replace(one.volume, geometry=down)
    pixels = blood(volume.hu.shape, BLEED, slice(9, 10))
    write_exam(tmp_path / "p", replace(one, volume=volume, pixels=pixels), TINY_PREPROCESSING)
    write_exam(tmp_path / "s", replace(one, volume=volume, told_slices=slices), TINY_PREPROCESSING)
    for shard in open_folder(tmp_path):
        assert shard.positive_slices.tolist() == [0]
        assert shard.slice_names[0] == geometry.sop_instance_uids[9]


@pytest.mark.parametrize("noise_hu", [5.0, 0.0], ids=["1 mm", "thicker"])
def test_a_slab_of_thin_slices_shows_what_they_show(make_volume: MakeVolume, tmp_path: Path, noise_hu: float) -> None:
    """Slices of 1 mm are averaged over 5 mm; blood on one of them is on the slab around it. Slices that are alike in
    all their noise are thicker, and not averaged: every other one is analysed, and none is lost.
    """
    volume = make_volume(np.arange(0.0, 40.0, 1.0))
    noise = np.random.default_rng(0).normal(0, noise_hu, volume.hu.shape)
    volume = replace(volume, hu=(volume.hu + noise).astype(np.float32))
    slices = unknown(40)
    slices[:, 0] = 0
    slices[21, 0] = 1
    write_exam(tmp_path / "thin", LabelledExam("t", "thin", "p", volume, told_slices=slices), TINY_PREPROCESSING)
    shard = open_exam(tmp_path / "thin")
    shown = [int(shard.slice_names[n].split(".")[-1]) for n in shard.positive_slices]
    assert shown
    assert all(abs(z - 21) <= 2 for z in shown)
    assert len(shard.neighbours) < 25


def test_equal_images_have_equal_hashes_and_blank_ones_none(make_volume: MakeVolume) -> None:
    """Empty slices above the head must not tie patients together."""
    hu = make_volume().hu
    hashes = hash_images(hu)
    assert len(hashes) == 10
    assert hashes[0] == hashes[1]
    changed = hu.copy()
    changed[0, 60, 50] += 1
    assert hash_images(changed)[0] != hashes[0]
    assert hash_images(np.full_like(hu, -1000)) == []


def test_exams_of_the_first_format_can_still_be_read(tmp_path: Path) -> None:
    """A seed, pixel labels, nothing else."""
    folder = tmp_path / "000007"
    folder.mkdir()
    stack = np.zeros((3, 8, 8), dtype=np.int16)
    pixels = np.zeros((3, 8, 8), dtype=np.uint8)
    pixels[1, 2, 2] = 1
    np.save(folder / "hu.npy", stack)
    np.save(folder / "blood.npy", pixels)
    facts = {"seed": 7, "neighbours": [[0, 0, 1], [0, 1, 2], [1, 2, 2]], "hemorrhage_ml": 0.5}
    (folder / "exam.json").write_text(json.dumps(facts))
    shard = open_exam(folder)
    assert (shard.exam, shard.dataset, shard.level) == ("000007", "simulated", "pixel")
    assert shard.positive_slices.tolist() == [1]
    assert shard.slice_findings[:, 0].tolist() == [0, 1, 0]
    assert shard.findings[0] == 1
    assert is_written(folder, TINY_PREPROCESSING)


def test_another_grid_is_refused_and_half_an_exam_is_none(make_volume: MakeVolume, tmp_path: Path) -> None:
    """So that no training mixes pixel sizes."""
    (tmp_path / "one").mkdir()
    assert not is_written(tmp_path / "one", TINY_PREPROCESSING)
    with pytest.raises(DataError, match="no prepared exam"):
        open_exam(tmp_path / "one")
    write_exam(tmp_path / "one", exam(make_volume), TINY_PREPROCESSING)
    assert is_written(tmp_path / "one", TINY_PREPROCESSING)
    with pytest.raises(DataError, match="another --out"):
        is_written(tmp_path / "one", replace(TINY_PREPROCESSING, pixel_mm=3.0))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    facts = json.loads((tmp_path / "one" / "exam.json").read_text())
    (tmp_path / "one" / "exam.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(DataError, match="99"):
        open_exam(tmp_path / "one")
    (tmp_path / "one" / "exam.json").write_text("")  # as power loss leaves it
    with pytest.raises(DataError, match="prepare` again"):
        open_folder(tmp_path)
    assert not is_written(tmp_path / "one", TINY_PREPROCESSING)


def test_a_patient_is_known_again_and_not_recognised() -> None:
    """The key is one way, and of its collection."""
    assert patient_key("rsna", "ID_1234") == patient_key("rsna", " ID_1234 ")
    assert patient_key("rsna", "ID_1234") != patient_key("cq500", "ID_1234")
    assert "1234" not in patient_key("rsna", "1234")
    assert FINDINGS[0] == "any"


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((40, 512, 512), np.uint8), ((7, 100, 90), np.int16), ((1, 3, 5), np.uint8), ((0, 8, 8), np.uint8)],
)
def test_an_array_is_written_as_numpy_does_and_zeros_take_no_room(
    shape: tuple[int, ...], dtype: type, tmp_path: Path
) -> None:
    """The labels of RSNA's size would be half a terabyte of zeros. Also of an array that is stored by columns."""
    array: np.ndarray = np.zeros(shape, dtype)
    array[-1:, :2, 3:] = 7
    for number, one in enumerate((array, np.asfortranarray(array))):
        path, plain = tmp_path / f"{number}.npy", tmp_path / "plain.npy"
        save_array(path, one)
        np.save(plain, array)
        assert path.read_bytes() == plain.read_bytes()
        if array.nbytes > 1e6:
            assert path.stat().st_blocks * 512 < array.nbytes / 20
