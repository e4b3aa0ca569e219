"""What a teacher says of a corpus, kept as soft scores: C and K can change without running the teacher again.

    teacher.json              which teacher, on which grid
    <exam>.npz                of one exam: `slice_logits` float32 (n,), `peaks` uint8 (n,), `0`, `1`, ... uint8 (v, u)

Probabilities of pixels are kept in steps of 1/255, compressed slice by slice: nearly all of a head is nearly 0, so
a slice of 512 x 512 takes kilobytes, and one slice is read without the others. A slice has its logit: probabilities of
clear bleeds all round to 1, where they have no order.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml.data.shards import Grid
from ml.errors import DataError
from ml.files import DAMAGED_ARRAYS, write_atomically

F32Array = npt.NDArray[np.float32]
U8Array = npt.NDArray[np.uint8]

STEPS = 255
"""A probability p is kept as round(255 p)."""


@dataclass(frozen=True)
class Teacher:
    """Whose scores they are."""

    digest: str
    """Of its bundle."""
    grid: Grid


class ScoreStore:
    """The scores of one teacher for one corpus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, teacher: Teacher) -> None:
        """Begin, or go on with what is there.

        Raises:
            DataError: the folder has scores of another teacher.
        """
        path = self.folder / "teacher.json"
        facts = json.loads(json.dumps(asdict(teacher)))
        if path.is_file() and json.loads(path.read_text()) != facts:
            raise DataError(f"{self.folder.name} has the scores of another teacher; choose another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(facts, indent=1).encode())

    def teacher_digest(self) -> str:
        """Raises DataError where there are no scores."""
        return self.teacher().digest

    def teacher(self) -> Teacher:
        """Raises DataError where there are no scores."""
        try:
            facts = json.loads((self.folder / "teacher.json").read_text())
            return Teacher(facts["digest"], Grid(**facts["grid"]))
        except FileNotFoundError as error:
            raise DataError(f"{self.folder.name} has no scores: run `python -m ml pseudo-label` first") from error

    def has(self, exam: str) -> bool:
        """Is this exam finished?"""
        return (self.folder / f"{exam}.npz").is_file()

    def write(self, exam: str, slice_logits: F32Array, prob_nvu: F32Array) -> None:
        """One exam's scores, whole or not at all."""
        kept = np.rint(prob_nvu * STEPS).astype(np.uint8)
        buffer = io.BytesIO()
        arrays: dict[str, npt.NDArray[np.generic]] = {str(row): one for row, one in enumerate(kept)}
        arrays |= {"slice_logits": slice_logits, "peaks": kept.max(axis=(1, 2))}
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_atomically(self.folder / f"{exam}.npz", buffer.getvalue())

    def slice_logits(self, exam: str) -> F32Array:
        """(n,) logit of the probability of hemorrhage of every analysed slice."""
        return np.asarray(self._read(exam, "slice_logits"), dtype=np.float32)

    def peaks(self, exam: str) -> U8Array:
        """(n,) highest kept score of every slice."""
        return np.asarray(self._read(exam, "peaks"), dtype=np.uint8)

    def pixels(self, exam: str, row: int) -> U8Array:
        """(v, u) kept scores of a slice."""
        return np.asarray(self._read(exam, str(row)), dtype=np.uint8)

    def _read(self, exam: str, name: str) -> npt.NDArray[np.generic]:
        try:
            with np.load(self.folder / f"{exam}.npz") as arrays:
                found: npt.NDArray[np.generic] = arrays[name]
        except FileNotFoundError as error:
            raise DataError(f"exam {exam} has no scores: run `python -m ml pseudo-label` again, it goes on") from error
        except DAMAGED_ARRAYS as error:
            raise DataError(
                f"the scores of exam {exam} are damaged: remove {exam}.npz, run `python -m ml pseudo-label` again"
            ) from error
        return found
