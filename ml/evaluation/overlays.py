"""Figures 2 and 3: which images show what a model changed, and the images with outlines of truth and answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.errors import EvaluationError
from ml.evaluation.records import ExamRecord, RecordSet
from ml.evaluation.sources import ExamSource, source_named
from ml.volume import MaskArray

Rgb = npt.NDArray[np.uint8]

WINDOW_HU = (0.0, 80.0)
"""The brain window of radiologists: centre 40, width 80."""
RED, GREEN, YELLOW = (220, 40, 40), (40, 200, 60), (240, 220, 40)
"""Truth alone, answer alone, both (paper, figure 3)."""
OPACITY = 0.55


@dataclass(frozen=True)
class ChosenImage:
    """An image of a set, and why it was chosen."""

    exam: str
    z: int
    why: str


@dataclass(frozen=True, eq=False)
class Panel:
    """One image with the answer of one model."""

    title: str
    picture: Rgb
    """(y, x, 3)"""


def false_alarms(worse: RecordSet, better: RecordSet, count: int) -> list[ChosenImage]:
    """Images without blood where `worse` marks most that `better` does not; one of each exam."""
    return _choose(
        worse,
        better,
        count,
        lambda a, b, truth: np.where(truth == 0, a[0] - b[0], 0),
        "more false pixels in the first",
    )


def rescued(worse: RecordSet, better: RecordSet, count: int) -> list[ChosenImage]:
    """Images with blood of which `better` marks most that `worse` misses; one of each exam."""
    return _choose(
        worse,
        better,
        count,
        lambda a, b, truth: np.where(truth > 0, b[1] - a[1], 0),
        "more pixels of blood found by the second",
    )


_Counts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""(over threshold, of it true), by image."""


def _choose(
    worse: RecordSet,
    better: RecordSet,
    count: int,
    gain: Callable[[_Counts, _Counts, npt.NDArray[np.int64]], npt.NDArray[np.int64]],
    why: str,
) -> list[ChosenImage]:
    others = {one.exam: one for one in better.records}
    found: list[tuple[int, str, int]] = []
    for one in worse.records:
        other = others.get(one.exam)
        if one.counts is None or other is None or other.counts is None:
            continue
        gains = gain(_counts(one), _counts(other), np.array(one.counts.truth))
        best = int(np.argmax(gains))
        if gains[best] > 0:
            found.append((-int(gains[best]), one.exam, best))
    return [ChosenImage(exam, z, f"{-pixels} {why}") for pixels, exam, z in sorted(found)[:count]]


def panels(
    chosen: Sequence[ChosenImage], sets: dict[str, RecordSet], *, known: Sequence[ExamSource] = ()
) -> list[list[Panel]]:
    """A row for each chosen image: the image alone, then each set's answer on it.

    Images are read again from the source that the records name: simulated ones are made anew, others must be `known`.
    Raises EvaluationError where they cannot be.
    """
    origin = next(iter(sets.values())).origin
    source = next((one for one in known if one.name == origin.data), None) or source_named(origin.data)
    if source is None:
        raise EvaluationError(
            f"the images of {origin.data} are not kept in records; name it with --prepared and --images"
        )
    rows = []
    for one, exam in zip(chosen, source.read([image.exam for image in chosen]), strict=True):
        gray = window(exam.volume.hu[one.z])
        row = [Panel(f"exam {one.exam}, image {one.z + 1}", np.repeat(gray[..., None], 3, axis=2))]
        for title, records in sets.items():
            record = next(found for found in records.records if found.exam == one.exam)
            masks = records.pixels(record).masks
            row.append(Panel(title, colour(gray, masks["truth"][one.z], masks["over_threshold"][one.z])))
        rows.append(row)
    return rows


def window(hu: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(y, x) HU to grey."""
    low, high = WINDOW_HU
    return np.asarray(np.clip((hu - low) / (high - low) * 255, 0, 255), dtype=np.uint8)


def colour(gray: npt.NDArray[np.uint8], truth: MaskArray, answer: MaskArray) -> Rgb:
    """Truth red, answer green, both yellow, over the grey image."""
    picture = np.repeat(gray[..., None], 3, axis=2).astype(np.float64)
    for mask, shade in ((truth & ~answer, RED), (answer & ~truth, GREEN), (truth & answer, YELLOW)):
        picture[mask] = (1 - OPACITY) * picture[mask] + OPACITY * np.array(shade)
    return np.asarray(picture, dtype=np.uint8)


def _counts(record: ExamRecord) -> _Counts:
    if record.counts is None:
        raise EvaluationError(f"exam {record.exam} has no pixel labels")
    return np.array(record.counts.over_threshold), np.array(record.counts.over_threshold_true)
