"""The exams of a study: who has which, and how they are kept so that no model's turn simulates them again.

<exam>.npz        `hu`, `pixels` and the geometry of one exam, as `ml.data.exams.LabelledExam` has them
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from ml.config import Preprocessing
from ml.data.exams import LabelledExam
from ml.data.shards import ExamShard, is_written, open_exam, write_exam
from ml.errors import DataError
from ml.evaluation.sources import ExamSource, PhantomSource
from ml.files import DAMAGED_ARRAYS, write_atomically
from ml.study.scales import Scale
from ml.volume import Geometry, Volume


class Part(StrEnum):
    """What exams are for; no exam is in two parts."""

    LABELLED = "labelled"
    CORPUS = "corpus"
    VALIDATION = "validation"
    TEST = "test"
    IN_DISTRIBUTION = "in-distribution"


Parts = dict[Part, ExamSource]


def phantom_parts(scale: Scale, *, workers: int) -> Parts:
    """A has the labels, B the corpus and the test; the validation exams are from anywhere, as the paper's are."""

    def source(institution: str, first_seed: int, count: int) -> ExamSource:
        return PhantomSource(institution, first_seed, count, scale.matrix, workers)

    return {
        Part.LABELLED: source("A", 3_000_000, scale.labelled),
        Part.CORPUS: source("B", 4_000_000, scale.corpus),
        Part.VALIDATION: source("any", 5_000_000, scale.validation),
        Part.TEST: source("B", 6_000_000, scale.test),
        Part.IN_DISTRIBUTION: source("A", 7_000_000, scale.in_distribution),
    }


def prepare_part(
    source: ExamSource, folder: Path, config: Preprocessing, progress: Callable[[str], None]
) -> list[ExamShard]:
    """The exams of a part on the network's grid, those that are missing made now."""
    missing = [exam for exam in source.exams if not is_written(folder / exam, config)]
    for _ in range(len(source.exams) - len(missing)):
        progress("")
    for exam in source.read(missing):
        write_exam(folder / exam.exam, exam, config)
        progress(exam.exam)
    return [open_exam(folder / exam) for exam in source.exams]


@dataclass(frozen=True)
class KeptSource:
    """The exams of another source, kept on disk as they are read: bit by bit what the source gives."""

    source: ExamSource
    folder: Path

    @property
    def name(self) -> str:
        """That of the source."""
        return self.source.name

    @property
    def exams(self) -> tuple[str, ...]:
        """Those of the source."""
        return self.source.exams

    def read(self, wanted: Sequence[str]) -> Iterator[LabelledExam]:
        """See ExamSource; what is not kept yet is read from the source and kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [exam for exam in wanted if not self._path(exam).is_file()]
        fresh = self.source.read(missing)
        for name in wanted:
            if name in missing:  # even if another process has kept it by now: `fresh` gives all of these in turn
                exam = next(fresh)
                write_atomically(self._path(name), _pack(exam))
                yield exam
            else:
                yield _unpack(self._path(name))

    def keep(self, progress: Callable[[str], None]) -> None:
        """Read what is not kept yet."""
        missing = [exam for exam in self.exams if not self._path(exam).is_file()]
        for _ in range(len(self.exams) - len(missing)):
            progress("")
        for exam in self.read(missing):
            progress(exam.exam)

    def _path(self, exam: str) -> Path:
        return self.folder / f"{exam}.npz"


def _pack(exam: LabelledExam) -> bytes:
    if exam.pixels is None:
        raise DataError(f"exam {exam.exam} has no pixel labels, which a study's exams need")
    geometry = exam.volume.geometry
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        names=np.array([exam.dataset, exam.exam, exam.patient, geometry.frame_of_reference_uid or ""]),
        hu=exam.volume.hu,
        pixels=exam.pixels,
        positions_lps=geometry.positions_lps,
        directions_lps=np.stack([geometry.row_lps, geometry.column_lps]),
        spacing_mm=np.array(geometry.pixel_spacing_mm),
        uids=np.array(geometry.sop_instance_uids),
    )
    return buffer.getvalue()


def _unpack(path: Path) -> LabelledExam:
    try:
        with np.load(path) as kept:
            dataset, exam, patient, frame = kept["names"].tolist()
            geometry = Geometry(
                positions_lps=kept["positions_lps"],
                row_lps=kept["directions_lps"][0],
                column_lps=kept["directions_lps"][1],
                pixel_spacing_mm=(float(kept["spacing_mm"][0]), float(kept["spacing_mm"][1])),
                sop_instance_uids=tuple(kept["uids"].tolist()),
                frame_of_reference_uid=frame or None,
            )
            return LabelledExam(dataset, exam, patient, Volume(kept["hu"], geometry), kept["pixels"])
    except DAMAGED_ARRAYS as error:
        raise DataError(f"{path.name} is damaged: remove it and run the same command again") from error
