"""What the readers share: options, tables, pairs of images and masks, names."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from ml.data.manifest import Catalogue, LeftOut
from ml.data.nifti import is_nifti, stem
from ml.data.scanning import Progress
from ml.errors import DataError

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SUFFIXES = re.compile(r"(_0000|[-_. ](seg|mask|label|labels|ct))$", re.IGNORECASE)
"""What programs put behind the name of an exam: nnU-Net's channel, the kind of file."""


@dataclass(frozen=True)
class Options:
    """How a folder is read."""

    workers: int = 0
    """Processes that read headers; 0 for this one."""
    progress: Progress | None = None
    boxes: Path | None = None
    """BHX: the folder with its tables, beside the CQ500 folder with the images."""


def read_table(path: Path, *, needs: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file that are not empty, values and column names without blanks around them.

    Raises:
        DataError: a column that is needed is missing, or it is no text in UTF-8.
    """
    try:
        yield from _read_rows(path, tuple(needs))
    except UnicodeDecodeError as error:
        raise DataError(f'{path.name} is not in UTF-8: save it as "CSV UTF-8"') from error


def _read_rows(path: Path, needs: tuple[str, ...]) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        names = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in needs if name not in names]
        if missing:
            raise DataError(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(names)}")
        reader.fieldnames = names
        for row in reader:
            cleaned = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
            if any(cleaned.values()):
                yield cleaned


def find(root: Path, *names: str) -> Path:
    """The first of the relative paths that exists under `root`; DataError says what was expected."""
    for name in names:
        if (root / name).exists():
            return root / name
    raise DataError(f"{root} has no {' or '.join(names)}: is this the folder of that data set? See docs/data.md")


def exam_name(text: str) -> str:
    """A name that may be a folder's; other characters make it a hash."""
    if SAFE_NAME.fullmatch(text):
        return text
    return "x" + blake2b(text.encode(), digest_size=8).hexdigest()


def nifti_files(root: Path, *folders: str) -> dict[str, Path]:
    """By exam: the NIfTI files of every folder whose own name starts with one of `folders`.

    Raises:
        DataError: two files for one exam.
    """
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if not is_nifti(path) or not path.parent.name.lower().startswith(folders):
            continue
        name = base_name(path)
        if name in found:
            raise DataError(f"{found[name]} and {path} both claim to be {name}; keep one of them in the folder")
        found[name] = path
    return found


def base_name(path: Path) -> str:
    """The exam's name in a file's name: without endings and suffixes."""
    return SUFFIXES.sub("", stem(path))


def leave_out_orphans(catalogue: Catalogue, root: Path, images: dict[str, Path], masks: dict[str, Path]) -> None:
    """Masks without images go into the report."""
    for name in sorted(masks.keys() - images.keys()):
        what = masks[name].relative_to(root).as_posix()
        catalogue.left_out.append(LeftOut(exam_name(name), what, "NO_IMAGES", "a mask without a scan of that name"))


def leave_out_others(catalogue: Catalogue, root: Path, images: dict[str, Path], masks: dict[str, Path]) -> None:
    """NIfTI files in folders of other names go into the report: a release may have more parts than are read."""
    taken = {*images.values(), *masks.values()}
    for path in sorted(root.rglob("*")):
        if is_nifti(path) and path not in taken:
            what = path.relative_to(root).as_posix()
            reason = "it lies in no folder of images or masks"
            catalogue.left_out.append(LeftOut(exam_name(base_name(path)), what, "OTHER_FOLDER", reason))
