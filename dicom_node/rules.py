"""The language of the eligibility rules: section `[eligibility]` of config.toml.

    exclude   in this order; the first rule that holds gives the series its reason
    prefer    in this order; the first rule that tells two series apart decides which one ranks higher

The rules that apply when config.toml says nothing are in `eligibility.toml` beside this file, in the same language.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dicom_node.section import Section

Words = tuple[str, ...] | None
TextField = Literal[
    "image_type", "series_description", "study_description", "protocol_name", "body_part_examined",
    "convolution_kernel", "contrast_bolus_agent", "manufacturer", "slice_thickness_mm",
]  # fmt: skip
Measure = Literal["covers_head", "intact", "thickness", "coverage", "slices"]

WORDS = "words or phrases, any of them; `*` at an end for further letters, `@name` for a list of `words`"
REGEX = "regular expression, found anywhere, capitals and accents ignored"


class Condition(Section):
    """Tests on one series; all that are given must hold. A test on something that the header lacks does not hold."""

    modality_any: Words = Field(default=None, description="Modality is one of these")
    sop_class_any: Words = Field(default=None, description="SOP Class UID is one of these")
    sop_class_none: Words = Field(default=None, description="SOP Class UID is none of these")
    image_type_any: Words = Field(
        default=None, description="a value of Image Type is one of these; `*` for any characters"
    )
    body_part_words: Words = Field(default=None, description=f"Body Part Examined: {WORDS}")
    description_words: Words = Field(default=None, description=f"Series Description: {WORDS}")
    description_matches: str | None = Field(default=None, description=f"Series Description: {REGEX}")
    protocol_words: Words = Field(default=None, description=f"Protocol Name: {WORDS}")
    study_words: Words = Field(default=None, description=f"Study Description: {WORDS}")
    text_words: Words = Field(default=None, description=f"any of the four texts above: {WORDS}")
    kernel_words: Words = Field(default=None, description=f"Convolution Kernel: {WORDS}")
    kernel_matches: str | None = Field(default=None, description=f"Convolution Kernel: {REGEX}")
    contrast_agent_matches: str | None = Field(default=None, description=f"Contrast/Bolus Agent: {REGEX}")
    manufacturer_words: Words = Field(default=None, description=f"Manufacturer: {WORDS}")
    lossy: Literal[True] | None = Field(default=None, description="Lossy Image Compression says that there was such")
    present: tuple[TextField, ...] | None = Field(default=None, description="these attributes have a value")
    absent: tuple[TextField, ...] | None = Field(default=None, description="these attributes have no value")
    tilt_degrees_over: float | None = Field(
        default=None, description="degrees between slice normal and the body's long axis"
    )
    thickness_mm_over: float | None = Field(
        default=None, description="mm; median Slice Thickness, or spacing where unknown"
    )
    thickness_mm_under: float | None = Field(default=None, description="mm; as above")
    coverage_mm_over: float | None = Field(default=None, description="mm from first to last slice along their normal")
    coverage_mm_under: float | None = Field(default=None, description="mm; as above")
    field_of_view_mm_over: float | None = Field(default=None, description="mm; the longer side of the image")
    field_of_view_mm_under: float | None = Field(default=None, description="mm; as above")
    slices_under: int | None = Field(default=None, description="number of distinct slice positions")
    images_per_position_over: float | None = Field(default=None, description="images per distinct slice position")

    @field_validator("description_matches", "kernel_matches", "contrast_agent_matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    def tests(self) -> dict[str, Any]:
        """The tests that are given, by name."""
        return {name: value for name in Condition.model_fields if (value := getattr(self, name)) is not None}


class Exclusion(Condition):
    """`[[eligibility.exclude]]`: a series for which it holds is not analysed."""

    name: str = Field(min_length=1, description="of the rule; shown by `dicom-node rules test`")
    code: str = Field(pattern=r"^[A-Z][A-Z0-9_]{1,63}$", description="stable reason code, stored with the series")
    reason: str = Field(min_length=1, max_length=200, description="what people read after `excluded: `")
    share: Literal["most", "any"] = Field(
        default="most", description="holds for at least half of the images, or for any"
    )
    unless: tuple[Condition, ...] = Field(
        default=(), description="the rule is void for an image for which any of these holds"
    )

    @model_validator(mode="after")
    def _tests_something(self) -> Self:
        if not self.tests():
            raise ValueError("a rule without a test would exclude every series")
        if any(not condition.tests() for condition in self.unless):
            raise ValueError("an `unless` without a test would make the rule void")
        return self


class Preference(Condition):
    """`[[eligibility.prefer]]`: better is the series for which it holds, or which has more of a measure."""

    name: str = Field(min_length=1, description="of the rule")
    by: Measure | None = Field(default=None, description="a measure instead of tests")
    worse: str = Field(min_length=1, max_length=200, description="what people read about the series that loses by it")

    @model_validator(mode="after")
    def _tests_or_measures(self) -> Self:
        if bool(self.tests()) == (self.by is not None):
            raise ValueError("give either tests or `by`")
        return self


@cache
def shipped() -> dict[str, Any]:
    """The rules of eligibility.toml."""
    text = files("dicom_node").joinpath("eligibility.toml").read_text(encoding="utf-8")
    rules: dict[str, Any] = tomllib.loads(text)["eligibility"]
    return rules


class EligibilityRules(Section):
    """Section `[eligibility]`: which series of a study is the exam."""

    preferred_thickness_mm: float = Field(
        default=5.0, gt=0, description="mm; `by = thickness` prefers what is closest to it"
    )
    min_coverage_mm: float = Field(
        default=100.0, ge=0, description="mm; `by = covers_head` asks for it: vertex to skull base"
    )
    enough_coverage_mm: float = Field(default=180.0, gt=0, description="mm; `by = coverage` counts no more than this")
    words: dict[str, tuple[str, ...]] = Field(
        default_factory=lambda: {name: tuple(words) for name, words in shipped()["words"].items()},
        description="lists of words that rules name as `@name`; one given here replaces the shipped one of its name",
    )
    exclude_first: tuple[Exclusion, ...] = Field(
        default=(), description="a site's own exclusions, tried before `exclude`"
    )
    exclude: tuple[Exclusion, ...] = Field(
        default_factory=lambda: tuple(Exclusion(**rule) for rule in shipped()["exclude"]),
        description="the exclusions in order; given here, it replaces the shipped list",
    )
    prefer: tuple[Preference, ...] = Field(
        default_factory=lambda: tuple(Preference(**rule) for rule in shipped()["prefer"]),
        description="the preferences in order; given here, it replaces the shipped list",
    )

    @field_validator("words")
    @classmethod
    def _with_shipped(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {name: tuple(words) for name, words in {**shipped()["words"], **value}.items()}

    @model_validator(mode="after")
    def _names_known_words(self) -> Self:
        conditions = [*self.exclude_first, *self.exclude, *self.prefer]
        conditions += [condition for rule in (*self.exclude_first, *self.exclude) for condition in rule.unless]
        for condition in conditions:
            for name, phrases in condition.tests().items():
                if name.endswith("_words"):
                    self.spelled_out(phrases)
        return self

    def spelled_out(self, phrases: tuple[str, ...]) -> tuple[str, ...]:
        """The phrases with every `@name` replaced by its list. Raises ValueError for an unknown name."""
        found: list[str] = []
        for phrase in phrases:
            if not phrase.startswith("@"):
                found.append(phrase)
            elif phrase[1:] in self.words:
                found += self.words[phrase[1:]]
            else:
                raise ValueError(f"{phrase!r} is no list of `words`; there are {', '.join(sorted(self.words))}")
        return tuple(found)
