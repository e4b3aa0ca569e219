"""CQ500 (qure.ai): 491 head CTs read by three radiologists each.

    reads.csv                                         name,Category,R1:ICH ... R3:MidlineShift
    prediction_probabilities.csv                      Qure's own scores
    CQ500CT<n> CQ500CT<n>/Unknown Study/CT <series>/CT000000.dcm

The zip files may be unpacked beside each other or into batch folders (qct01/ ... of the Kaggle mirror). The tables
say CQ500-CT-<n> where folders say CQ500CT<n>. Each study has one to a dozen series, of which `ml.data.choice` takes
one. An exam shows a finding when two of three readers say so, each finding by itself: "ICH" need not be the union.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ml.data.choice import Series, choose, describe, series_of
from ml.data.exams import patient_key
from ml.data.manifest import Catalogue, LeftOut
from ml.data.readers.layout import Options, find, read_table
from ml.data.scanning import ImageFacts, scan
from ml.data.sources import NOTHING_KNOWN, ExamSource, Findings
from ml.errors import DataError
from ml.labels import FINDINGS, UNKNOWN

FAMILY = "cq500"
READERS = ("R1", "R2", "R3")
COLUMNS = ("ICH", *FINDINGS[1:])
"""Of a reader in reads.csv, in the order of `FINDINGS`."""
FOLDER = re.compile(r"CQ500-?CT-?(\d+)( CQ500-?CT-?\1)?", re.IGNORECASE)
IDENTIFIER = re.compile(r"CQ500-?CT-?(\d+)", re.IGNORECASE)


def read_cq500(root: Path, options: Options) -> Catalogue:
    """One exam per study: the chosen series; verdicts on all others are in the report."""
    catalogue = Catalogue("cq500")
    reads = read_majority(find(root, "reads.csv"))
    scores = read_qure_scores(root)
    studies = studies_of(root, options, catalogue)
    for number in sorted(studies):
        chosen, verdicts = choose(studies[number])
        name = exam_name_of(number)
        for verdict in verdicts:
            catalogue.left_out.append(LeftOut(name, verdict.series.name, verdict.code, verdict.reason))
        if chosen is None:
            catalogue.left_out.append(LeftOut(name, "", "NO_SERIES", "none of its series can stand for the exam"))
            continue
        if number not in reads:
            catalogue.left_out.append(LeftOut(name, "reads.csv", "NO_READS", "no row: the exam has no labels"))
        findings = reads.get(number, NOTHING_KNOWN)
        catalogue.exams.append(exam_of(root, number, chosen, findings, scores.get(number, {})))
    for number in sorted(reads.keys() - studies.keys()):
        catalogue.left_out.append(LeftOut(exam_name_of(number), "", "NO_IMAGES", "reads.csv has it, the folder not"))
    return catalogue


def exam_of(root: Path, number: int, series: Series, findings: Findings, published: Mapping[str, float]) -> ExamSource:
    """The exam that a series stands for."""
    images = sorted(series.images, key=lambda one: one.path)
    return ExamSource(
        dataset="cq500",
        exam=exam_name_of(number),
        patient=patient(number),
        family=FAMILY,
        images=tuple(one.path.relative_to(root) for one in images),
        findings=findings,
        published=published,
        choice=f"{series.name}: {describe(series)}",
    )


def exam_name_of(number: int) -> str:
    """As the tables write it."""
    return f"CQ500-CT-{number}"


def patient(number: int) -> str:
    """The key of a CQ500 patient; Seg-CQ500 and BHX use it too."""
    return patient_key(FAMILY, str(number))


def number_of(name: str) -> int | None:
    """The number in CQ500-CT-12, CQ500CT12 or "CQ500CT12 CQ500CT12"."""
    found = IDENTIFIER.match(name.strip())
    return int(found.group(1)) if found else None


def studies_of(root: Path, options: Options, catalogue: Catalogue) -> dict[int, list[Series]]:
    """The series of every study folder; files that cannot be parsed are left out by name."""
    folders = {path: int(match.group(1)) for path in _folders(root) if (match := FOLDER.fullmatch(path.name))}
    if not folders:
        raise DataError(f"{root} has no folder like 'CQ500CT0 CQ500CT0': unpack the zip files there (docs/data.md)")
    paths = (path for folder in folders for path in sorted(folder.rglob("[!.]*.dcm")))
    groups: dict[tuple[int, Path, str], list[ImageFacts]] = {}
    for facts in scan(paths, workers=options.workers, progress=options.progress):
        folder = next(parent for parent in facts.path.parents if parent in folders)
        if facts.fault:
            name = exam_name_of(folders[folder])
            what = facts.path.relative_to(root).as_posix()
            catalogue.left_out.append(LeftOut(name, what, facts.fault_code, facts.fault))
            continue
        groups.setdefault((folders[folder], facts.path.parent, facts.series), []).append(facts)
    studies: dict[int, list[Series]] = {number: [] for number in folders.values()}
    for (number, folder, _), images in sorted(groups.items(), key=lambda item: item[0]):
        description = folder.name.removeprefix("CT ")
        studies[number].append(series_of(folder.relative_to(root).as_posix(), images, description))
    return studies


def read_majority(table: Path) -> dict[int, Findings]:
    """By exam number: what at least two of the three readers say, each finding by itself."""
    needs = ["name", *(f"{reader}:{column}" for reader in READERS for column in COLUMNS)]
    found: dict[int, Findings] = {}
    for row in read_table(table, needs=needs):
        number = number_of(row["name"])
        if number is None:
            raise DataError(f"{table.name} names an exam {row['name']!r}; CQ500-CT-<number> is expected")
        found[number] = tuple(_majority(row[f"{reader}:{column}"] for reader in READERS) for column in COLUMNS)
    return found


def _majority(votes: Iterable[str]) -> int:
    given = list(votes)
    for value in (1, 0):
        if sum(vote in (str(value), f"{value}.0") for vote in given) >= 2:
            return value
    return UNKNOWN


def read_qure_scores(root: Path) -> dict[int, dict[str, float]]:
    """By exam number: the probabilities that Qure published, by finding; empty without the file."""
    table = root / "prediction_probabilities.csv"
    if not table.is_file():
        return {}
    scores: dict[int, dict[str, float]] = {}
    for row in read_table(table, needs=["name"]):
        number = number_of(row["name"])
        columns = {column.upper(): value for column, value in row.items()}
        if number is not None:
            given = zip(FINDINGS, COLUMNS, strict=True)
            scores[number] = {name: float(columns[column]) for name, column in given if columns.get(column)}
    if scores and not any("any" in one for one in scores.values()):
        raise DataError(f"{table.name} has no column ICH, so it holds no score of an exam")
    return scores


def _folders(root: Path) -> list[Path]:
    """The root's folders and those in its batch folders."""
    first = sorted(path for path in root.iterdir() if path.is_dir())
    return [*first, *(path for folder in first if not FOLDER.fullmatch(folder.name) for path in _inner(folder))]


def _inner(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())
