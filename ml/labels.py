"""What experts say about an exam, in one vocabulary for every data set: subtypes, findings and how fine they are."""

from __future__ import annotations

from enum import IntEnum, StrEnum

import numpy as np
import numpy.typing as npt

LabelArray = npt.NDArray[np.uint8]
"""Codes per voxel: 0 no blood, a `Subtype`, `BLEED`, or `IGNORE`."""
FindingsArray = npt.NDArray[np.int8]
"""(..., 6) 1 present, 0 absent, `UNKNOWN`; the last axis in the order of `FINDINGS`."""


class Subtype(IntEnum):
    """Codes of blood whose subtype is known, in the order of BHSD."""

    EDH = 1
    IPH = 2
    IVH = 3
    SAH = 4
    SDH = 5


BLEED = 6
"""Code of blood whose subtype nobody told."""
IGNORE = 255
"""Code of voxels that nobody labelled; they give no loss."""
ANY = 0
"""Place of "any hemorrhage" among the findings; the subtypes follow in the order of their codes."""
FINDINGS = ("any", *(subtype.name for subtype in Subtype))
UNKNOWN = -1

WORDS = {
    "epidural": Subtype.EDH,
    "extradural": Subtype.EDH,
    "subdural": Subtype.SDH,
    "subarachnoid": Subtype.SAH,
    "intraventricular": Subtype.IVH,
    "intraparenchymal": Subtype.IPH,
    "intracerebral": Subtype.IPH,
}
"""How data sets spell the subtypes."""


class LabelLevel(StrEnum):
    """The finest labels that an exam has."""

    PIXEL = "pixel"
    SLICE = "slice"
    EXAM = "exam"
    NONE = "none"


def unknown(*shape: int) -> FindingsArray:
    """(*shape, 6) findings of which nothing is known."""
    return np.full((*shape, len(FINDINGS)), UNKNOWN, dtype=np.int8)


def is_blood(codes: LabelArray) -> npt.NDArray[np.bool_]:
    """Where codes say blood, of whatever subtype."""
    return np.asarray((codes >= min(Subtype)) & (codes <= BLEED))


def findings_of_slices(pixels_zyx: LabelArray) -> FindingsArray:
    """(z, 6) what labelled voxels say about their slices.

    Blood of unknown subtype leaves open which other subtypes are there; unlabelled voxels leave open everything that
    was not seen.
    """
    found = unknown(len(pixels_zyx))
    for z, codes in enumerate(pixels_zyx):
        present = set(np.unique(codes).tolist())
        if IGNORE not in present:
            found[z, ANY] = 0
            if BLEED not in present:
                found[z, 1:] = 0
        for subtype in present & set(Subtype):
            found[z, subtype] = found[z, ANY] = 1
        if BLEED in present:
            found[z, ANY] = 1
    return found


def union(findings: FindingsArray) -> FindingsArray:
    """(n, 6) of parts -> (6,) of the whole: present in one, absent in all, else unknown."""
    present, absent = (findings == 1).any(axis=0), (findings == 0).all(axis=0)
    return np.asarray(np.where(present, 1, np.where(absent & (len(findings) > 0), 0, UNKNOWN)), dtype=np.int8)


def prefer(told: FindingsArray, derived: FindingsArray) -> FindingsArray:
    """What was told; where nothing was, what follows from finer labels."""
    return np.asarray(np.where(told == UNKNOWN, derived, told), dtype=np.int8)
