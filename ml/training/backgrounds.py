"""Real heads without hemorrhage as training exams: as they are, and with blood painted into them.

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
from ml.training.paint import paint_bleeds
from ml.volume import Volume

BLEEDS = 72
"""Of every head, unless told: so many exams with one bleed each, every kind of `paint.SHAPES` as often."""
CLEAN_SHARE = 0.5
"""How often a head stands among the exams as it is, for each time with blood; lures show it too."""
SEED = 100
"""Of the bleeds: others than those that `bench/real_heads.py` paints."""
DATASET = "background"


def make_backgrounds(
    folder: Path, heads: Sequence[Path], config: Preprocessing, progress: Callable[[str], None], *, bleeds: int = BLEEDS
) -> list[ExamShard]:
    """The exams of all `heads`, folders of DICOM with one head CT each, in which nothing bleeds.

    What is not in `folder` yet is made; `progress` is told after each exam. The clean exam of a head is in the list
    CLEAN_SHARE times as often as its `bleeds` others.

    Raises:
        DataError: a folder holds no head CT that can be read, or none that blood can be painted into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exams: list[ExamShard] = []
    for number, head in enumerate(heads, start=1):
        with _by_number(number, heads):
            clean, *painted = _exams(folder, head, config, progress, bleeds)
        exams += [clean] * round(CLEAN_SHARE * bleeds) + painted
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
    return len(heads) * (1 + bleeds)


def _names(series_instance_uid: str, bleeds: int) -> list[str]:
    """Of a head's exams, the clean one first: they tell nothing of the patient."""
    head = blake2b(series_instance_uid.encode(), digest_size=4).hexdigest()
    return [f"{DATASET}-{head}-clean", *(f"{DATASET}-{head}-{number:02}" for number in range(bleeds))]


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
    yield LabelledExam(DATASET, names[0], patient, volume, nothing)
    for name, painted in zip(names[1:], paint_bleeds(volume, len(names) - 1, seed=SEED), strict=True):
        labels = np.where(painted.truth, np.uint8(BLEED), nothing)
        yield LabelledExam(DATASET, name, patient, painted.volume, labels)
