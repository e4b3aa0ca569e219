"""The answer of an exam in one word and in one sentence: the same in the SR, on the console and in summary.json."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from worker.results.context import RESEARCH_NOTICE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ml.prediction import Lesion, Prediction
    from worker.results.context import OperatingPoints


class Answer(StrEnum):
    """Study-level answer; the values are names in codes.toml."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


def answer(prediction: Prediction) -> Answer:
    """PRESENT at the exam operating point; ABSENT only when no voxel is outlined either.

    An exam below the operating point with an outlined region contradicts itself and is left to the reader: to call
    it absent while showing a contour would hide it from whoever reads the word alone.
    """
    if prediction.exam_positive:
        return Answer.PRESENT
    return Answer.UNDETERMINED if prediction.mask.any() else Answer.ABSENT


def summary_sentence(prediction: Prediction, lesions: Sequence[Lesion], points: OperatingPoints) -> str:
    """One line for people: answer, probability, volumes, thresholds, bundle, research notice. ASCII only."""
    bundle = prediction.bundle
    return (
        f"Intracranial hemorrhage {answer(prediction).upper()}, probability {prediction.exam_score:.2f}. "
        f"{_volumes(lesions, prediction)} Thresholds: {points.as_text()}. "
        f"Bundle {bundle.name} {bundle.version} ({bundle.digest[:12]}). {RESEARCH_NOTICE}."
    )


def rejection_sentence(code: str, sentence: str) -> str:
    """One line for a study that was not analysed. ASCII only: it must fit every character set of a source."""
    reason = sentence.rstrip(".").encode("ascii", "replace").decode()
    return f"Not analysed: {code}: {reason}. No statement about hemorrhage is made. {RESEARCH_NOTICE}."


def regions_text(lesions: Sequence[Lesion]) -> str:
    """How many and how much, in a few words."""
    if not lesions:
        return "no region outlined"
    return f"{len(lesions)} region{'' if len(lesions) == 1 else 's'}, {sum(one.volume_ml for one in lesions):.1f} mL"


def lesion_cells(lesions: Sequence[Lesion]) -> list[tuple[str, ...]]:
    """The table of lesions as texts, the heads of its seven columns first: the same on every page that shows it."""
    heads = ("", "side", "volume mL", "ABC/2 mL", "longest mm", "mean HU", "key slices")
    rows = [
        (
            str(one.number),
            f"{one.side} {one.subtype.name}" if one.subtype else str(one.side),
            f"{one.volume_ml:.1f}",
            f"{one.abc2_ml:.1f}",
            f"{one.longest_axial_diameter_mm:.1f}",
            f"{one.mean_hu:.0f}",
            ", ".join(str(z + 1) for z in one.key_slices),
        )
        for one in lesions
    ]
    return [heads, *rows]


def _volumes(lesions: Sequence[Lesion], prediction: Prediction) -> str:
    if not lesions:
        return "No region could be outlined." if prediction.exam_positive else "No region outlined."
    total_ml = sum(lesion.volume_ml for lesion in lesions)
    if len(lesions) == 1:
        return f"1 region of {total_ml:.1f} mL, {lesions[0].side}."
    largest = f"largest {lesions[0].volume_ml:.1f} mL, {lesions[0].side}"
    return f"{len(lesions)} regions, {total_ml:.1f} mL in all, {largest}."
