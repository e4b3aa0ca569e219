"""Do header texts hold a word? Written for the descriptions that people type at scanners.

Texts are compared after `plain`: accents and case dropped, `HeadBone` and `HEAD_BONE` read as two words.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LETTER = r"[^\W\d_]"
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z][A-Za-z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")


EAST_ASIAN = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
"""Kana, Han and Hangul, which are written without blanks: "头颅CTA"."""
SCRIPTS_MEET = re.compile(rf"(?<={EAST_ASIAN})(?=[a-z])|(?<=[a-z])(?={EAST_ASIAN})")


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """The text as it is compared: words of CamelCase and of two scripts apart, no accents, lower case, single spaces
    for _ and ^.
    """
    decomposed = unicodedata.normalize("NFKD", CAMEL.sub(" ", text))
    bare = "".join(character for character in decomposed if not unicodedata.combining(character))
    composed = unicodedata.normalize("NFC", bare.casefold())  # syllables of Hangul are in one piece again
    return re.sub(r"[\s_^]+", " ", SCRIPTS_MEET.sub(" ", composed)).strip()


@lru_cache(maxsize=4096)
def word_pattern(phrase: str) -> re.Pattern[str]:
    """Pattern for a word or phrase in a `plain` text.

    Whole words: `bone` is found in "BONE2mm" and "head-bone", not in "bonehead"; a digit is no letter. A star stands
    for further letters: `angio*`. Blanks in a phrase stand for any separators or none: `post contrast` is found in
    "POST-CONTRAST" and "postcontrast".
    """
    head, tail = phrase.startswith("*"), phrase.endswith("*")
    parts = [re.escape(plain(part)) for part in phrase.strip("*").split()]
    before = "" if head else f"(?<!{LETTER})"
    after = "" if tail else f"(?!{LETTER})"
    return re.compile(before + r"[\W_]*".join(parts) + after)


def has_word(text: str | None, phrases: tuple[str, ...]) -> bool:
    """True when any phrase stands in the text."""
    return text is not None and any(word_pattern(phrase).search(plain(text)) for phrase in phrases)


@lru_cache(maxsize=256)
def regex(pattern: str) -> re.Pattern[str]:
    """A site's own pattern; it is applied to the `plain` text, so capitals in it match nothing."""
    return re.compile(pattern, re.IGNORECASE)


def has_match(text: str | None, pattern: str) -> bool:
    """True when the regular expression is found anywhere in the text."""
    return text is not None and regex(pattern).search(plain(text)) is not None
