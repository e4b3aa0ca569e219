"""A folder of DICOM as people have it, with several series perhaps: which one is the exam."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ml.data.choice import Series, choose, describe, series_of
from ml.data.part10 import begins_like_dicom, is_no_object
from ml.data.refusals import refusal
from ml.data.scanning import ImageFacts, read_facts


@dataclass(frozen=True)
class LeftSeries:
    """A series that was not read, and why."""

    series_instance_uid: str
    code: str
    reason: str


@dataclass(frozen=True)
class FoundSeries:
    """The series to read: its files, and what became of the others."""

    paths: tuple[Path, ...]
    series_instance_uid: str
    reason: str
    left_out: tuple[LeftSeries, ...]


def find_series(folder: Path) -> FoundSeries:
    """The series that stands for the exam, by `ml.data.choice`; the only one of a folder is taken as it is.

    Files that are no DICOM by name and content (a licence, a picture) do not count; a DICOM file that cannot be read
    does, because it may be a slice.
    Raises UnreadableStudy with a code of `refusals`, and OSError where a file cannot be read now.
    """
    facts = [read_facts(path) for path in _dicom_files(folder)]
    if not facts:
        raise refusal("NO_IMAGES")
    broken = sum(bool(one.fault) for one in facts)
    if broken:
        raise refusal("NOT_DICOM", count=broken, total=len(facts))
    by_series: dict[str, list[ImageFacts]] = defaultdict(list)
    for one in facts:
        by_series[one.series].append(one)
    every = [series_of(uid, images) for uid, images in sorted(by_series.items())]
    if len(every) == 1:
        return _found(every[0], "the only series", ())
    if len({one.patient for one in facts}) > 1:
        raise refusal("MIXED_PATIENTS")
    studies = {one.study for one in facts}
    if len(studies) > 1:
        raise refusal("MIXED_STUDIES", count=len(studies))
    chosen, verdicts = choose(every)
    left_out = tuple(LeftSeries(one.series.name, one.code, one.reason) for one in verdicts)
    if chosen is None:
        codes = sorted({one.code for one in left_out})
        raise refusal("NO_ELIGIBLE_SERIES", count=len(every), why=", ".join(codes))
    return _found(chosen, f"{describe(chosen)}, of {len(every)} series", left_out)


def _found(series: Series, reason: str, left_out: tuple[LeftSeries, ...]) -> FoundSeries:
    return FoundSeries(tuple(sorted(one.path for one in series.images)), series.name, reason, left_out)


def _dicom_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and _may_be_dicom(path))


def _may_be_dicom(path: Path) -> bool:
    """By name or by content."""
    return not is_no_object(path) and (path.suffix.lower() == ".dcm" or begins_like_dicom(path))
