"""Exams on disk as the network sees them: one small folder of memory-mapped arrays per exam, real or simulated.

    000123/hu.npy         int16 (z, v, u) HU on the network's grid
    000123/blood.npy      uint8 (z, v, u) 1 blood, 0 none, 255 not labelled; only where voxels are labelled
    000123/subtype.npy    uint8 (z, v, u) the `Subtype` of blood, 0 elsewhere and where it is not known; as blood.npy
    000123/exam.json      everything else; written last: without it there is no exam

Labels are nearly all 0, which takes no room on the disk: the files have holes there.
An exam is never changed once it is written; where its files or labels are others it is made anew (`--rescan`).
Exams written before exam.json had a "format" have pixel labels, a seed as their name, and nothing else.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.config import Preprocessing
from ml.data.exams import LabelledExam, patient_key
from ml.errors import DataError
from ml.files import TEMPORARY, whole_folder
from ml.inference.preprocessing import Prepared, prepare
from ml.labels import ANY, FINDINGS, IGNORE, FindingsArray, LabelLevel, Subtype, is_blood, union, unknown
from ml.volume import HuArray

FORMAT = 2
FACTS = "exam.json"
"""Of a folder with an exam: all but its arrays."""
SIMULATED = "simulated"
"""The data set's name of simulated exams; each is a patient of its own."""
HU_BYTES = 2
"""Of a pixel in hu.npy."""
BLOCK = 16_384
"""Bytes of a file that are left out together; a multiple of the blocks of usual file systems."""
HALF_COVERED = 0.5
MAPPED_FILES = 256
"""Arrays that one process keeps open: each holds a file descriptor, of which systems give 1024."""
TISSUE_HU, LEAST_TISSUE = -200, 0.01
"""Images with less tissue than this share are blank: two of them are the same and mean nothing."""

F32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """The part of `Preprocessing` that the arrays depend on."""

    pixel_mm: float
    size: int
    slab_mm: float
    neighbour_mm: float
    brain_only: bool = False
    adult_size: bool = False

    @classmethod
    def of(cls, config: Preprocessing) -> Grid:
        """The grid that `config` asks for."""
        names = (field.name for field in fields(cls))
        return cls(**{name: getattr(config, name) for name in names})


@dataclass(frozen=True, eq=False)
class ExamShard:
    """One exam on disk; arrays are mapped when they are asked for."""

    folder: Path
    dataset: str
    exam: str
    patient: str
    """From `patient_key`."""
    family: str
    """The collection that the patient comes from: the data set's name, or that of the set it was made of."""
    patient_known: bool
    """False where the key may stand for a patient that the family has under another key."""
    level: LabelLevel
    neighbours: npt.NDArray[np.intp]
    """(n, 3) slice indices: below, itself, above; one row for each slice that is analysed."""
    hemorrhage_ml: float | None
    """mL of labelled blood; None without pixel labels."""
    told: FindingsArray | None
    """(6,) findings of the exam; None in exams of the first format."""
    told_slices: FindingsArray | None
    """(n, 6) findings of the analysed slices; None in exams of the first format."""
    slice_names: tuple[str, ...]
    """(n,) SOP Instance UIDs, or for other formats the index in the file."""
    image_hashes: tuple[str, ...]
    """Of every source image that shows tissue: equal for images with equal HU."""
    left_out: tuple[tuple[str, str], ...]
    """Files of the exam that could not be read, each with the reason."""
    bleeding: tuple[int, ...] | None
    """Analysed slices with a pixel of blood; None without pixel labels and in exams of the first format."""
    grid: Grid | None
    """None in exams of the first format, which did not note it."""

    @property
    def hu(self) -> npt.NDArray[np.int16]:
        """(z, v, u)."""
        return _mapped(self.folder / "hu.npy")

    @property
    def blood(self) -> npt.NDArray[np.uint8]:
        """(z, v, u) 0, 1 or IGNORE; raises DataError for an exam without pixel labels."""
        if self.level is not LabelLevel.PIXEL:
            raise DataError(f"exam {self.exam} has labels at level {self.level}, not of its pixels")
        return _mapped(self.folder / "blood.npy")

    @property
    def subtype(self) -> npt.NDArray[np.uint8] | None:
        """(z, v, u) codes of `Subtype`, 0 elsewhere; None where no subtype is known."""
        path = self.folder / "subtype.npy"
        return _mapped(path) if path.is_file() else None

    @cached_property
    def slice_findings(self) -> FindingsArray:
        """(n, 6) of the analysed slices, -1 where not known."""
        if self.told_slices is not None:
            return self.told_slices
        found = unknown(len(self.neighbours))
        found[:, ANY] = [bool((self.blood[z] == 1).any()) for z in self.neighbours[:, 1]]
        return found

    @cached_property
    def findings(self) -> FindingsArray:
        """(6,) of the exam, -1 where not known."""
        return union(self.slice_findings) if self.told is None else self.told

    @cached_property
    def positive_slices(self) -> npt.NDArray[np.intp]:
        """Indices into `neighbours` of the slices known to show blood; with pixel labels, those with such a pixel."""
        if self.bleeding is not None:
            return np.array(self.bleeding, dtype=np.intp)
        return np.flatnonzero(self.slice_findings[:, ANY] == 1)


def open_exam(folder: Path) -> ExamShard:
    """The exam in a folder.

    Raises:
        DataError: there is none, it is damaged, or it was written by a newer program.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
    except FileNotFoundError as error:
        raise DataError(f"{folder.name} is no prepared exam: it has no exam.json") from error
    except ValueError as error:
        raise DataError(f"{folder} is damaged: run `python -m ml prepare` again, or remove that folder") from error
    if facts.get("format", 1) > FORMAT:
        raise DataError(f"{folder.name} has format {facts['format']}; this program reads up to {FORMAT}")
    return _shard(folder, facts)


def open_folder(folder: Path) -> list[ExamShard]:
    """Every exam of a folder, sorted by name."""
    return [open_exam(folder / name) for name in sorted(exam_names(folder))]


def exam_names(folder: Path) -> set[str]:
    """Of the exams in a folder."""
    return {path.parent.name for path in folder.glob(f"*/{FACTS}") if path.parent.suffix != TEMPORARY}


def has_exam(folder: Path) -> bool:
    """Is there an exam whose exam.json is not damaged?"""
    try:
        json.loads((folder / FACTS).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return True


def is_written(folder: Path, config: Preprocessing) -> bool:
    """Is there an exam already, on the grid of `config`? Raises DataError if it is on another one."""
    if not has_exam(folder):
        return False
    shard = open_exam(folder)
    if shard.grid is not None and shard.grid != Grid.of(config):
        raise DataError(
            f"exam {shard.exam} in {folder.parent.name}/ was prepared for another network ({shard.grid}); "
            "use another --out folder, or remove this one"
        )
    return True


def write_exam(folder: Path, exam: LabelledExam, config: Preprocessing) -> None:
    """Put an exam on the network's grid and write it to `folder`, at once or not at all; one that is there stays."""
    prepared = prepare(exam.volume, config)
    # Of a thin-slice exam only the slices that some patch can show are kept, as slabs of network thickness.
    kept, neighbours = np.unique(prepared.sampling.neighbours, return_inverse=True)
    neighbours = neighbours.reshape(prepared.sampling.neighbours.shape)
    arrays: dict[str, npt.NDArray[Any]] = {"hu": np.clip(np.rint(prepared.hu_zvu[kept]), -1024, 3071).astype(np.int16)}
    arrays |= _label_arrays(exam, prepared, kept)
    facts = _facts(exam, prepared) | {"neighbours": neighbours.tolist(), "grid": asdict(Grid.of(config))}
    if "blood" in arrays:
        facts["bleeding"] = np.flatnonzero((arrays["blood"][neighbours[:, 1]] == 1).any(axis=(1, 2))).tolist()
    with whole_folder(folder, has_exam) as new:
        for name, array in arrays.items():
            save_array(new / f"{name}.npy", array)
        (new / FACTS).write_text(json.dumps(facts))


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """As `numpy.save` does, but what is 0 over a whole block of the file is left out of it."""
    array = np.ascontiguousarray(array)
    content = array.reshape(-1).view(np.uint8)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        begin = file.tell()
        end = begin + len(content)
        for at in range(0, end, BLOCK):
            block = content[max(at - begin, 0) : at - begin + BLOCK]
            if block.any():
                file.seek(max(at, begin))
                file.write(block.tobytes())
        file.truncate(end)


def hash_images(hu_zyx: HuArray) -> list[str]:
    """A hash of every image that shows tissue; give them in standard orientation, so that formats agree."""
    rounded = np.rint(hu_zyx).astype(np.int16)
    return [
        blake2b(np.ascontiguousarray(one).tobytes(), digest_size=8).hexdigest()
        for one in rounded
        if np.mean(one > TISSUE_HU) >= LEAST_TISSUE
    ]


def _facts(exam: LabelledExam, prepared: Prepared) -> dict[str, Any]:
    """What exam.json says beside the arrays."""
    names = exam.volume.geometry.sop_instance_uids
    if prepared.orientation.flips[0]:
        names = names[::-1]
    return {
        "format": FORMAT,
        "dataset": exam.dataset,
        "exam": exam.exam,
        "patient": exam.patient,
        "family": exam.family or exam.dataset,
        "patient_known": exam.patient_known,
        "level": exam.level,
        "findings": exam.findings.tolist(),
        "slice_findings": _analysed_findings(exam, prepared).tolist(),
        "slice_names": [names[z] for z in prepared.sampling.analysed],
        "image_hashes": hash_images(prepared.orientation.apply(exam.volume.hu)),
        "hemorrhage_ml": exam.hemorrhage_ml,
        "left_out": exam.left_out,
    }


def _analysed_findings(exam: LabelledExam, prepared: Prepared) -> FindingsArray:
    """(n, 6): an analysed slice stands for the source slices that make up at least half as much of its slab as it, and
    for those that are told by its answer.
    """
    findings = exam.slice_findings[::-1] if prepared.orientation.flips[0] else exam.slice_findings
    slabs, spread = prepared.sampling.slabs, prepared.sampling.spread
    stands_for = [
        (slabs[z] >= slabs[z, z] / 2) | (spread[:, n] >= 1 / 2) for n, z in enumerate(prepared.sampling.analysed)
    ]
    return np.stack([union(findings[those]) for those in stands_for])


def _label_arrays(
    exam: LabelledExam, prepared: Prepared, kept: npt.NDArray[np.intp]
) -> dict[str, npt.NDArray[np.uint8]]:
    """blood and, where a subtype is known, subtype; nothing without pixel labels."""
    if exam.pixels is None:
        return {}
    codes = prepared.orientation.apply(exam.pixels)[kept]

    def share(where: npt.NDArray[np.bool_]) -> F32Array:
        return prepared.view.show(where.astype(np.float32))

    blood = (share(is_blood(codes)) >= HALF_COVERED).astype(np.uint8)
    if (codes == IGNORE).any():
        blood[share(codes == IGNORE) >= HALF_COVERED] = IGNORE
    present = [subtype for subtype in Subtype if (codes == subtype).any()]
    if not present:
        return {"blood": blood}
    shares = np.stack([share(codes == subtype) for subtype in present])
    best = np.array(present, dtype=np.uint8)[shares.argmax(axis=0)]
    return {"blood": blood, "subtype": np.where((blood == 1) & (shares.max(axis=0) > 0), best, 0).astype(np.uint8)}


def _shard(folder: Path, facts: dict[str, Any]) -> ExamShard:
    first = facts.get("format", 1) == 1
    name = f"{facts['seed']:06}" if first else facts["exam"]
    told, told_slices = facts.get("findings"), facts.get("slice_findings")
    return ExamShard(
        folder=folder,
        dataset=facts.get("dataset", SIMULATED),
        exam=name,
        patient=facts.get("patient") or patient_key(SIMULATED, name),
        family=facts.get("family") or facts.get("dataset", SIMULATED),
        patient_known=facts.get("patient_known", True),
        level=LabelLevel(facts.get("level", LabelLevel.PIXEL)),
        neighbours=np.array(facts["neighbours"]),
        hemorrhage_ml=facts["hemorrhage_ml"],
        told=None if told is None else np.array(told, dtype=np.int8),
        told_slices=None if told_slices is None else np.array(told_slices, dtype=np.int8).reshape(-1, len(FINDINGS)),
        slice_names=tuple(facts.get("slice_names", ())),
        image_hashes=tuple(facts.get("image_hashes", ())),
        left_out=tuple((name, reason) for name, reason in facts.get("left_out", ())),
        bleeding=tuple(facts["bleeding"]) if "bleeding" in facts else None,
        grid=Grid(**facts["grid"]) if facts.get("grid") else None,
    )


@lru_cache(maxsize=MAPPED_FILES)
def _mapped(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return array
