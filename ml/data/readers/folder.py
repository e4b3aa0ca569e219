"""A lab's own exams: a folder of DICOM series, or of NIfTI files, with or without masks (the paper's Atlantis).

    <anywhere>/*                        DICOM CT series, of one or more studies
    <anywhere>/*                        DICOM SEG objects that reference the series
    <with the series' files>/*.nii.gz   a NIfTI mask beside the images, or anywhere under the Series Instance UID's name
    images/<name>.nii.gz, masks/<name>.nii.gz    exams that are NIfTI themselves
    labels.csv                          exam,any,EDH,IPH,IVH,SAH,SDH; what is known of whole exams

DICOM exams are named by their Study Instance UID, NIfTI exams by their file, so let no file be called like a patient.
Of a study without masks `ml.data.choice` takes one series; with masks the series that they were drawn on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml.data.choice import Series, choose, describe, series_of
from ml.data.exams import patient_key
from ml.data.manifest import Catalogue, LeftOut
from ml.data.nifti import is_nifti
from ml.data.part10 import is_no_object, open_file, read_dataset
from ml.data.readers.layout import Options, base_name, exam_name, nifti_files, read_table
from ml.data.scanning import ImageFacts, scan
from ml.data.sources import ExamSource, Findings, MaskFile
from ml.errors import DataError
from ml.labels import ANY, FINDINGS, UNKNOWN

FAMILY = "folder"
LABELS = "labels.csv"
TOLD = {"": UNKNOWN, "0": 0, "0.0": 0, "1": 1, "1.0": 1}
UNPLACED = (
    "no images to it: a mask lies beside the files of a single series, is called <Series Instance UID>.nii.gz, or lies "
    "in masks/ under the name of a scan in images/"
)
OTHER_FILES = (".csv", ".txt", ".md", ".json", ".png", ".jpg", ".pdf", ".xml", ".html")


def read_folder(root: Path, options: Options) -> Catalogue:
    """One exam per DICOM study and per NIfTI file under images/."""
    catalogue = Catalogue(FAMILY)
    studies: dict[str, dict[str, list[ImageFacts]]] = defaultdict(lambda: defaultdict(list))
    segs: list[Path] = []
    for facts in scan(_files(root), workers=options.workers, progress=options.progress):
        if facts.fault:
            what = facts.path.relative_to(root).as_posix()
            catalogue.left_out.append(LeftOut("", what, facts.fault_code, facts.fault))
        elif facts.modality == "SEG":
            segs.append(facts.path)
        else:
            studies[facts.study][facts.series].append(facts)
    masks = _masks_by_series(root, studies, segs, catalogue)
    for study in sorted(studies):
        exam = _dicom_exam(root, study, studies[study], masks, catalogue)
        if exam is not None:
            catalogue.exams.append(exam)
    catalogue.exams += _nifti_exams(root)
    _leave_out_unplaced(root, catalogue, masks)
    if not catalogue.exams:
        raise DataError(
            f"{root} holds no head CT that could be an exam; {len(catalogue.left_out)} things were left out"
        )
    told = _labels(root)
    catalogue.exams = [replace(one, findings=told.pop(one.exam, one.findings)) for one in catalogue.exams]
    reason = "no exam has this Study Instance UID or file name"
    catalogue.left_out += [LeftOut(name, LABELS, "NO_IMAGES", reason) for name in sorted(told)]
    return catalogue


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        is_other = is_no_object(path) or path.suffix.lower() in OTHER_FILES
        if path.is_file() and not is_nifti(path) and not is_other:
            yield path


def _dicom_exam(
    root: Path, study: str, series: dict[str, list[ImageFacts]], masks: dict[str, list[MaskFile]], catalogue: Catalogue
) -> ExamSource | None:
    every = [series_of(uid, images) for uid, images in sorted(series.items())]
    drawn_on = [one for one in every if one.name in masks]
    if len(drawn_on) == 1:
        chosen: Series | None = drawn_on[0]
        reason = "masks were drawn on another series of the study"
        others = [LeftOut(study, one.name, "NOT_CHOSEN", reason) for one in every if one is not chosen]
    else:
        chosen, verdicts = choose(drawn_on or every)
        others = [LeftOut(study, one.series.name, one.code, one.reason) for one in verdicts]
    catalogue.left_out += others
    if chosen is None:
        catalogue.left_out.append(LeftOut(study, "", "NO_SERIES", "none of its series can stand for the exam"))
        return None
    images = sorted(chosen.images, key=lambda one: one.path)
    return ExamSource(
        dataset=FAMILY,
        exam=exam_name(study),
        patient=patient_key(FAMILY, images[0].patient or study),
        family=FAMILY,
        images=tuple(one.path.relative_to(root) for one in images),
        masks=tuple(masks.get(chosen.name, ())),
        choice=f"{chosen.name}: {describe(chosen)}" if len(every) > 1 else "",
    )


def _masks_by_series(
    root: Path, studies: dict[str, dict[str, list[ImageFacts]]], segs: list[Path], catalogue: Catalogue
) -> dict[str, list[MaskFile]]:
    """By Series Instance UID, in the order of their paths; masks of no series go into the report."""
    series = {uid: images for study in studies.values() for uid, images in study.items()}
    by_folder: dict[Path, set[str]] = defaultdict(set)
    for uid, images in series.items():
        for one in images:
            by_folder[one.path.parent].add(uid)
    masks: dict[str, list[MaskFile]] = defaultdict(list)
    candidates = [(path, _referenced_series(path)) for path in sorted(segs)]
    for path in sorted(path for path in root.rglob("*") if is_nifti(path)):
        beside = by_folder.get(path.parent, set())
        if base_name(path) in series:
            candidates.append((path, base_name(path)))
        elif len(beside) == 1:
            candidates.append((path, next(iter(beside))))
    for path, uid in candidates:
        if uid in series:
            masks[uid].append(MaskFile(path.relative_to(root)))
        else:
            what = path.relative_to(root).as_posix()
            catalogue.left_out.append(LeftOut("", what, "NO_IMAGES", "a mask of a series that is not in the folder"))
    return masks


def _referenced_series(path: Path) -> str:
    with open_file(path) as file:
        ds: Any = read_dataset(file, stop_before_pixels=True, specific_tags=["ReferencedSeriesSequence"])
    referenced = ds.get("ReferencedSeriesSequence") or [{}]
    return str(referenced[0].get("SeriesInstanceUID", ""))


def _nifti_exams(root: Path) -> list[ExamSource]:
    images, masks = nifti_files(root, "image"), nifti_files(root, "mask", "label")
    return [
        ExamSource(
            dataset=FAMILY,
            exam=exam_name(name),
            patient=patient_key(FAMILY, name),
            family=FAMILY,
            images=(images[name].relative_to(root),),
            masks=(MaskFile(masks[name].relative_to(root)),) if name in masks else (),
        )
        for name in sorted(images)
    ]


def _leave_out_unplaced(root: Path, catalogue: Catalogue, masks: dict[str, list[MaskFile]]) -> None:
    """NIfTI files of no exam and no series go into the report: a mask among them would be missed."""
    taken = {mask.path for of_series in masks.values() for mask in of_series}
    taken |= {path for exam in catalogue.exams for path in (*exam.images, *(mask.path for mask in exam.masks))}
    for path in sorted(path for path in root.rglob("*") if is_nifti(path)):
        what = path.relative_to(root)
        if what not in taken:
            catalogue.left_out.append(LeftOut("", what.as_posix(), "NO_IMAGES", UNPLACED))


def _labels(root: Path) -> dict[str, Findings]:
    """By exam, from labels.csv; empty without it. Raises DataError for a value that tells nothing."""
    table = root / LABELS
    if not table.is_file():
        return {}
    told: dict[str, Findings] = {}
    for row in read_table(table, needs=["exam"]):
        if not row.keys() & set(FINDINGS):
            raise DataError(f"{LABELS} has none of the columns {', '.join(FINDINGS)}; it has {', '.join(row)}")
        file = Path(row["exam"])
        name = exam_name(base_name(file) if is_nifti(file) else row["exam"])
        one = [_finding(row.get(finding, ""), name) for finding in FINDINGS]
        if one[ANY] == UNKNOWN and 1 in one:  # who tells of a subtype need not say that it is blood
            one[ANY] = 1
        told[name] = tuple(one)
    return told


def _finding(text: str, exam: str) -> int:
    """Programs that know no empty whole numbers write 1.0 for 1."""
    if text not in TOLD:
        raise DataError(f"{LABELS} tells {text!r} of exam {exam}; 0, 1 or nothing is expected")
    return TOLD[text]
