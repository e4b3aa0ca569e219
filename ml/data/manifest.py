"""What a data set's folder holds: its exams, and everything that was left out, each with a reason. On disk:

manifest.jsonl    one line per exam (`ExamSource`); the first line says of which data set and reader
left-out.csv      exam, what, code, reason
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ml.data.sources import Box, ExamSource, MaskFile
from ml.errors import DataError
from ml.files import write_atomically

MANIFEST, LEFT_OUT = "manifest.jsonl", "left-out.csv"
FORMAT = 1
COLUMNS = ("exam", "what", "code", "reason")


@dataclass(frozen=True)
class LeftOut:
    """Something that is in the folder and not among the exams."""

    exam: str
    """Empty where it belongs to none."""
    what: str
    """A file, series or table row, relative to the data set's folder."""
    code: str
    reason: str


@dataclass
class Catalogue:
    """What a reader finds; it fills the two lists."""

    dataset: str
    exams: list[ExamSource] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def write_manifest(folder: Path, catalogue: Catalogue) -> None:
    """Both files, the manifest last: with it the reading of headers is done."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / LEFT_OUT, catalogue.left_out)
    head = {"format": FORMAT, "dataset": catalogue.dataset, "exams": len(catalogue.exams)}
    lines = [json.dumps(head), *(json.dumps(_row(exam)) for exam in catalogue.exams)]
    write_atomically(folder / MANIFEST, ("\n".join(lines) + "\n").encode())


def write_rows(path: Path, rows: Iterable[LeftOut]) -> None:
    """A report as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((row.exam, row.what, row.code, row.reason) for row in rows)
    write_atomically(path, text.getvalue().encode())


def read_head(folder: Path) -> dict[str, Any] | None:
    """The first line of a manifest; None where there is none. Raises DataError for one of another format."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        head: dict[str, Any] = json.loads(file.readline())
    if head.get("format") != FORMAT:
        raise DataError(f"{path} has format {head.get('format')}; remove it, and the folder is read anew")
    return head


def read_manifest(folder: Path) -> Iterator[ExamSource]:
    """The exams, one after the other: a manifest of a large set is never in memory as a whole."""
    if read_head(folder) is None:
        raise DataError(f"{folder} has no {MANIFEST}: prepare the data set first")
    with (folder / MANIFEST).open(encoding="utf-8") as file:
        next(file)
        for line in file:
            yield _exam(json.loads(line))


def changed_exams(folder: Path, exams: Iterable[ExamSource]) -> set[str]:
    """Those of which the manifest says something else: other files, masks or labels."""
    with (folder / MANIFEST).open(encoding="utf-8") as file:
        next(file)
        told = {json.loads(line)["exam"]: _digest(line) for line in file}
    return {exam.exam for exam in exams if told.get(exam.exam) != _digest(json.dumps(_row(exam)))}


def read_left_out(folder: Path) -> list[LeftOut]:
    """The rows of left-out.csv."""
    with (folder / LEFT_OUT).open(encoding="utf-8", newline="") as file:
        return [LeftOut(**{name: row[name] for name in COLUMNS}) for row in csv.DictReader(file)]


def _digest(line: str) -> bytes:
    return blake2b(line.strip().encode(), digest_size=8).digest()


def _row(exam: ExamSource) -> dict[str, Any]:
    row = {name: value for name, value in vars(exam).items() if value not in ((), {}, "")}
    row["images"] = [path.as_posix() for path in exam.images]
    if exam.masks:
        row["masks"] = [{"path": mask.path.as_posix(), "values": mask.values} for mask in exam.masks]
    if exam.boxes:
        row["boxes"] = [asdict(box) for box in exam.boxes]
    return row


def _exam(row: dict[str, Any]) -> ExamSource:
    row["images"] = tuple(Path(path) for path in row["images"])
    masks = row.pop("masks", ())
    row["masks"] = tuple(MaskFile(Path(mask["path"]), _values(mask["values"])) for mask in masks)
    row["boxes"] = tuple(Box(**box) for box in row.pop("boxes", ()))
    row["findings"] = tuple(row["findings"])
    row["slice_findings"] = {name: tuple(found) for name, found in row.pop("slice_findings", {}).items()}
    return ExamSource(**row)


def _values(values: dict[str, int] | None) -> dict[int, int] | None:
    """JSON has text for keys."""
    return None if values is None else {int(value): code for value, code in values.items()}
