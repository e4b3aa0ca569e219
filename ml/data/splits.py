"""Which exams may learn and which may judge: no patient, no image and no collection on both sides.

Exams belong together that are of one patient (within a collection: BHSD's patients are RSNA's) or that show one image
(equal HU after orientation; RSNA 2019 has thousands of images under two patients). Groups go to parts by a keyed hash,
so a split depends on nothing but its key, and an exam that comes later moves no other patient, unless it shows an
image of theirs under a patient of its own: then the group may have another name, and with it another part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import combinations
from typing import Protocol, TypeVar

from ml.errors import DataError

NAMED = 3
"""Overlaps that an error names; it tells the number of all."""


class Splittable(Protocol):
    """What a split needs to know of an exam (`ml.data.shards.ExamShard` does)."""

    @property
    def dataset(self) -> str:
        """The data set's name."""

    @property
    def exam(self) -> str:
        """Unique within the data set."""

    @property
    def family(self) -> str:
        """The collection that its patient comes from."""

    @property
    def patient(self) -> str:
        """The patient's key within the family."""

    @property
    def patient_known(self) -> bool:
        """False where the key may stand for a patient of the family under another key."""

    @property
    def image_hashes(self) -> tuple[str, ...]:
        """Of the images that show tissue."""


Exam = TypeVar("Exam", bound=Splittable)


def group(exams: Sequence[Splittable]) -> list[str]:
    """The group of each exam: the smallest patient key that it is linked to, by patients and images."""
    parents: dict[str, str] = {}

    def root(node: str) -> str:
        while parents.setdefault(node, node) != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    for exam in exams:
        for image in exam.image_hashes:
            first, second = sorted((root(_patient(exam)), root(f"~{image}")))  # "~" sorts behind every patient
            parents[second] = first
    return [root(_patient(exam)) for exam in exams]


def split(exams: Sequence[Exam], shares: Mapping[str, float], *, key: str) -> dict[str, list[Exam]]:
    """Exams by part, each group whole; `shares` are the parts' sizes in proportion, met as closely as chance does.

    Raises:
        DataError: an exam of unknown patient could belong to a patient of another part.
    """
    parts: dict[str, list[Exam]] = {name: [] for name in shares}
    for exam, anchor in zip(exams, group(exams), strict=True):
        parts[_part(anchor, shares, key)].append(exam)
    check_apart(parts)
    return parts


def check_apart(parts: Mapping[str, Sequence[Splittable]]) -> None:
    """Raise DataError, naming exams, where two parts share a patient or an image, or may share one unseen."""
    for (one, first), (two, second) in combinations(parts.items(), 2):
        overlaps = find_overlaps(first, second)
        if overlaps:
            named = "; ".join(f"{_name(a)} and {_name(b)} {why}" for a, b, why in overlaps[:NAMED])
            more = f" and {len(overlaps) - NAMED} more" if len(overlaps) > NAMED else ""
            raise DataError(
                f"{one} and {two} are not apart: {named}{more}. Leave these exams out of one of them, "
                "or let `python -m ml split` make the parts from all folders together"
            )


def apart_from(exams: Sequence[Exam], others: Sequence[Exam]) -> list[Exam]:
    """Those of `exams` that may judge what learns from `others`.

    The second exam of a patient goes with the first, of which the others have an image under another patient.
    """
    anchors = group([*others, *exams])
    taken = set(anchors[: len(others)])
    lost = {id(exam) for exam, _, _ in find_overlaps(exams, others)}
    own = zip(exams, anchors[len(others) :], strict=True)
    return [exam for exam, anchor in own if anchor not in taken and id(exam) not in lost]


def find_overlaps(
    first: Iterable[Splittable], second: Sequence[Splittable]
) -> list[tuple[Splittable, Splittable, str]]:
    """Pairs of exams, one of each part, that must not be apart, each exam of the first part at most once."""
    patients: dict[str, Splittable] = {_patient(exam): exam for exam in second}
    images = {image: exam for exam in second for image in exam.image_hashes}
    families: dict[str, list[Splittable]] = defaultdict(list)
    for exam in second:
        families[exam.family].append(exam)
    found: list[tuple[Splittable, Splittable, str]] = []
    for exam in first:
        same = patients.get(_patient(exam))
        twin = next((images[image] for image in exam.image_hashes if image in images), None)
        if same is not None:
            found.append((exam, same, "are of one patient"))
        elif twin is not None:
            found.append((exam, twin, "show the same image"))
        elif (stranger := _stranger(exam, families.get(exam.family, []))) is not None:
            why = f"are both made of {exam.family}, and whether of one patient cannot be told"
            found.append((exam, stranger, why))
    return found


def _stranger(exam: Splittable, others: Sequence[Splittable]) -> Splittable | None:
    """An exam that another data set took from the same family, where one of the two is of unknown patient."""
    strangers = (other for other in others if other.dataset != exam.dataset)
    return next((other for other in strangers if not (exam.patient_known and other.patient_known)), None)


def _patient(exam: Splittable) -> str:
    return f"{exam.family}/{exam.patient}"


def _name(exam: Splittable) -> str:
    return f"{exam.dataset} {exam.exam}"


def _part(anchor: str, shares: Mapping[str, float], key: str) -> str:
    """By a number that is even over [0, 1) and depends on the key and the group alone."""
    digest = blake2b(anchor.encode(), key=key.encode()[:64], digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64 * sum(shares.values())
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return list(shares)[-1]
