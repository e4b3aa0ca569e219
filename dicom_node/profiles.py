"""Profiles: what a destination wants to get, and in which forms, the preferred one first.

A profile, of config.toml or built in, becomes a list of variants. A variant is everything that decides an object beside
the images and the bundle: destinations that want the same variant share one object, whatever their profiles are called.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.config_lines import nearest
from dicom_node.result_forms import Form, FormName, transfer_syntaxes
from dicom_node.section import Section
from dicom_node.states import ResultKind

STANDARD = "standard"
REFERRING = frozenset({ResultKind.SR})
"""Kinds whose objects refer to the segmentation."""
DEFAULT_SEGMENTATION = Form(FormName.SEG_BINARY)
"""What a report refers to in a profile that wants no segmentation: it stays in the archive."""


class ProfileConfig(Section):
    """What the destinations that name it get. Forms of a kind stand in order of preference; none: nothing of it."""

    name: str = Field(min_length=1, max_length=64)
    seg: tuple[FormName, ...] = (FormName.SEG_BINARY,)
    sr: tuple[FormName, ...] = (FormName.SR_3D,)
    kos: tuple[FormName, ...] = ()
    sc: tuple[FormName, ...] = ()
    pdf: tuple[FormName, ...] = ()
    planar_regions: bool = False
    empty_frames: bool = False
    character_set: Literal["keep", "utf-8"] = "keep"
    transfer_syntax: str = ExplicitVRLittleEndian
    first_series_number: int = Field(default=0, ge=0, le=2_147_483_000)

    @field_validator("seg", "sr", "kos", "sc", "pdf", mode="before")
    @classmethod
    def _known_forms(cls, value: object, info: ValidationInfo) -> object:
        """Of this kind, and each once."""
        kind = ResultKind(str(info.field_name).upper())
        valid = [name.value for name in FormName if Form(name).kind is kind]
        names = value if isinstance(value, list | tuple) else []
        for name in names:
            if name not in valid:
                raise ValueError(f"{name!r} is no form of {kind}; {nearest(str(name), valid)}")
        if len(set(names)) < len(names):
            raise ValueError("a form is named twice")
        return value

    @model_validator(mode="after")
    def _some_form_has_the_transfer_syntax(self) -> Self:
        names = [*self.seg, *self.sr, *self.kos, *self.sc, *self.pdf]
        possible = {str(syntax) for name in names for syntax in transfer_syntaxes(name)}
        if names and self.transfer_syntax not in possible:
            raise ValueError(f"transfer_syntax: none of its forms can be written in {self.transfer_syntax!r}")
        return self

    def forms(self, kind: ResultKind) -> tuple[Form, ...]:
        """The forms of a kind with their options, the preferred one first."""
        names: tuple[FormName, ...] = getattr(self, kind.value.lower())
        return tuple(self._form(name) for name in names)

    def _form(self, name: FormName) -> Form:
        """A form with those options of the profile that it can have."""
        possible = self.transfer_syntax in transfer_syntaxes(name)
        return Form(
            name,
            planar_regions=self.planar_regions and name in self.sr,
            empty_frames=self.empty_frames and name in self.seg,
            utf_8=self.character_set == "utf-8",
            transfer_syntax=self.transfer_syntax if possible else ExplicitVRLittleEndian,
        )


BUILT_IN = (
    ProfileConfig(name=STANDARD),
    ProfileConfig(name="viewer", planar_regions=True, kos=(FormName.KOS,), sc=(FormName.SC,)),
    ProfileConfig(
        name="everything",
        sr=(FormName.SR_3D, FormName.SR),
        planar_regions=True,
        kos=(FormName.KOS,),
        sc=(FormName.SC,),
        pdf=(FormName.PDF,),
    ),
    ProfileConfig(name="archive", seg=(FormName.SEG_LABELMAP, FormName.SEG_BINARY), sr=(FormName.SR_3D, FormName.SR)),
)
"""Profiles that need no configuration; one of the same name in config.toml replaces them."""


@dataclass(frozen=True)
class Variant:
    """One object that a destination may get; equal keys mean the same object."""

    form: Form
    first_series_number: int
    """The band of series numbers that it stands in."""
    segmentation: Form | None = None
    """The segmentation that a report refers to; None for a segmentation, and where nothing was segmented."""

    @property
    def kind(self) -> ResultKind:
        """What it says."""
        return self.form.kind

    @property
    def about(self) -> Variant | None:
        """The segmentation that it refers to, as an object of its own; None when it refers to none."""
        return Variant(self.segmentation, self.first_series_number) if self.segmentation else None

    @property
    def key(self) -> str:
        """Form and options as text: what rows keep and people see."""
        of = f" of {self.segmentation.key}" if self.segmentation else ""
        return f"{self.form.key}{of}, series {self.first_series_number}"


def variants(
    profile: ProfileConfig, kind: ResultKind, *, first_series_number: int, segmented: bool = True
) -> tuple[Variant, ...]:
    """What a profile wants of a kind, the preferred one first.

    A report names one segmentation, so that there is one for each form of it: a destination that refuses the first
    segmentation gets the next one and the report that names that. `segmented` is False where there is none, so that
    nothing is wanted of it and reports name none.
    """
    first = profile.first_series_number or first_series_number
    if kind is ResultKind.SEG and not segmented:
        return ()
    segmentations: tuple[Form | None, ...] = (None,)
    if segmented and kind in REFERRING:
        segmentations = profile.forms(ResultKind.SEG) or (DEFAULT_SEGMENTATION,)
    return tuple(Variant(form, first, seg) for seg in segmentations for form in profile.forms(kind))


def with_what_they_refer_to(wanted: Iterable[Variant]) -> tuple[Variant, ...]:
    """Every variant, and every segmentation that one refers to, once; segmentations first."""
    found = [one for variant in wanted for one in (variant, variant.about) if one is not None]
    return tuple(sorted(dict.fromkeys(found), key=lambda variant: list(ResultKind).index(variant.kind)))
