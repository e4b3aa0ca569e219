"""RSNA 2019 intracranial hemorrhage detection ("Kaggle-25K"), as Kaggle ships it.

    stage_2_train.csv           ID,Label; ID_<image>_<finding>,0 or 1; six rows for each image
    stage_2_train/ID_<image>.dcm
    stage_2_test/               where present: exams without labels

Traps: rows of four images stand in the table twice; images come without SliceThickness, InstanceNumber and SOP Class
UID, with identifiers for UIDs; one file is truncated (ID_6431af929); 12-bit images wrapped around (`ml.data.pixels`);
exams are found by StudyInstanceUID only; patients occur in training and test set.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ml.data.exams import patient_key
from ml.data.manifest import Catalogue, LeftOut
from ml.data.readers.layout import Options, exam_name, find
from ml.data.scanning import ImageFacts, scan
from ml.data.sources import ExamSource, Findings
from ml.errors import DataError
from ml.labels import FINDINGS, UNKNOWN, WORDS

FAMILY = "rsna"
TABLE, TRAIN, TEST = "stage_2_train.csv", "stage_2_train", "stage_2_test"
PLACES = {"any": 0, **{word: int(subtype) for word, subtype in WORDS.items()}}
"""The finding at the end of an ID -> its place among the findings."""


@dataclass
class _Study:
    patient: str
    images: list[ImageFacts] = field(default_factory=list)


def read_rsna(root: Path, options: Options) -> Catalogue:
    """One exam per study; a study's images that cannot be parsed are left out by name."""
    catalogue = Catalogue("rsna")
    labels = read_labels(find(root, TABLE), catalogue)
    studies: dict[str, _Study] = {}
    for facts in scan(_images(root), workers=options.workers, progress=options.progress):
        if facts.fault or not facts.study:
            what = facts.path.relative_to(root).as_posix()
            reason = facts.fault or "it has no StudyInstanceUID"
            catalogue.left_out.append(LeftOut("", what, facts.fault_code or "NOT_DICOM", reason))
            continue
        studies.setdefault(facts.study, _Study(facts.patient)).images.append(facts)
    for name in sorted(studies):
        catalogue.exams.append(_exam(root, name, studies[name], labels))
    if not catalogue.exams:
        raise DataError(f"{root / TRAIN} has no DICOM files")
    without = len(labels) - sum(len(exam.slice_findings) for exam in catalogue.exams)
    if without:
        reason = f"{without} images of the table have no file that can be read"
        catalogue.left_out.append(LeftOut("", TABLE, "NO_IMAGES", reason))
    return catalogue


def read_labels(table: Path, catalogue: Catalogue) -> dict[str, int]:
    """Packed findings of every image; contradicting rows leave a finding unknown and go into the report."""
    labels: dict[str, int] = {}
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        if (header := [name.strip() for name in next(rows, [])]) != ["ID", "Label"]:
            raise DataError(f"{table.name} starts with {','.join(header)} instead of ID,Label")
        for row in rows:
            if not row:
                continue
            image, _, finding = row[0].rpartition("_")
            place = PLACES.get(finding)
            if place is None or row[1:] not in (["0"], ["1"]):
                raise DataError(f"{table.name} has a row that is no label: {','.join(row)}")
            told, known = labels.get(image, 0), 1 << place
            value = (row[1] == "1") << (place + len(FINDINGS))
            if told & known and (told ^ value) & (known << len(FINDINGS)):
                catalogue.left_out.append(LeftOut("", row[0], "CONTRADICTION", "two rows of the table differ"))
                told |= 1 << (place + 2 * len(FINDINGS))
            labels[image] = told | known | value
    return labels


@lru_cache(maxsize=4096)
def unpack(packed: int) -> Findings:
    """Six findings of their packed form: bits for known, present, contradicting. One tuple for all equal ones."""
    count = len(FINDINGS)
    return tuple(
        packed >> (place + count) & 1 if packed >> place & 1 and not packed >> (place + 2 * count) & 1 else UNKNOWN
        for place in range(count)
    )


def patient(identifier: str) -> str:
    """The key of an RSNA patient; data sets made of RSNA use it too."""
    return patient_key(FAMILY, identifier)


def _images(root: Path) -> Iterator[Path]:
    for folder in (TRAIN, TEST):
        if (root / folder).is_dir():
            with os.scandir(root / folder) as entries:
                names = (entry.name for entry in entries)
                yield from (root / folder / name for name in names if name.endswith(".dcm") and name[0] != ".")


def _exam(root: Path, name: str, study: _Study, labels: dict[str, int]) -> ExamSource:
    images = sorted(study.images, key=lambda one: one.path)
    told = {one.image: unpack(labels[one.path.stem]) for one in images if one.path.stem in labels}
    return ExamSource(
        dataset="rsna",
        exam=exam_name(name),
        patient=patient(study.patient),
        family=FAMILY,
        images=tuple(one.path.relative_to(root) for one in images),
        slice_findings=told,
    )
