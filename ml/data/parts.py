"""A split on disk: a folder for each part, with links to prepared exams, for commands that take folders of exams.

<part>/<data set>-<exam>    a link to the exam's folder
split.json                  the key, the shares, and the exams of each part; written last
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml.data.shards import ExamShard, open_folder
from ml.data.splits import apart_from, check_apart, split
from ml.errors import DataError
from ml.files import write_atomically

SPLIT = "split.json"


def make_parts(
    folders: Sequence[Path],
    shares: Mapping[str, float],
    *,
    key: str,
    hold_out: Mapping[str, Path],
    drop_overlaps: bool = False,
) -> dict[str, list[ExamShard]]:
    """The exams of all folders, split together, and beside them whole folders that are parts as they are.

    `drop_overlaps`: exams of a held-out folder that are also in the others, by whatever links, are left out of it.

    Raises:
        DataError: parts are not apart, or two exams of one part have one name.
    """
    clash = sorted(shares.keys() & hold_out.keys())
    if clash or not shares or min(shares.values()) <= 0:
        raise DataError(f"parts need names of their own and shares above 0 ({', '.join(clash) or dict(shares)})")
    pool = [exam for folder in folders for exam in _exams(folder)]
    parts = split(pool, shares, key=key)
    for name, folder in hold_out.items():
        exams = _exams(folder)
        if drop_overlaps:
            exams = apart_from(exams, pool)
        parts[name] = exams
    check_apart(parts)
    for exams in parts.values():
        _check_links(exams)
    empty = [name for name, exams in parts.items() if not exams]
    if empty:
        raise DataError(f"no exam is left for {', '.join(empty)}; give more exams, another --key or another share")
    return parts


def write_parts(out: Path, parts: Mapping[str, Sequence[ExamShard]], *, key: str, shares: Mapping[str, float]) -> None:
    """Links and split.json; a folder that has one already is refused, so that no result changes its meaning.

    So is one with the links of another, which was stopped or lost its split.json: an exam would be in two parts.
    """
    if (out / SPLIT).exists() or any(any((out / name).glob("*")) for name in parts):
        raise DataError(f"{out} holds a split already, or a part of one; remove that folder, or give another --out")
    for name, exams in parts.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        for exam in exams:
            link = out / name / _link(exam)
            link.symlink_to(os.path.relpath(exam.folder.resolve(), link.parent.resolve()))
    told = {name: [f"{exam.dataset}/{exam.exam}" for exam in exams] for name, exams in parts.items()}
    write_atomically(out / SPLIT, json.dumps({"key": key, "shares": dict(shares), "parts": told}, indent=1).encode())


def _check_links(exams: Sequence[ExamShard]) -> None:
    """Of two exams with one name the link of the second would take the place of the first."""
    seen: dict[str, ExamShard] = {}
    for exam in exams:
        other = seen.setdefault(_link(exam), exam)
        if other is not exam:
            places = " and ".join(sorted(one.folder.resolve().parent.name for one in (exam, other)))
            raise DataError(
                f"{places} both have an exam {exam.dataset} {exam.exam}: rename the files of one of them and prepare "
                "it again, or split each by itself"
            )


def _link(exam: ExamShard) -> str:
    return f"{exam.dataset}-{exam.exam}"


def _exams(folder: Path) -> list[ExamShard]:
    exams = open_folder(folder)
    if not exams:
        raise DataError(f"{folder} holds no prepared exam; `python -m ml prepare` makes them")
    return exams
