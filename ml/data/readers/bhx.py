"""BHX 1.1 (PhysioNet): boxes around the bleeds of CQ500, by SOP Instance UID. The images are those of CQ500.

    1_Initial_Manual_Labeling.csv, 2_Extrapolation_to_All_Series.csv, 3_Extrapolation_to_Selected_Series.csv
    columns: an index, SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID, data, labelName, labelType

`data` is a Python dict in text, {'x': 1.5, 'y': ..., 'width': ..., 'height': ...}, in pixels. "Chronic" boxes are
kept and make no slice positive. In a series that has boxes, a slice without one is taken as free of blood, as those
did who measured localisation on this set (Teneggi 2023).
"""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from ml.data.choice import choose
from ml.data.manifest import Catalogue, LeftOut
from ml.data.readers import cq500
from ml.data.readers.layout import Options, find, read_table
from ml.data.sources import Box, ExamSource, Findings
from ml.errors import DataError
from ml.labels import FINDINGS, UNKNOWN, WORDS

TABLES = (
    "1_Initial_Manual_Labeling.csv",
    "2_Extrapolation_to_All_Series.csv",
    "3_Extrapolation_to_Selected_Series.csv",
)
COLUMNS = ("SOPInstanceUID", "SeriesInstanceUID", "data", "labelName")
SIDES = ("x", "y", "width", "height")
CHRONIC = "chronic"


def read_bhx(root: Path, options: Options) -> Catalogue:
    """One exam per CQ500 study with boxes: the series that CQ500's own choice would take among those with boxes."""
    if options.boxes is None:
        raise DataError("BHX has boxes only: give the CQ500 folder, and the folder of the three tables as --boxes")
    catalogue = Catalogue("bhx")
    by_series = read_boxes(options.boxes)
    studies = cq500.studies_of(root, options, catalogue)
    seen: set[str] = set()
    for number in sorted(studies):
        with_boxes = [one for one in studies[number] if one.images[0].series in by_series]
        seen |= {one.images[0].series for one in with_boxes}
        name = cq500.exam_name_of(number)
        if not with_boxes:
            catalogue.left_out.append(LeftOut(name, "", "NO_BOXES", "none of its series has a box"))
            continue
        chosen, verdicts = choose(with_boxes)
        for verdict in verdicts:
            catalogue.left_out.append(LeftOut(name, verdict.series.name, verdict.code, verdict.reason))
        if chosen is not None:
            exam = cq500.exam_of(root, number, chosen, (UNKNOWN,) * len(FINDINGS), {})
            images = [one.image for one in chosen.images]
            catalogue.exams.append(_with_boxes(exam, images, by_series[chosen.images[0].series]))
    lost = by_series.keys() - seen
    if lost:
        reason = f"{len(lost)} series of the tables are not in the folder, the first: {min(lost)}"
        catalogue.left_out.append(LeftOut("", "", "NO_IMAGES", reason))
    return catalogue


def read_boxes(folder: Path) -> dict[str, list[Box]]:
    """By Series Instance UID; each box once, whichever tables repeat it."""
    found: dict[str, dict[Box, None]] = defaultdict(dict)
    tables = [folder / name for name in TABLES if (folder / name).is_file()] or [find(folder, *TABLES)]
    for table in tables:
        for row in read_table(table, needs=COLUMNS):
            found[row["SeriesInstanceUID"]][_box(row, table)] = None
    return {series: list(boxes) for series, boxes in found.items()}


def _box(row: dict[str, str], table: Path) -> Box:
    try:
        sides = ast.literal_eval(row["data"])
        x, y, width, height = (float(sides[side]) for side in SIDES)
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise DataError(f"{table.name}: the data of image {row['SOPInstanceUID']} is no box: {row['data']}") from error
    word = row["labelName"].lower()
    label = CHRONIC if word == CHRONIC else WORDS[word].name if word in WORDS else ""
    if not label:
        raise DataError(f"{table.name} has a label {row['labelName']!r} that is not known")
    return Box(row["SOPInstanceUID"], x, y, width, height, label)


def _with_boxes(exam: ExamSource, images: list[str], boxes: list[Box]) -> ExamSource:
    labels: dict[str, set[str]] = defaultdict(set)
    for box in boxes:
        labels[box.image].add(box.label)
    told = {image: _findings(labels.get(image, set())) for image in images}
    return replace(exam, dataset="bhx", slice_findings=told, boxes=tuple(boxes))


def _findings(labels: set[str]) -> Findings:
    fresh = labels - {CHRONIC}
    if CHRONIC in labels and not fresh:
        return (UNKNOWN,) * len(FINDINGS)
    return (int(bool(fresh)), *(int(name in fresh) for name in FINDINGS[1:]))
