"""dicom3tools: what an independent validator says of an object. It checks IODs, not geometry and not SR templates."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset

from tests.peers.presence import need, program

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Verdict:
    """The validator's lines. `warnings` matters too: a missing FrameOfReferenceUID is only a warning."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    output: str


def dciodvfy(subject: Path | Dataset) -> Verdict:
    """Checks one object against its IOD (PS3.3); a dataset is written to a file first."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(subject, Dataset):
            path = Path(folder, "object.dcm")
            subject.save_as(path, enforce_file_format=True)
        else:
            path = subject
        return _verdict("dciodvfy", "-new", path)


def dcentvfy(files: Sequence[Path]) -> Verdict:
    """Checks that objects of one study agree on patient and study."""
    return _verdict("dcentvfy", *files)


def _verdict(tool: str, *arguments: str | Path) -> Verdict:
    need("dicom3tools")
    done = subprocess.run(
        [program(tool), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    errors = tuple(line for line in lines if line.startswith("Error") or "Object Not found" in line)
    if done.returncode and not errors:
        errors = (f"{tool} ended with {done.returncode}",)
    return Verdict(errors, tuple(line for line in lines if line.startswith("Warning")), done.stdout)
