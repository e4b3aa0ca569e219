"""Headers of whole folders, read by several processes: which files are images, of which study and series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.multival import MultiValue

from ml.data.headers import numbers, read_tags
from ml.data.parallel import map_in_processes
from ml.data.part10 import is_of_the_disk, open_file

CHUNK = 128
"""Files that one task reads."""
KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "ImageType"),
    *("SeriesDescription", "ConvolutionKernel", "ContrastBolusAgent", "SliceThickness"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
)

FAULTS = frozenset(["NOT_DICOM", "FILE_UNREADABLE"])
"""What is wrong with a file, or with the disk that did not give it."""

Progress = Callable[[int], None]
"""Called with the number of files that were read."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the header of one file says; empty or None where it does not."""

    path: Path
    fault: str = ""
    """Why the file could not be read; `fault_code` is one of FAULTS."""
    fault_code: str = ""
    image: str = ""
    """SOP Instance UID."""
    study: str = ""
    series: str = ""
    patient: str = ""
    """PatientID: for keys only, never to be written anywhere."""
    sop_class: str = ""
    modality: str = ""
    image_type: tuple[str, ...] = ()
    description: str = ""
    kernel: str = ""
    contrast: str = ""
    thickness_mm: float | None = None
    offset_mm: float | None = None
    """Position along the slice normal."""
    off_axis_degrees: float | None = None
    """Angle between the slice normal and the body axis."""


def scan(paths: Iterable[Path], *, workers: int, progress: Progress | None = None) -> Iterator[ImageFacts]:
    """The facts of every file, in no order; a file that the disk does not give has a fault too."""
    waiting = iter(paths)
    chunks = iter(lambda: list(islice(waiting, CHUNK)), [])
    for facts in map_in_processes(_read_all, chunks, workers=workers, name=_name):
        if progress is not None:
            progress(len(facts))
        yield from facts


def read_facts(path: Path) -> ImageFacts:
    """The facts of one file. Raises OSError: one that cannot be read now is no broken file."""
    try:
        with open_file(path) as file:
            ds = read_tags(file, KEYWORDS)
            return _facts(path, ds)
    except Exception as error:  # pydicom raises a dozen types on broken bytes
        if is_of_the_disk(error):
            raise
        return ImageFacts(path, fault=f"is no readable DICOM: {type(error).__name__}", fault_code="NOT_DICOM")


def _read_all(paths: list[Path]) -> list[ImageFacts]:
    return [_read(path) for path in paths]


def _read(path: Path) -> ImageFacts:
    """One file of many; the others must not wait for it."""
    try:
        return read_facts(path)
    except OSError as error:
        return ImageFacts(path, fault=f"cannot be read: {error.strerror}", fault_code="FILE_UNREADABLE")


def _name(paths: list[Path]) -> str:
    return f"{paths[0]} and the {len(paths) - 1} files after it"


def _facts(path: Path, ds: Any) -> ImageFacts:
    def text(keyword: str) -> str:
        value = ds.get(keyword)
        if isinstance(value, MultiValue):
            return "\\".join(map(str, value))  # as it is stored (PS3.5 section 6.4)
        return "" if value is None else str(value).strip()

    offset, degrees = _place(ds)
    thickness = numbers(ds, "SliceThickness", 1)
    return ImageFacts(
        path=path,
        image=text("SOPInstanceUID"),
        study=text("StudyInstanceUID"),
        series=text("SeriesInstanceUID"),
        patient=text("PatientID"),
        sop_class=text("SOPClassUID"),
        modality=text("Modality").upper(),
        image_type=tuple(str(part).upper() for part in ds.get("ImageType") or ()),
        description=text("SeriesDescription"),
        kernel=text("ConvolutionKernel"),
        contrast=text("ContrastBolusAgent"),
        thickness_mm=thickness[0] if thickness and thickness[0] > 0 else None,
        offset_mm=offset,
        off_axis_degrees=degrees,
    )


def _place(ds: Any) -> tuple[float | None, float | None]:
    position, cosines = numbers(ds, "ImagePositionPatient", 3), numbers(ds, "ImageOrientationPatient", 6)
    if position is None or cosines is None:
        return None, None
    row, column = np.split(np.array(cosines), 2)
    normal = np.cross(row, column)
    length = float(np.linalg.norm(normal))
    if not 0.9 < length < 1.1:
        return None, None
    offset = float(np.array(position) @ normal) / length
    return offset, float(np.degrees(np.arccos(min(1.0, abs(normal[2]) / length))))
