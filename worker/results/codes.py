"""Coded concepts by name, from the one editable table `codes.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from highdicom.sr import CodedConcept

TABLE = Path(__file__).with_name("codes.toml")
KEYS = {"scheme", "value", "meaning", "source"}
LONGEST_VALUE = 16
LONGEST_MEANING = 64
"""Characters: SH and LO (PS3.5 section 6.2)."""


class CodeTableError(ValueError):
    """The table cannot be used; the message names the concept."""


def coded(name: str) -> CodedConcept:
    """The concept of this name from the shipped table; KeyError when there is none."""
    return load_codes(TABLE)[name]


@cache
def load_codes(path: Path) -> dict[str, CodedConcept]:
    """Reads and checks a table; raises CodeTableError for a wrong key, an overlong text or a code that stands twice."""
    with path.open("rb") as file:
        table = tomllib.load(file)
    names_by_code: dict[tuple[str, str], str] = {}
    for name, entry in table.items():
        _check(name, entry)
        code = (entry["scheme"], entry["value"])
        if code in names_by_code:
            raise CodeTableError(f"{path.name}: [{name}] repeats the code of [{names_by_code[code]}]")
        names_by_code[code] = name
    return {
        name: CodedConcept(value=entry["value"], scheme_designator=entry["scheme"], meaning=entry["meaning"])
        for name, entry in table.items()
    }


def _check(name: str, entry: object) -> None:
    if not isinstance(entry, dict) or set(entry) != KEYS or not all(isinstance(v, str) and v for v in entry.values()):
        raise CodeTableError(f"[{name}] needs exactly these texts: {', '.join(sorted(KEYS))}")
    if len(entry["value"]) > LONGEST_VALUE or len(entry["meaning"]) > LONGEST_MEANING:
        raise CodeTableError(f"[{name}] value or meaning is too long (16 and 64 characters)")
