"""A data set's folder to shards, once: headers are read, then every exam is decoded by one of several processes.

    manifest.jsonl     the exams (`ml.data.manifest`)
    left-out.csv       what is no exam, by choice, and why
    unreadable.csv     damaged files and exams, each with what is wrong with it
    <exam>/            the shards (`ml.data.shards`)

A preparation that was stopped goes on where it was: the manifest is there, and so are the exams that were finished.
Memory stays flat: exams are drawn from the manifest as processes become free, and what comes back is names and reasons.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ml.config import Preprocessing
from ml.data.manifest import (
    LeftOut,
    changed_exams,
    read_head,
    read_left_out,
    read_manifest,
    write_manifest,
    write_rows,
)
from ml.data.nifti import is_nifti
from ml.data.parallel import map_in_processes
from ml.data.readers import READERS, Options
from ml.data.scanning import FAULTS
from ml.data.shards import FACTS, HU_BYTES, exam_names, has_exam, is_written, open_exam, write_exam
from ml.data.sources import ExamSource
from ml.errors import DataError, UnreadableStudy
from ml.files import remove_stale
from ml.progress import Stage, warn

UNREADABLE = "unreadable.csv"


@dataclass(frozen=True)
class Preparation:
    """What is to be prepared, and how."""

    kind: str
    """A name of `READERS`."""
    root: Path
    out: Path
    preprocessing: Preprocessing
    workers: int = 0
    boxes: Path | None = None
    rescan: bool = False
    """Read the headers anew even where there is a manifest, and make exams anew that have other files or labels."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    written: int
    """Exams decoded now."""
    kept: int
    """Exams that were there already."""
    unreadable: tuple[LeftOut, ...]
    """Damaged files and exams; as in unreadable.csv."""
    left_over: int = 0
    """Exams that were prepared before and are not in the data set's folder, or no longer."""


@dataclass(frozen=True)
class _Done:
    exam: str
    state: str
    """written, kept or failed."""
    unreadable: tuple[LeftOut, ...] = ()


def prepare_exams(preparation: Preparation, stage: Stage) -> Outcome:
    """Read headers, then decode and write what is missing.

    Raises:
        DataError: the folder is not that data set's, the shards are of another grid or data set, or a process died.
    """
    out = preparation.out
    total = _catalogue(preparation, stage)
    remove_stale(out)
    _warn_of_room(preparation)
    unreadable = [row for row in read_left_out(out) if row.code in FAULTS]
    counts = {"written": 0, "kept": 0, "failed": 0}
    tell = stage("decoding", total)
    work = partial(prepare_exam, root=preparation.root, out=out, preprocessing=preparation.preprocessing)
    for done in map_in_processes(work, read_manifest(out), workers=preparation.workers, name=_name):
        counts[done.state] += 1
        unreadable += done.unreadable
        tell(done.exam if done.state != "failed" else f"{done.exam}: {done.unreadable[0].code}")
    unreadable.sort(key=lambda row: (row.exam, row.what))
    write_rows(out / UNREADABLE, unreadable)
    if counts["failed"] == total:
        first = unreadable[0]
        raise DataError(f"no exam can be read: see {out / UNREADABLE}; the first: {first.exam}: {first.reason}")
    left_over = len(exam_names(out) - {source.exam for source in read_manifest(out)})
    return Outcome(counts["written"], counts["kept"], tuple(unreadable), left_over)


def prepare_exam(source: ExamSource, *, root: Path, out: Path, preprocessing: Preprocessing) -> _Done:
    """Decode one exam and write it, unless it is there; what cannot be read comes back with its reason."""
    folder = out / source.exam
    if is_written(folder, preprocessing):
        return _Done(source.exam, "kept", _files(source, open_exam(folder).left_out))
    try:
        exam = source.load(root)
    except UnreadableStudy as error:
        return _failed(source, error.code, str(error))
    except OSError as error:
        return _failed(source, "FILE_UNREADABLE", f"{error.strerror or type(error).__name__}: {error.filename}")
    except Exception as error:  # noqa: BLE001 (one exam that no check foresaw must not end a run of days)
        return _failed(source, type(error).__name__, str(error)[:200])
    try:
        write_exam(folder, exam, preprocessing)
    except OSError as error:
        raise DataError(
            f"exam {source.exam} could not be written to {out}: {error.strerror}. What is finished stays; "
            "make room and run the same command again"
        ) from error
    return _Done(source.exam, "written", _files(source, exam.left_out))


def _catalogue(preparation: Preparation, stage: Stage) -> int:
    """The number of exams; the manifest is written where there is none."""
    out, kind = preparation.out, preparation.kind
    head = read_head(out)
    if head is not None and head["dataset"] != kind:
        raise DataError(f"{out} holds the exams of {head['dataset']}; give {kind} a folder of its own")
    if head is None or preparation.rescan:
        seen = 0
        tell = stage("reading headers", None)

        def progress(files: int) -> None:
            nonlocal seen
            seen += files
            tell(f"{seen} files")

        options = Options(workers=preparation.workers, progress=progress, boxes=preparation.boxes)
        catalogue = READERS[kind](preparation.root, options)
        _check_names(catalogue.exams)
        if head is not None:
            _take_away(out, preparation.root, catalogue.exams)
        write_manifest(out, catalogue)
        head = {"exams": len(catalogue.exams)}
    return int(head["exams"])


def _warn_of_room(preparation: Preparation) -> None:
    """Tell, before hours of work, where the disk may be too small if every DICOM image is kept; thin ones are not."""
    out = preparation.out
    images = sum(
        len(source.images)
        for source in read_manifest(out)
        if not (out / source.exam / FACTS).is_file() and not is_nifti(source.images[0])
    )
    most, free = images * preparation.preprocessing.size**2 * HU_BYTES, shutil.disk_usage(out).free
    if most > free:
        warn(
            f"{out} may take up to {most / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free there; where the disk "
            "gets full, what is finished stays"
        )


def _take_away(out: Path, root: Path, exams: list[ExamSource]) -> None:
    """Prepared exams that have other files or labels now, or lacked some that could not be read: to be made anew."""
    changed = changed_exams(out, exams)
    for exam in exams:
        folder = out / exam.exam
        if has_exam(folder) and (
            exam.exam in changed or open_exam(folder).left_out or _has_newer_files(folder, root, exam)
        ):
            shutil.rmtree(folder)


def _has_newer_files(folder: Path, root: Path, exam: ExamSource) -> bool:
    """Whether an image or mask was replaced after the exam was made.

    By the time at which the file came there: a copy may bring along the time at which the original was written.
    """
    made = (folder / FACTS).stat().st_mtime_ns
    paths = (*exam.images, *(mask.path for mask in exam.masks))
    return any((root / path).stat().st_ctime_ns > made for path in paths)


def _check_names(exams: list[ExamSource]) -> None:
    names = [exam.exam for exam in exams]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"{len(twice)} names stand for two exams each, the first: {twice[0]}; rename one of its files")


def _failed(source: ExamSource, code: str, reason: str) -> _Done:
    return _Done(source.exam, "failed", (LeftOut(source.exam, source.images[0].parent.as_posix(), code, reason),))


def _files(source: ExamSource, left_out: tuple[tuple[str, str], ...]) -> tuple[LeftOut, ...]:
    rows = [(name, *reason.partition(": ")[::2]) for name, reason in left_out]
    return tuple(LeftOut(source.exam, name, code, reason) for name, code, reason in rows)


def _name(source: ExamSource) -> str:
    return source.exam
