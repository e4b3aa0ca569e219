"""The forms in which a result can be written: what a destination is configured to get, and what the worker writes.

A form is a name and its options. The names and the rules of the options stand here once, for the configuration, for
negotiation (SOP class and transfer syntax) and for `worker.results.forms.write_form`, which writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydicom import uid

from dicom_node.states import ResultKind


class FormName(StrEnum):
    """Every form there is."""

    SEG_BINARY = "seg-binary"
    """Segmentation, BINARY: what viewers show today."""
    SEG_FRACTIONAL = "seg-fractional"
    """Segmentation, FRACTIONAL PROBABILITY: each lesion's voxels with their probability; for archives and research."""
    SEG_LABELMAP = "seg-labelmap"
    """Label Map Segmentation: a SOP class of 2024, few take it."""
    SR_3D = "sr-3d"
    """Comprehensive 3D SR, TID 1500."""
    SR = "sr"
    """Comprehensive SR: the same tree for a PACS that lacks Comprehensive 3D SR."""
    KOS = "kos"
    """Key Object Selection of the key slices of all lesions; nothing where there is no lesion."""
    SC = "sc"
    """Secondary Capture: a summary page and the key slices with contours, for viewers that show pictures only."""
    PDF = "pdf"
    """Encapsulated PDF: the report on paper."""


LABEL_MAP_SEGMENTATION_STORAGE = uid.UID("1.2.840.10008.5.1.4.1.1.66.7")
"""pydicom 3.0 has no name for it."""
SOP_CLASSES: dict[FormName, uid.UID] = {
    FormName.SEG_BINARY: uid.SegmentationStorage,
    FormName.SEG_FRACTIONAL: uid.SegmentationStorage,
    FormName.SEG_LABELMAP: LABEL_MAP_SEGMENTATION_STORAGE,
    FormName.SR_3D: uid.Comprehensive3DSRStorage,
    FormName.SR: uid.ComprehensiveSRStorage,
    FormName.KOS: uid.KeyObjectSelectionDocumentStorage,
    FormName.SC: uid.SecondaryCaptureImageStorage,
    FormName.PDF: uid.EncapsulatedPDFStorage,
}
_KINDS: dict[FormName, ResultKind] = {
    FormName.SEG_BINARY: ResultKind.SEG,
    FormName.SEG_FRACTIONAL: ResultKind.SEG,
    FormName.SEG_LABELMAP: ResultKind.SEG,
    FormName.SR_3D: ResultKind.SR,
    FormName.SR: ResultKind.SR,
    FormName.KOS: ResultKind.KOS,
    FormName.SC: ResultKind.SC,
    FormName.PDF: ResultKind.PDF,
}
_PLAIN = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)
_PACKED = (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)
"""Of 8-bit frames, all lossless. The single bits of a BINARY segmentation have no compressed form that is in use."""
_PACKABLE = {FormName.SEG_FRACTIONAL, FormName.SEG_LABELMAP, FormName.SC}


def transfer_syntaxes(name: FormName) -> tuple[uid.UID, ...]:
    """The transfer syntaxes in which a form can be written, the default first."""
    return _PLAIN + _PACKED if name in _PACKABLE else _PLAIN


@dataclass(frozen=True)
class Form:
    """One form with its options. Raises ValueError, with a sentence, for options that the form does not have."""

    name: FormName
    planar_regions: bool = False
    """SR: a closed line around each lesion on its key slice, for viewers that draw lines and leave referenced segments
    out (OHIF)."""
    empty_frames: bool = False
    """SEG: a frame for every slice of every segment, also where nothing is outlined, for viewers that expect as many
    frames as slices."""
    utf_8: bool = False
    """The whole object in ISO_IR 192; else in the source's own character set."""
    transfer_syntax: str = uid.ExplicitVRLittleEndian

    def __post_init__(self) -> None:
        if self.planar_regions and self.kind is not ResultKind.SR:
            raise ValueError(f"planar_regions is for SR forms, not for {self.name}")
        if self.empty_frames and self.kind is not ResultKind.SEG:
            raise ValueError(f"empty_frames is for SEG forms, not for {self.name}")
        if self.transfer_syntax not in transfer_syntaxes(self.name):
            names = ", ".join(f"{one} ({one.name})" for one in transfer_syntaxes(self.name))
            raise ValueError(f"{self.name} cannot be written in transfer syntax {self.transfer_syntax}; choose {names}")

    @property
    def kind(self) -> ResultKind:
        """What it says; the forms of one kind stand for one another."""
        return _KINDS[self.name]

    @property
    def sop_class_uid(self) -> uid.UID:
        """The SOP class of the objects."""
        return SOP_CLASSES[self.name]

    @property
    def key(self) -> str:
        """The name and every option that is not the default: equal keys give equal objects."""
        options = [name for name in ("planar_regions", "empty_frames", "utf_8") if getattr(self, name)]
        if self.transfer_syntax != uid.ExplicitVRLittleEndian:
            options.append(str(self.transfer_syntax))
        return " ".join([self.name, *options])
