"""A table as data: cells that know their figure, interval, count, method and the records they were computed from."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

from ml.evaluation.pixel_answers import Measure
from ml.evaluation.records import Origin

NOT_RUN = "not run"


@dataclass(frozen=True)
class Cell:
    """One figure as printed, and what is behind it."""

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    count: str = ""
    method: str = ""
    sources: tuple[str, ...] = ()
    """Keys of traces: `<model>/<set>`; empty for words and for what the paper prints."""


@dataclass(frozen=True)
class Row:
    """A label and a cell for each column."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """What one page of the report says."""

    name: str
    """Of its files: `table-1`."""
    title: str
    first: str
    """Heading of the labels."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    """What a reader must know to read it right."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Every trace behind it, once."""
        return tuple(dict.fromkeys(source for row in self.rows for cell in row.cells for source in cell.sources))


def figure(measure: Measure | str, *sources: str) -> Cell:
    """A measured cell; words where there is no figure."""
    if isinstance(measure, str):
        return words(measure, *sources)
    low, high = (measure.interval.low, measure.interval.high) if measure.interval else (None, None)
    text = number(measure.value)
    if low is not None and high is not None and not math.isnan(low):
        text += f" [{number(low)}, {number(high)}]"
    return Cell(text, measure.value, low, high, measure.count, measure.method, sources)


def plain(value: float, count: str = "", method: str = "", *sources: str) -> Cell:
    """A number without an interval."""
    return Cell(number(value), value, count=count, method=method, sources=sources)


def words(text: str, *sources: str) -> Cell:
    """A cell that is no figure."""
    return Cell(text, sources=sources)


def printed(text: str) -> Cell:
    """What the paper prints."""
    return Cell(text, method="printed in the paper")


def number(value: float) -> str:
    """Three decimals, as the paper prints; an undefined figure is said to be so."""
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def p_value(value: float) -> str:
    """With two digits that count."""
    if math.isnan(value):
        return "undefined"
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def to_markdown(table: Table, *, data: str, traces: dict[str, Origin]) -> str:
    """The table, its notes, and where each figure comes from. `data` says what the figures are about."""
    head = [table.first, *table.columns]
    lines = [f"# {table.title}", "", data, "", _line(head), _line(["---"] * len(head))]
    lines += [_line([row.label, *_texts(row)]) for row in table.rows]
    methods = sorted({cell.method for row in table.rows for cell in row.cells if cell.method and cell.sources})
    if methods:
        lines += ["", f"In brackets: {'; '.join(methods)}."]
    if table.note:
        lines += ["", table.note]
    if table.sources:
        lines += ["", "Computed from:", ""]
        lines += [f"- `{source}`: {describe(traces[source])}" for source in table.sources]
    return "\n".join(lines) + "\n"


def to_csv(table: Table, *, traces: dict[str, Origin]) -> str:
    """One line for each cell, with its trace: nothing that the Markdown says is lost, and nothing is rounded."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = ["table", "row", "column", "text", "value", "low", "high", "count", "method"]
    writer.writerow([*heads, "records", "bundle", "digest", "commit", "command", "data"])
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            origins = [traces[source] for source in cell.sources]
            facts = [cell.text, *map(_exact, (cell.value, cell.low, cell.high)), cell.count, cell.method]
            trace = [
                "; ".join(cell.sources),
                *("; ".join(str(getattr(one, name) or "") for one in origins) for name in TRACE),
            ]
            writer.writerow([table.name, row.label, column, *facts, *trace])
    return buffer.getvalue()


TRACE = ("bundle", "digest", "commit", "command", "data")


def describe(origin: Origin) -> str:
    """The trace of a figure in one sentence."""
    bundle = f"bundle {origin.bundle}, SHA-256 {origin.digest[:16]}" if origin.digest else "published scores"
    reading = f", reading {origin.reading}" if origin.reading > 1 else ""
    return f"{bundle}, on `{origin.data}`{reading}, commit {origin.commit}, `{origin.command}`"


def _texts(row: Row) -> list[str]:
    """The same words are not said twice in a row."""
    said: set[str] = set()
    texts = []
    for cell in row.cells:
        texts.append("--" if cell.value is None and cell.text in said else cell.text)
        said.add(cell.text)
    return texts


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)
