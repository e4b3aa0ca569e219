"""Real heads without hemorrhage as training exams: as they are, with blood painted into them, and as if they moved.

A simulated head is not a real one in ways that nobody can list; a real one brings all of them. One is enough to tell:
what a network learned of one head and its scanner held on another head and scanner (docs/training.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import repeat
from pathlib import Path

import numpy as np

from ml.config import Preprocessing
from ml.data.dicom_folder import find_series
from ml.data.exams import LabelledExam, patient_key
from ml.data.series import read_volume
from ml.data.shards import ExamShard, is_written, open_exam, write_exam
from ml.errors import DataError, UnreadableStudy
from ml.labels import BLEED
from ml.phantom.motion import restless
from ml.training.paint import paint_bleeds
from ml.volume import Volume

BLEEDS = 72
"""Of every head, unless told: so many exams with one bleed each, every kind of `paint.SHAPES` as often."""
CLEAN_SHARE = 0.5
"""How often a head stands among the exams as it is, for each time with blood; lures show it too."""
MOVING_SHARE = 0.5
"""Of the times that a head stands there without blood: how often it moves, each time in another way."""
MOVING_EVERY = 5
"""Of the exams with blood, each fifth moves: with any number of SHAPES that has no factor 5, all kinds by turns."""
SEED = 100
"""Of the bleeds: others than those that `bench/real_heads.py` paints."""
DATASET = "background"
CLEAN, MOVING = "clean", "-moving"
"""In the names of exams without blood, and at the end of those in which the head moves."""


def make_backgrounds(
    folder: Path, heads: Sequence[Path], config: Preprocessing, progress: Callable[[str], None], *, bleeds: int = BLEEDS
) -> list[ExamShard]:
    """The exams of all `heads`, folders of DICOM with one head CT each, in which nothing bleeds.

    What is not in `folder` yet is made; `progress` is told after each exam. Exams of a head without blood stand in the
    list CLEAN_SHARE times as often as its `bleeds` others: the one as it was scanned, again and again, and those in
    which it moves, each once.

    Raises:
        DataError: a folder holds no head CT that can be read, or none that blood can be painted into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exams: list[ExamShard] = []
    for number, head in enumerate(heads, start=1):
        with _by_number(number, heads):
            clean, *others = _exams(folder, head, config, progress, bleeds)
        exams += [clean] * (round(CLEAN_SHARE * bleeds) - _moving(bleeds)) + others
    return exams


def name_heads(heads: Sequence[Path]) -> list[str]:
    """What stands for each of them in the records of a run. Raises DataError as `make_backgrounds`."""
    names = []
    for number, head in enumerate(heads, start=1):
        with _by_number(number, heads):
            names.append(_names(find_series(head).series_instance_uid, 0)[0])
    return names


@contextmanager
def _by_number(number: int, heads: Sequence[Path]) -> Iterator[None]:
    """What is wrong with a head is told of its number: its folder may have a patient's name."""
    try:
        yield
    except (UnreadableStudy, DataError) as error:
        raise DataError(f"background {number} of {len(heads)}: {error}") from error


def exams_of(heads: Sequence[Path], bleeds: int) -> int:
    """How many exams `make_backgrounds` writes."""
    return len(heads) * (1 + _moving(bleeds) + bleeds)


def _moving(bleeds: int) -> int:
    """Exams in which a head without blood moves."""
    return round(MOVING_SHARE * CLEAN_SHARE * bleeds)


def _names(series_instance_uid: str, bleeds: int) -> list[str]:
    """Of a head's exams: as it was scanned, without blood and moving, with blood. They tell nothing of the patient."""
    head = blake2b(series_instance_uid.encode(), digest_size=4).hexdigest()
    moving = [f"{CLEAN}-{number:02}{MOVING}" for number in range(_moving(bleeds))]
    last = MOVING_EVERY - 1
    with_blood = [f"{number:02}{MOVING if number % MOVING_EVERY == last else ''}" for number in range(bleeds)]
    return [f"{DATASET}-{head}-{part}" for part in (CLEAN, *moving, *with_blood)]


def _exams(
    folder: Path, head: Path, config: Preprocessing, progress: Callable[[str], None], bleeds: int
) -> list[ExamShard]:
    """Of one head, the clean one first."""
    found = find_series(head)
    names = _names(found.series_instance_uid, bleeds)
    exams: Iterator[LabelledExam | None] = repeat(None, len(names))
    if not all(is_written(folder / name, config) for name in names):
        exams = _painted(names, read_volume(found.paths))
    for name, exam in zip(names, exams, strict=True):
        if exam is not None:
            write_exam(folder / name, exam, config)
        progress(name)
    return [open_exam(folder / name) for name in names]


def _painted(names: Sequence[str], volume: Volume) -> Iterator[LabelledExam]:
    patient, nothing = patient_key(DATASET, names[0]), np.zeros(volume.hu.shape, dtype=np.uint8)
    clean = [name for name in names if f"-{CLEAN}" in name]
    for name in clean:
        yield LabelledExam(DATASET, name, patient, _moved(volume, name), nothing)
    with_blood = names[len(clean) :]
    for name, painted in zip(with_blood, paint_bleeds(volume, len(with_blood), seed=SEED), strict=True):
        labels = np.where(painted.truth, np.uint8(BLEED), nothing)
        yield LabelledExam(DATASET, name, patient, _moved(painted.volume, name), labels)


def _moved(volume: Volume, name: str) -> Volume:
    """As if the patient was restless, where the name of the exam says so; each in its own way."""
    if not name.endswith(MOVING):
        return volume
    return restless(volume, np.random.default_rng([SEED, *name.encode()]))
