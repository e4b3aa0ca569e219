"""Words in descriptions as people type them at scanners."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.matching import has_match, has_word, plain


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("HEAD_BONE", "bone", True), ("BONE2mm", "bone", True), ("Bonehead", "bone", False), ("HeadBone", "bone", True),
        ("CTAngio", "angio", True), ("angiography", "angio", False), ("angiography", "angio*", True),
        ("LSPINE", "*spine", True), ("LSPINE", "spine", False), ("POST-CONTRAST", "post contrast", True),
        ("postcontrast", "post contrast", True), ("post op contrast", "post contrast", False),
        ("without contrast", "with contrast", False), ("W/O", "w o", True), ("Schädel", "schadel", True),
        ("Patient^Protocol", "patient protocol", True), (None, "x", False), ("", "x", False),
    ],
)  # fmt: skip
def test_words_are_found_whole(text: str | None, phrase: str, found: bool) -> None:
    """Whole words, any separators, no accents; a star opens an end."""
    assert has_word(text, (phrase,)) is found


def test_patterns_see_the_plain_text() -> None:
    """Capitals and underscores are gone."""
    assert has_match("HEAD_5MM +C", r"\+c")
    assert not has_match(None, ".*")


def test_words_of_two_scripts_are_apart() -> None:
    """Han, Kana and Hangul are written without blanks."""
    assert plain("头颅CTA薄层1mm") == "头颅 cta 薄层1mm"
    assert has_word("뇌CTA", ("cta",))
    assert not has_word("头颅", ("头",))


@given(st.text(max_size=64))
def test_plain_is_stable(text: str) -> None:
    """Plain text holds no separators that rules would have to know."""
    assert "_" not in plain(text)
    assert plain(text) == plain(text).strip()
