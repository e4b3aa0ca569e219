"""Where an exam of a data set lies on disk and what is known about it, before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ml.data.exams import LabelledExam
from ml.data.masks import read_mask
from ml.data.nifti import is_nifti, read_nifti
from ml.data.series import read_intact
from ml.labels import FINDINGS, UNKNOWN, FindingsArray, LabelArray
from ml.volume import Volume

Findings = tuple[int, ...]
"""Six findings in the order of `ml.labels.FINDINGS`."""
NOTHING_KNOWN: Findings = (UNKNOWN,) * len(FINDINGS)


@dataclass(frozen=True)
class Box:
    """A rectangle drawn around a bleed, in pixels of its image."""

    image: str
    """SOP Instance UID."""
    x: float
    y: float
    width: float
    height: float
    label: str
    """A name of `FINDINGS`, or "chronic"."""


@dataclass(frozen=True)
class MaskFile:
    """A file with an expert's mask."""

    path: Path
    values: Mapping[int, int] | None = None
    """NIfTI: value -> code of `ml.labels`; None where all above 0 is blood of unknown subtype."""


@dataclass(frozen=True)
class ExamSource:
    """One exam of a data set: a row of the manifest. Paths are relative to the data set's folder."""

    dataset: str
    exam: str
    """Unique within the data set; letters, digits, dot, dash and underscore."""
    patient: str
    """From `patient_key`."""
    images: tuple[Path, ...]
    """The files of one DICOM series, or one NIfTI file."""
    family: str = ""
    """The collection that the patients come from: the data set's own name, or that of the set it was made of."""
    patient_known: bool = True
    """False where the patient's identity within the family is not told, so that overlaps cannot be excluded."""
    masks: tuple[MaskFile, ...] = ()
    findings: Findings = NOTHING_KNOWN
    slice_findings: Mapping[str, Findings] = field(default_factory=dict)
    """By SOP Instance UID; of NIfTI files by the index of the slice in the file."""
    boxes: tuple[Box, ...] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    """Probabilities that others published for the exam, by finding."""
    choice: str = ""
    """Why this series stands for the exam, where there were several."""

    def load(self, root: Path) -> LabelledExam:
        """Decode images and masks; raises UnreadableStudy."""
        images = [root / path for path in self.images]
        broken: dict[Path, str] = {}
        if is_nifti(images[0]):
            volume = read_nifti(images[0])
        else:
            volume, broken = read_intact(images)
        return LabelledExam(
            dataset=self.dataset,
            exam=self.exam,
            patient=self.patient,
            volume=volume,
            pixels=self._pixels(root, volume),
            told_slices=self._told_slices(volume),
            told=np.array(self.findings, dtype=np.int8),
            family=self.family,
            patient_known=self.patient_known,
            left_out=tuple((str(path.relative_to(root)), reason) for path, reason in broken.items()),
        )

    def _pixels(self, root: Path, volume: Volume) -> LabelArray | None:
        """Where masks overlap, the first one's code stays."""
        pixels: LabelArray | None = None
        height, width = volume.hu.shape[1:]
        for mask in self.masks:
            codes = read_mask(root / mask.path, volume.geometry, shape=(height, width), values=mask.values)
            pixels = codes if pixels is None else np.where(pixels > 0, pixels, codes)
        return pixels

    def _told_slices(self, volume: Volume) -> FindingsArray | None:
        if not self.slice_findings:
            return None
        names = volume.geometry.sop_instance_uids
        return np.array([self.slice_findings.get(name, NOTHING_KNOWN) for name in names], dtype=np.int8)


def findings(**present: bool | int | None) -> Findings:
    """Findings by name; those not named are unknown."""
    return tuple(UNKNOWN if (value := present.get(name)) is None else int(value) for name in FINDINGS)
