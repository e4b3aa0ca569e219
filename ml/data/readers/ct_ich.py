"""PhysioNet CT-ICH 1.3.1 (Hssayeni): 75 traumatic head CTs of 5 mm with masks, and subtypes by slice.

    ct_scans/049.nii ... 130.nii      059 to 065 do not exist
    masks/049.nii ...                 binary; drawn on windowed video, then mapped back
    hemorrhage_diagnosis_raw_ct.csv   PatientNumber,SliceNumber,Intraventricular,...,No_Hemorrhage,Fracture_Yes_No

Slice numbers count from 1 in the order of the file.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ml.data.exams import patient_key
from ml.data.manifest import Catalogue, LeftOut
from ml.data.readers.layout import (
    Options,
    exam_name,
    find,
    leave_out_orphans,
    leave_out_others,
    nifti_files,
    read_table,
)
from ml.data.sources import ExamSource, Findings, MaskFile
from ml.errors import DataError
from ml.labels import FINDINGS

COLUMN_OF = {
    "any": "No_Hemorrhage",
    "EDH": "Epidural",
    "IPH": "Intraparenchymal",
    "IVH": "Intraventricular",
    "SAH": "Subarachnoid",
    "SDH": "Subdural",
}
"""The column of each finding; that of "any" says the opposite."""
COLUMNS = [COLUMN_OF[name] for name in FINDINGS]
TABLES = ("hemorrhage_diagnosis_raw_ct.csv", "hemorrhage_diagnosis.csv")


def read_ct_ich(root: Path, options: Options) -> Catalogue:  # noqa: ARG001 (there are no headers to read)
    """One exam per scan."""
    catalogue = Catalogue("ct-ich")
    images, masks = nifti_files(root, "ct_scan"), nifti_files(root, "mask")
    told = read_diagnoses(find(root, *TABLES))
    if not images:
        raise DataError(f"{root} has no ct_scans/049.nii ... (docs/data.md)")
    for name in sorted(images):
        if name not in masks:
            what = images[name].relative_to(root).as_posix()
            reason = "kept with the labels of its slices only"
            catalogue.left_out.append(LeftOut(exam_name(name), what, "NO_MASK", reason))
        number = int(name) if name.isdecimal() else None
        if number not in told:
            what = images[name].relative_to(root).as_posix()
            catalogue.left_out.append(LeftOut(exam_name(name), what, "NO_READS", "no rows: kept with its mask only"))
        catalogue.exams.append(
            ExamSource(
                dataset="ct-ich",
                exam=exam_name(name),
                patient=patient_key("ct-ich", name),
                family="ct-ich",
                images=(images[name].relative_to(root),),
                masks=(MaskFile(masks[name].relative_to(root)),) if name in masks else (),
                slice_findings={} if number is None else told.get(number, {}),
            )
        )
    leave_out_orphans(catalogue, root, images, masks)
    leave_out_others(catalogue, root, images, masks)
    return catalogue


def read_diagnoses(table: Path) -> dict[int, dict[str, Findings]]:
    """By patient number: findings of slices, by their index in the file (from 0)."""
    told: dict[int, dict[str, Findings]] = defaultdict(dict)
    for row in read_table(table, needs=["PatientNumber", "SliceNumber", *COLUMNS]):
        if not row["PatientNumber"] or not row["SliceNumber"]:
            continue  # the file ends with rows of sums
        values = [int(float(row[column] or 0)) for column in COLUMNS]
        findings = (1 - values[0], *values[1:])
        told[int(float(row["PatientNumber"]))][str(int(float(row["SliceNumber"])) - 1)] = findings
    return told
