"""The language of the eligibility rules: what it refuses, and that the shipped rules are written in it."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from dicom_node.rules import Condition, EligibilityRules, Exclusion, Preference, shipped

RULE: dict[str, Any] = {"name": "n", "code": "CODE", "reason": "why"}


def test_the_shipped_rules_are_valid_and_survive_json() -> None:
    """Defaults, eligibility.toml and a round trip agree."""
    rules = EligibilityRules()
    assert EligibilityRules(**shipped()) == rules
    assert EligibilityRules(**rules.model_dump(mode="json")) == rules
    assert [rule.name for rule in rules.exclude] == [rule["name"] for rule in shipped()["exclude"]]


def test_the_names_of_rules_tell_them_apart() -> None:
    """The CLI shows them."""
    for rules in (EligibilityRules().exclude, EligibilityRules().prefer):
        assert len({rule.name for rule in rules}) == len(rules)


@pytest.mark.parametrize("model", [Condition, Exclusion, Preference, EligibilityRules])
def test_every_key_is_explained(model: type[BaseModel]) -> None:
    """config.toml's documentation is made of these."""
    assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (RULE, "without a test would exclude every series"),
        (RULE | {"descripton_words": ["x"]}, "Extra inputs"),
        (RULE | {"description_matches": "("}, "not a regular expression"),
        (RULE | {"modality_any": ["MR"], "unless": [{}]}, "would make the rule void"),
        (RULE | {"modality_any": ["MR"], "code": "lower case"}, "pattern"),
        (RULE | {"modality_any": ["MR"], "present": ["patient_name"]}, "present"),
        ({"modality_any": ["MR"]}, "Field required"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rule: dict[str, Any], complaint: str) -> None:
    """With a message that names the problem."""
    with pytest.raises(ValidationError, match=complaint):
        EligibilityRules(exclude_first=(rule,))  # type: ignore[arg-type]


def test_a_preference_has_tests_or_a_measure() -> None:
    """Neither none nor both."""
    both: dict[str, Any] = {"by": "slices", "modality_any": ("CT",)}
    for knobs in ({}, both):
        with pytest.raises(ValidationError, match="either tests or `by`"):
            Preference(name="n", worse="w", **knobs)


def test_word_lists_are_merged_with_the_shipped_ones_and_unknown_ones_refused() -> None:
    """A site changes one list and keeps the others."""
    rules = EligibilityRules(words={"head": ("glava",)})
    assert rules.spelled_out(("@head", "x")) == ("glava", "x")
    assert rules.words["sharp"] == EligibilityRules().words["sharp"]
    with pytest.raises(ValidationError, match="@haed"):
        EligibilityRules(exclude_first=(Exclusion(**RULE, description_words=("@haed",)),))


def test_the_file_is_what_a_site_may_copy_into_its_config() -> None:
    """One section, `eligibility`, and its numbers are the defaults."""
    text = files("dicom_node").joinpath("eligibility.toml").read_text(encoding="utf-8")
    assert list(tomllib.loads(text)) == ["eligibility"]
    section, rules = tomllib.loads(text)["eligibility"], EligibilityRules()
    for name in ("preferred_thickness_mm", "min_coverage_mm", "enough_coverage_mm"):
        assert section[name] == getattr(rules, name)
    for name in ("exclude", "prefer"):
        assert len(section[name]) == len(getattr(rules, name))
