"""An analysed exam: what the result objects are written from, and what they are checked against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

    from ml.prediction import Lesion, Prediction
    from ml.volume import Volume
    from worker.results.source import SourceExam


@dataclass(frozen=True, eq=False)
class AnalysedExam:
    """Invariant: source, volume, prediction and lesions are on one grid, slice z of one is slice z of all."""

    source: SourceExam
    volume: Volume
    prediction: Prediction
    lesions: tuple[Lesion, ...]
    """Numbered from 1, largest first; together they are the mask of the prediction."""

    @property
    def header(self) -> Dataset:
        """The instance from which results take patient and study."""
        return self.source.headers[0]
