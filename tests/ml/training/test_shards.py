"""Simulated exams reach the disk as the network will see them."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from ml.config import Preprocessing, Window
from ml.data.parallel import AHEAD
from ml.errors import TrainingError
from ml.labels import Subtype
from ml.phantom import PEDIATRIC, draw_spec
from ml.training import shards
from ml.training.shards import (
    CHILDREN_FROM,
    CRANIECTOMIES_FROM,
    LAYER_ML,
    LAYERS_FROM,
    MASSES_FROM,
    MOVING_FROM,
    make_shards,
    open_shards,
    training_spec,
)

CONFIG = Preprocessing(2.0, 112, (Window(-10, 110),), slab_mm=5.0, neighbour_mm=5.0)


def test_exams_are_simulated_once_and_can_be_opened(tmp_path: Path) -> None:
    """A second run finds what the first made; a half-written exam does not count."""
    (tmp_path / "000003").mkdir()
    assert list(make_shards(tmp_path, [3], CONFIG, workers=0, matrix=128)) == [3]
    written = (tmp_path / "000003" / "exam.json").stat().st_mtime_ns
    assert list(make_shards(tmp_path, [3], CONFIG, workers=0, matrix=128)) == [3]
    assert (tmp_path / "000003" / "exam.json").stat().st_mtime_ns == written
    (exam,) = open_shards(tmp_path, [3])
    assert exam.hu.shape == exam.blood.shape
    assert exam.hu.shape[1:] == (112, 112)
    assert exam.hu.dtype == np.int16
    assert exam.neighbours.max() == len(exam.hu) - 1
    assert exam.hemorrhage_ml is not None
    assert bool(len(exam.positive_slices)) == (exam.hemorrhage_ml > 0)
    assert (exam.subtype is not None) == (exam.hemorrhage_ml > 0)
    assert len(exam.slice_names) == len(exam.neighbours)
    brain = exam.hu[(exam.hu > -20) & (exam.hu < 100)]
    assert 15 < np.median(brain) < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000003"]


def fail_at_first(folder: Path, seed: int, config: Preprocessing, matrix: int) -> int:
    """In the place of a simulation: a full disk."""
    (folder / f"tried {seed} {config.size} {matrix}").touch()
    if seed == 0:
        raise TrainingError("free space")
    return seed


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exam_that_fails_ends_the_others(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is said at once, not when the hundreds of exams behind it have been tried."""
    monkeypatch.setattr(shards, "make_shard", fail_at_first)
    with pytest.raises(TrainingError, match="free space"):
        list(make_shards(tmp_path, range(50), CONFIG, workers=workers, matrix=128))
    assert 1 <= len(list(tmp_path.iterdir())) <= 2 * AHEAD


def test_a_full_disk_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do, as in training."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards, "write_exam", full)
    with pytest.raises(TrainingError, match=r"exam 000003.*No space left on device.*free space and run"):
        list(make_shards(tmp_path, [3], CONFIG, workers=0, matrix=128))


def test_seeds_of_layers_have_a_visible_layer_under_the_skull() -> None:
    """Every one, of 2 to 70 mL, two in three of them subdural; natural seeds are drawn as everywhere."""
    layers = [training_spec(seed).head.bleeds[0] for seed in range(LAYERS_FROM, LAYERS_FROM + 60)]
    assert {one.site for one in layers} == {"convexity"}
    assert [one.subtype for one in layers].count(Subtype.SDH) == 40
    assert {one.subtype for one in layers} == {Subtype.SDH, Subtype.EDH}
    assert all(LAYER_ML[0] <= one.volume_ml <= LAYER_ML[1] for one in layers)
    assert np.median([one.volume_ml for one in layers]) > 5
    assert training_spec(3) == draw_spec(3)


def test_seeds_of_masses_have_solid_tumours_and_seldom_blood() -> None:
    """As dense as the natural draw's, one to three; blood in one exam of three."""
    specs = [training_spec(seed) for seed in range(MASSES_FROM, MASSES_FROM + 60)]
    assert {len(one.head.masses) for one in specs} == {1, 2, 3}
    assert all(34 <= mass.hu <= 46 for one in specs for mass in one.head.masses)
    assert sum(bool(one.head.bleeds) for one in specs) == 20
    natural = [bool(training_spec(seed).head.masses) for seed in range(400)]
    assert 0 < sum(natural) < 30


def test_seeds_of_craniectomies_lack_a_bone_flap_and_bleed_every_other_time() -> None:
    """The gap lies where the natural draw has it, at the side of the vault, and is of its size."""
    specs = [training_spec(seed) for seed in range(CRANIECTOMIES_FROM, CRANIECTOMIES_FROM + 60)]
    surgeries = [one.head.surgery for one in specs]
    assert all(one.flap_missing and one.craniotomy is not None for one in surgeries)
    assert all(14 <= one.flap_degrees <= 38 for one in surgeries)
    assert {one.craniotomy[0] > 0 for one in surgeries if one.craniotomy is not None} == {True, False}
    assert [bool(one.head.bleeds) for one in specs] == [True, False] * 30
    natural = [training_spec(seed).head.surgery.flap_missing for seed in range(600)]
    assert 0 < sum(natural) < 30


def test_seeds_of_children_bleed_every_other_time() -> None:
    """And are small."""
    specs = [training_spec(seed) for seed in range(CHILDREN_FROM, CHILDREN_FROM + 30)]
    assert {one.institution for one in specs} == {PEDIATRIC}
    assert [bool(one.head.bleeds) for one in specs] == [True, False] * 15
    assert max(one.head.size for one in specs) < 1.1


def test_seeds_of_patients_who_move_bleed_every_other_time() -> None:
    """Their heads shift and turn, all else is as drawn; of natural seeds few move, and half of these turn."""
    specs = [training_spec(seed) for seed in range(MOVING_FROM, MOVING_FROM + 30)]
    assert [bool(one.head.bleeds) for one in specs] == [True, False] * 15
    assert all(one.scanner.motion_mm > 0 and one.scanner.turn_degrees > 0 for one in specs)
    assert specs[0].head == draw_spec(MOVING_FROM, bleed=True).head
    natural = [training_spec(seed).scanner for seed in range(600)]
    moving = [one for one in natural if one.motion_mm > 0]
    assert 30 < len(moving) < 120
    assert 0.3 < np.mean([one.turn_degrees > 0 for one in moving]) < 0.7
    assert not any(one.turn_degrees for one in natural if not one.motion_mm)
