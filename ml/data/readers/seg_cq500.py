"""Seg-CQ500 (Zenodo 8063221): voxel masks for 51 bleeding exams of CQ500, with the images as NIfTI.

    Seg-CQ500/data/volumes/<case>/{CT.nii,ICH_mask.nii.gz,brain.nii.gz}
    info.csv    name, and the readers' consensus for each finding

Cases are called CQ500-CT-<n>: they are exams of CQ500, and a split must not have them on both sides. One with another
name is kept and marked as of unknown patient. Tilted gantries are sheared affines, which stay as they are.
"""

from __future__ import annotations

from pathlib import Path

from ml.data.exams import patient_key
from ml.data.manifest import Catalogue, LeftOut
from ml.data.readers import cq500
from ml.data.readers.layout import Options, exam_name, find, read_table
from ml.data.sources import NOTHING_KNOWN, ExamSource, Findings, MaskFile
from ml.labels import UNKNOWN

IMAGE, MASK = "CT.nii", "ICH_mask.nii.gz"


def read_seg_cq500(root: Path, options: Options) -> Catalogue:  # noqa: ARG001 (there are no headers to read)
    """One exam per case that has images and a mask."""
    catalogue = Catalogue("seg-cq500")
    volumes = find(root, "Seg-CQ500/data/volumes", "data/volumes", "volumes")
    told = _consensus(volumes, root)
    for case in sorted(path for path in volumes.iterdir() if path.is_dir()):
        missing = [name for name in (IMAGE, MASK) if not (case / name).is_file()]
        if missing:
            reason = f"it has no {' and no '.join(missing)}"
            catalogue.left_out.append(LeftOut(exam_name(case.name), case.name, "NO_IMAGES", reason))
            continue
        number = cq500.number_of(case.name)
        catalogue.exams.append(
            ExamSource(
                dataset="seg-cq500",
                exam=exam_name(case.name),
                patient=patient_key("seg-cq500", case.name) if number is None else cq500.patient(number),
                family=cq500.FAMILY,
                patient_known=number is not None,
                images=((case / IMAGE).relative_to(root),),
                masks=(MaskFile((case / MASK).relative_to(root)),),
                findings=told.get(case.name, NOTHING_KNOWN),
            )
        )
    return catalogue


def _consensus(volumes: Path, root: Path) -> dict[str, Findings]:
    """By case: findings where info.csv has a share of readers for them; empty without the file."""
    places = [folder / "info.csv" for folder in (volumes, volumes.parent, volumes.parent.parent, root)]
    table = next((path for path in places if path.is_file()), None)
    if table is None:
        return {}
    return {
        row["name"]: tuple(_finding(row.get(column, "")) for column in cq500.COLUMNS)
        for row in read_table(table, needs=["name"])
    }


def _finding(share: str) -> int:
    """More than half of the readers."""
    try:
        return int(float(share) > 0.5)
    except ValueError:
        return UNKNOWN
