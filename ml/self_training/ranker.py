"""The ranker (paper section 2.2): the slices of a whole corpus in one order, the first C percent of them positive.

16 bytes per slice: 750,000 slices of 25,000 exams are ordered in 12 MB. The order is that of the logits, because
probabilities of clear bleeds all round to 1. Equal ones keep the corpus's order, so the same scores give the same
ranks.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from ml.errors import DataError
from ml.files import DAMAGED_ARRAYS, write_atomically

F32Array = npt.NDArray[np.float32]
U8Array = npt.NDArray[np.uint8]
Rules = Mapping[str, U8Array]
"""Of every exam: (n,) a `Rule` for each analysed slice."""


class Rule(IntEnum):
    """What a slice teaches."""

    NEGATIVE = 0
    """All pixels are 0."""
    SOFT = 1
    """Pixels are 1 above K, 0 below 1 - K, ignored between."""
    LEFT_OUT = 2
    """Nothing: it is never drawn."""


@dataclass(frozen=True)
class RankerConfig:
    """Defaults are the paper's."""

    positive_percent: float = 10.0
    """C."""
    ignore_band_percent: float = 0.0
    """So many percent that follow on the positive ones are left out. The paper has no such band: what follows is
    negative, though RSNA's images are 14.3 % positive (PMC10831525)."""

    def __post_init__(self) -> None:
        if not 0 < self.positive_percent <= 100 or not 0 <= self.ignore_band_percent <= 100 - self.positive_percent:
            raise ValueError("C and the band that follows it must lie within 0 to 100 percent")


@dataclass(frozen=True, eq=False)
class Ranking:
    """A corpus in order."""

    exams: tuple[str, ...]
    starts: npt.NDArray[np.int64]
    """(exams + 1,) where each exam's slices begin."""
    logits: F32Array
    """(slices,) in the corpus's order."""
    order: npt.NDArray[np.int64]
    """(slices,) slices from high to low."""

    def place(self, number: int) -> tuple[str, int]:
        """(exam, row) of a slice that is numbered in the corpus's order."""
        which = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.exams[which], number - int(self.starts[which])

    def prob(self, number: int) -> float:
        """Probability of hemorrhage of a slice that is numbered in the corpus's order."""
        return float(expit(np.float64(self.logits[number])))

    def count(self, percent: float) -> int:
        """How many slices the first `percent` are."""
        return round(len(self.order) * percent / 100)

    def rules(self, config: RankerConfig) -> Rules:
        """The first C percent are soft, the band behind them is left out, all others are negative."""
        positive = self.count(config.positive_percent)
        band = self.count(config.positive_percent + config.ignore_band_percent)
        flat = np.full(len(self.order), Rule.NEGATIVE, dtype=np.uint8)
        flat[self.order[:positive]] = Rule.SOFT
        flat[self.order[positive:band]] = Rule.LEFT_OUT
        return MappingProxyType(
            {exam: flat[self.starts[number] : self.starts[number + 1]] for number, exam in enumerate(self.exams)}
        )


def rank(slice_logits: Iterable[tuple[str, F32Array]]) -> Ranking:
    """Order a corpus, given exam by exam.

    Raises:
        DataError: a score is not finite, or there is no slice at all.
    """
    names: list[str] = []
    parts: list[F32Array] = []
    for exam, logits in slice_logits:
        if not np.isfinite(logits).all():
            raise DataError(f"exam {exam} has scores that are not finite: remove its scores and label it again")
        names.append(exam)
        parts.append(np.asarray(logits, dtype=np.float32))
    if not sum(len(part) for part in parts):
        raise DataError("there is no slice to rank")
    flat = np.concatenate(parts)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return Ranking(tuple(names), starts, flat, np.argsort(-flat, kind="stable"))


def write_ranking(folder: Path, ranking: Ranking, config: RankerConfig, *, teacher_digest: str) -> None:
    """ranking.npz, and ranking.json for people."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        exams=np.array(ranking.exams),
        starts=ranking.starts,
        logits=ranking.logits,
        order=ranking.order,
    )
    write_atomically(folder / "ranking.npz", buffer.getvalue())
    facts = {
        "teacher": teacher_digest,
        **asdict(config),
        "exams": len(ranking.exams),
        "slices": len(ranking.order),
        "lowest_prob_by_percent": {
            f"{percent:g}": ranking.prob(int(ranking.order[max(0, ranking.count(percent) - 1)]))
            for percent in sorted({5, 10, 15, 20, 25, 30, config.positive_percent})
        },
    }
    write_atomically(folder / "ranking.json", (json.dumps(facts, indent=1) + "\n").encode())


def check_ranking(folder: Path, config: RankerConfig) -> None:
    """Raise DataError where a corpus was ranked by another rule: its student is of that one."""
    path = folder / "ranking.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    if any(before.get(name, value) != value for name, value in asdict(config).items()):
        raise DataError(
            f"{folder} was ranked with C = {before['positive_percent']:g} and a band of "
            f"{before['ignore_band_percent']:g} percent: give another C a run of its own, or remove that folder"
        )


def read_ranking(folder: Path) -> Ranking:
    """What `write_ranking` wrote. Raises DataError where there is none."""
    try:
        with np.load(folder / "ranking.npz") as kept:
            return Ranking(tuple(kept["exams"].tolist()), kept["starts"], kept["logits"], kept["order"])
    except FileNotFoundError as error:
        raise DataError(f"{folder.name} has no ranking: run `python -m ml rank` first") from error
    except DAMAGED_ARRAYS as error:
        raise DataError(f"the ranking of {folder.name} is damaged: run `python -m ml rank` again") from error
