"""A prepared data set as a source of exams to be judged on, at the resolution of its own images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ml.data.exams import LabelledExam
from ml.data.manifest import read_head, read_manifest
from ml.data.shards import open_exam
from ml.data.sources import ExamSource as ManifestRow
from ml.errors import EvaluationError
from ml.evaluation.records import ExamRecord
from ml.labels import ANY, UNKNOWN

PUBLISHED = "published"


@dataclass(frozen=True)
class PreparedSource:
    """The exams of a `python -m ml prepare` folder that were readable and of which it is known whether they bleed.

    Images and masks are decoded again from the data set's own folder: a DSC on the network's grid is another one.
    Raises EvaluationError where there is no such exam, or the exams are of several data sets.
    """

    folder: Path
    """With manifest.jsonl; or a part that `python -m ml split` made, whose links lead to exams of such a folder."""
    images: Path
    """The data set as it was published."""

    @property
    def name(self) -> str:
        """`<data set>:<folder's name>`."""
        head = read_head(self._home) or {}
        return f"{head.get('dataset', 'unknown')}:{self.folder.name}"

    @cached_property
    def _prepared(self) -> set[Path]:
        """The folders of the exams, behind their links."""
        return {path.parent.resolve() for path in self.folder.glob("*/exam.json")}

    @cached_property
    def _home(self) -> Path:
        """Where their manifest is."""
        homes = sorted({exam.parent for exam in self._prepared})
        if len(homes) > 1:
            names = ", ".join(home.name for home in homes)
            raise EvaluationError(f"{self.folder.name} has exams of {names}: judge each data set with its own --images")
        return homes[0] if homes else self.folder

    @cached_property
    def _rows(self) -> dict[str, ManifestRow]:
        rows = {row.exam: row for row in read_manifest(self._home) if self._home / row.exam in self._prepared}
        return {name: row for name, row in rows.items() if _is_known(row, self._home)}

    @property
    def exams(self) -> tuple[str, ...]:
        """In the manifest's order; those of unreadable.csv are not among them."""
        return tuple(self._rows)

    def read(self, wanted: Sequence[str]) -> Iterator[LabelledExam]:
        """Raises UnreadableStudy where files changed since they were prepared."""
        for name in wanted:
            yield self._rows[name].load(self.images)

    def published(self) -> list[ExamRecord]:
        """The exam scores that the data set's owners published: CQ500 has those of Qure.ai.

        Raises EvaluationError where there are none, or not for every exam.
        """
        scored = [row for row in self._rows.values() if row.findings[ANY] != UNKNOWN]
        missing = [row for row in scored if "any" not in row.published]
        if missing or not scored:
            raise EvaluationError(f"{self.name} has no published scores for {len(missing)} of {len(scored)} exams")
        return [
            ExamRecord(row.exam, row.patient, bleeding=row.findings[ANY] == 1, exam_score=float(row.published["any"]))
            for row in scored
        ]


def _is_known(row: ManifestRow, prepared: Path) -> bool:
    """Whether it bleeds: told of the exam, drawn, or told of so many slices that nothing is left open.

    Chronic blood (BHX) and slices without a label leave it open, where no other slice bleeds.
    """
    if row.findings[ANY] != UNKNOWN or row.masks:
        return True
    return bool(row.slice_findings) and bool(open_exam(prepared / row.exam).findings[ANY] != UNKNOWN)
