"""A labelled exam of any data set: a volume, and what is known about it at whatever level."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

from ml.labels import FindingsArray, LabelArray, LabelLevel, findings_of_slices, is_blood, prefer, union, unknown
from ml.volume import Volume


@dataclass(frozen=True, eq=False)
class LabelledExam:
    """An exam as loaded from its files. Labels are on the volume's own grid."""

    dataset: str
    exam: str
    """Unique within the data set."""
    patient: str
    """From `patient_key`: exams of one patient share it, across data sets that took patients from one another."""
    volume: Volume
    pixels: LabelArray | None = None
    """(z, y, x) codes of `ml.labels`."""
    told_slices: FindingsArray | None = None
    """(z, 6) what was said about slices."""
    told: FindingsArray = field(default_factory=unknown)
    """(6,) what was said about the exam."""
    family: str = ""
    """The collection that the patient comes from; empty: the data set itself."""
    patient_known: bool = True
    """False where the key may stand for a patient that the family has under another key."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Files of the exam that could not be read, each with the reason."""

    @property
    def level(self) -> LabelLevel:
        """The finest labels there are."""
        if self.pixels is not None:
            return LabelLevel.PIXEL
        if self.told_slices is not None and (self.told_slices >= 0).any():
            return LabelLevel.SLICE
        return LabelLevel.EXAM if (self.told >= 0).any() else LabelLevel.NONE

    @cached_property
    def slice_findings(self) -> FindingsArray:
        """(z, 6) told, or seen in the pixels."""
        slices = len(self.volume.hu)
        told = unknown(slices) if self.told_slices is None else self.told_slices
        return told if self.pixels is None else prefer(told, findings_of_slices(self.pixels))

    @cached_property
    def findings(self) -> FindingsArray:
        """(6,) told, or the union of the slices."""
        return prefer(self.told, union(self.slice_findings))

    @property
    def hemorrhage_ml(self) -> float | None:
        """mL of labelled blood; None without pixel labels."""
        return None if self.pixels is None else self.volume.volume_ml(is_blood(self.pixels))


def patient_key(family: str, patient: str) -> str:
    """16 hex digits that stand for a patient: the same for the same patient, and no way back to an identifier.

    `family` names the collection that the identifier belongs to ("rsna" for BHSD's patients too).
    """
    return blake2b(patient.strip().encode(), key=family.encode(), digest_size=8).hexdigest()
