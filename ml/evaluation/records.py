"""One model's answers on one set of exams, on disk: what every figure of every table is computed from.

    origin.json           which bundle, commit and command answered, on what data, and the exams in order
    exams/<exam>.json     one exam's answer beside its truth; without it the exam is not finished
    exams/<exam>.npz      its pixels: histograms and masks; none where the set has no pixel labels

Records are written exam by exam, whole or not at all, so an evaluation that was stopped goes on where it was. No
image is kept here, and no patient's data: `exam` and `group` are the data set's own pseudonyms.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ml.errors import EvaluationError
from ml.evaluation.pixels import BINS, COARSE_BINS, IntArray, PixelHistogram
from ml.files import DAMAGED_ARRAYS, write_atomically
from ml.volume import MaskArray

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MASKS = ("truth", "over_threshold", "reported")

_Model = TypeVar("_Model")


@dataclass(frozen=True)
class Origin:
    """Where the answers of a record folder come from: the trace of every figure made of them."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    data: str
    """What was read, so that it can be read again: `phantom:B:2000000+80@512`, or a prepared folder's name."""
    exams: tuple[str, ...]
    """Every exam of the set, in order; those without a record are not finished."""
    commit: str
    command: str
    bundle: str | None = None
    """Name and version; None for answers that others published."""
    digest: str | None = None
    """SHA-256 (hex) of the bundle."""
    pixel_prob: float | None = None
    """From where a pixel counts as hemorrhage in `over_threshold`."""
    exam_threshold: float | None = None
    least_lesion_ml: float | None = None
    reading: int = 1
    """Which expert reading the truth is (paper 2.5); a simulated second reading is drawn from the first."""


@dataclass(frozen=True)
class ImageCounts:
    """Pixels of every image of an exam, (z,) each."""

    pixels: tuple[int, ...]
    truth: tuple[int, ...]
    over_threshold: tuple[int, ...]
    """Probability at or above the bundle's pixel threshold: what the paper's DSC is about."""
    over_threshold_true: tuple[int, ...]
    reported: tuple[int, ...]
    """Of the reported mask: small islands removed, empty in a negative exam."""
    reported_true: tuple[int, ...]


@dataclass(frozen=True)
class LesionMatches:
    """Connected components (26 neighbours) of truth and of the reported mask."""

    truth_ml: tuple[float, ...]
    found: tuple[bool, ...]
    """For each true lesion: does the reported mask touch it?"""
    false_ml: tuple[float, ...]
    """Reported lesions that touch no true one."""


@dataclass(frozen=True)
class ExamRecord:
    """One exam: the answer, and the truth as far as the set has it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    exam: str
    group: str
    """Exams of one patient share it: they are drawn together by a patient-level bootstrap. Those of two patients that
    show one image do not: nothing is said here of images."""
    bleeding: bool
    """The reference standard of the exam."""
    exam_score: float
    exam_called: bool | None = None
    """Positive at the operating point; None where only a score was published."""
    subtypes: tuple[str, ...] | None = None
    """Those present, of EDH, IPH, IVH, SAH and SDH; None where the set does not tell."""
    slice_scores: tuple[float, ...] = ()
    slice_bleeding: tuple[bool | None, ...] = ()
    """None for a slice that nobody judged."""
    truth_ml: float | None = None
    reported_ml: float | None = None
    counts: ImageCounts | None = None
    lesions: LesionMatches | None = None
    seconds: float | None = None
    """Of the prediction."""


@dataclass(frozen=True, eq=False)
class ExamPixels:
    """The pixels behind an exam's record."""

    histogram: PixelHistogram
    image_positives: IntArray
    """(z, COARSE_BINS)"""
    image_negatives: IntArray
    masks: dict[str, MaskArray]
    """MASKS, each (z, y, x)."""


@dataclass(frozen=True, eq=False)
class RecordSet:
    """A folder of records, read: those of the exams asked for, in the set's order."""

    folder: Path
    origin: Origin
    records: tuple[ExamRecord, ...]

    @property
    def missing(self) -> int:
        """Exams that were planned and have no record."""
        return len(self.origin.exams) - len(self.records)

    def pixels(self, record: ExamRecord) -> ExamPixels:
        """The pixels of one of its exams, read now. Raises EvaluationError where there are none."""
        return _read_pixels(self.folder / "exams" / f"{record.exam}.npz")


_ORIGIN = TypeAdapter(Origin)
_RECORD = TypeAdapter(ExamRecord)


def open_folder(folder: Path, origin: Origin) -> tuple[str, ...]:
    """Begin or resume a set: the exams that still have no record.

    Raises:
        EvaluationError: the folder has answers of another bundle, of other data or at other thresholds, or a name
            is none that a file can have.
    """
    unsafe = [exam for exam in origin.exams if not SAFE_NAME.fullmatch(exam)]
    if unsafe or len(set(origin.exams)) < len(origin.exams):
        raise EvaluationError(f"{len(unsafe)} exams have names that no file can have, or names occur twice")
    path = folder / "origin.json"
    missing = tuple(exam for exam in origin.exams if not (folder / "exams" / f"{exam}.json").exists())
    if path.exists():
        before = read_origin(folder)
        if not _same_answers(before, origin):
            raise EvaluationError(
                f"{folder.name} has answers of {before.bundle or before.model} on {before.data}, not of "
                f"{origin.bundle or origin.model} on {origin.data}; choose another folder, or remove it"
            )
        if not missing:
            return ()
    (folder / "exams").mkdir(parents=True, exist_ok=True)
    write_atomically(path, _ORIGIN.dump_json(origin, indent=1) + b"\n")
    return missing


def write_record(folder: Path, record: ExamRecord, pixels: ExamPixels | None = None) -> None:
    """Add one exam to an opened folder; the JSON file comes last and says that the exam is finished."""
    if pixels is not None:
        write_atomically(folder / "exams" / f"{record.exam}.npz", _pack(pixels))
    write_atomically(folder / "exams" / f"{record.exam}.json", _RECORD.dump_json(record, indent=1) + b"\n")


def read_origin(folder: Path) -> Origin:
    """Raises EvaluationError where there is none."""
    return _read(folder / "origin.json", _ORIGIN)


def read_records(folder: Path) -> RecordSet:
    """All finished records of a folder; raises EvaluationError for a missing origin or a damaged record."""
    origin = read_origin(folder)
    paths = [folder / "exams" / f"{exam}.json" for exam in origin.exams]
    return RecordSet(folder, origin, tuple(_read(path, _RECORD) for path in paths if path.exists()))


def write_published(folder: Path, origin: Origin, records: Sequence[ExamRecord]) -> None:
    """A whole set at once: the exam scores that others published for it (paper 2.3, the Qure.ai model)."""
    open_folder(folder, origin)
    for record in records:
        write_record(folder, record)


def _same_answers(one: Origin, other: Origin) -> bool:
    """All but commit and command: a program that was changed may go on, and is named where it added an exam."""
    return replace(one, commit="", command="") == replace(other, commit="", command="")


def _read(path: Path, kind: TypeAdapter[_Model]) -> _Model:
    try:
        return kind.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise EvaluationError(f"{path.parent.name}/{path.name} is missing: run `python -m ml evaluate`") from error
    except ValidationError as error:
        raise EvaluationError(
            f"{path.parent.name}/{path.name} is damaged or of another version: remove it and evaluate again"
        ) from error


def _pack(pixels: ExamPixels) -> bytes:
    """Only occupied bins, and one bit for each pixel of a mask."""
    buffer = io.BytesIO()
    occupied = np.flatnonzero(pixels.histogram.positives + pixels.histogram.negatives)
    coarse = np.flatnonzero((pixels.image_positives + pixels.image_negatives).ravel())
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "bins": occupied.astype(np.int32),
        "positives": pixels.histogram.positives[occupied],
        "negatives": pixels.histogram.negatives[occupied],
        "image_bins": coarse.astype(np.int32),
        "image_positives": pixels.image_positives.ravel()[coarse].astype(np.int32),
        "image_negatives": pixels.image_negatives.ravel()[coarse].astype(np.int32),
        "shape": np.array(pixels.masks["truth"].shape),
        **{name: np.packbits(pixels.masks[name]) for name in MASKS},
    }
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _read_pixels(path: Path) -> ExamPixels:
    try:
        with np.load(path) as saved:
            arrays: dict[str, npt.NDArray[np.generic]] = dict(saved)
    except FileNotFoundError as error:
        raise EvaluationError(f"{path.name} is missing: the set has no pixel labels, or evaluate it again") from error
    except DAMAGED_ARRAYS as error:
        raise EvaluationError(f"{path.name} is damaged: remove it with its .json and evaluate again") from error
    shape = tuple(int(one) for one in arrays["shape"])
    size = int(np.prod(shape))
    return ExamPixels(
        histogram=PixelHistogram(
            _spread(arrays["bins"], arrays["positives"], BINS), _spread(arrays["bins"], arrays["negatives"], BINS)
        ),
        image_positives=_spread(arrays["image_bins"], arrays["image_positives"], shape[0] * COARSE_BINS).reshape(
            shape[0], -1
        ),
        image_negatives=_spread(arrays["image_bins"], arrays["image_negatives"], shape[0] * COARSE_BINS).reshape(
            shape[0], -1
        ),
        masks={
            name: np.unpackbits(arrays[name].astype(np.uint8), count=size).astype(np.bool_).reshape(shape)
            for name in MASKS
        },
    )


def _spread(bins: npt.NDArray[np.generic], counts: npt.NDArray[np.generic], size: int) -> IntArray:
    dense = np.zeros(size, dtype=np.int64)
    dense[bins.astype(np.intp)] = counts.astype(np.int64)
    return dense
