"""How the admin CLI prints: tables for people, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PIPE_COLUMNS = 240
"""Width of tables that go into a pipe or a file, where no window says how wide: no UID is cut, so grep finds it."""
console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, emoji=False)


def print_done(row: dict[str, Any], *, as_json: bool) -> None:
    """What a command did: one line, or JSON."""
    if as_json:
        print_json(row)
    else:
        console.print(", ".join(f"{key} {value}" for key, value in row.items()).replace(", done ", ": "), markup=False)


def print_list(title: str, rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Rows of a list command: a table, or JSON."""
    if as_json:
        print_json(list(rows))
    else:
        print_rows(title, rows)


def print_json(value: Any) -> None:
    """JSON on standard output, and nothing else there."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_rows(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table whose columns are the keys of the first row."""
    if not rows:
        console.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell(value)) for value in row.values()))
    console.print(table)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
