"""Where in config.toml a mistake stands, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import BaseModel


def explain(item: Any, text: str, *, source: str, root: type[BaseModel]) -> str:
    """One line for one error: file:line: section.key: what is wrong and what to write."""
    where: tuple[str | int, ...] = item["loc"]
    line = find_line(text, where)
    key = ".".join(str(part) for part in where)
    if item["type"] == "extra_forbidden":
        valid = _keys_beside(where, root)
        return f"{source}:{line}: unknown key {key!r}; {nearest(str(where[-1]), valid)}"
    return f"{source}:{line}: {key}: {item['msg'].removeprefix('Value error, ')}"


def nearest(name: str, valid: list[str]) -> str:
    """`did you mean "x"?`, or the list of what there is."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid names: {', '.join(sorted(valid)) or 'none'}"


def _keys_beside(where: tuple[str | int, ...], root: type[BaseModel]) -> list[str]:
    """The valid keys of the section that holds the key at `where`."""
    model: Any = root
    for part in where[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = annotation.__args__[0] if hasattr(annotation, "__args__") else annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)


def find_line(text: str, where: tuple[str | int, ...]) -> int:
    """The line (from 1) of config text where the key at `where` stands, or of its section, or 1.

    `where` is a path as pydantic gives it: ("delivery", "destination", 0, "port").
    """
    names = [part for part in where if isinstance(part, str)]
    wanted_index = next((part for part in where if isinstance(part, int)), 0)
    section: list[str] = []
    seen: dict[str, int] = {}
    best = 1
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[\[?)\s*([\w.\-\"]+)\s*\]", line)
        if header:
            section = header.group(2).replace('"', "").split(".")
            if header.group(1) == "[[":
                seen[header.group(2)] = seen.get(header.group(2), -1) + 1
        key = re.match(r"\s*([\w\-\"]+(?:\.[\w\-]+)*)\s*=", line)
        if not header and not key:
            continue
        here = [*section, *key.group(1).replace('"', "").split(".")] if key else section
        right_item = not header or header.group(1) == "[" or seen[header.group(2)] == wanted_index
        if here == names[: len(here)] and right_item and _in_item(section, seen, names, wanted_index):
            best = number
            if here == names:
                return number
    return best


def _in_item(section: list[str], seen: dict[str, int], names: list[str], wanted_index: int) -> bool:
    """True unless the current [[array]] item is another one than the path wants."""
    name = ".".join(section)
    return name not in seen or names[: len(section)] != section or seen[name] == wanted_index
