"""Seg-CQ500 (Zenodo 8063221): voxel masks for 51 bleeding exams of CQ500, with the images as NIfTI.

    Seg-CQ500/data/volumes/<case>/{CT.nii,ICH_mask.nii.gz,brain.nii.gz}
    info.csv    name, and a number between 0 and 1 for each finding

The numbers are labels where each is a share of three readers. Others are what some program made of the exam (0.93 is
told of the release), and are not taken for labels.
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
    told = _consensus(volumes, root, catalogue)
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


def _consensus(volumes: Path, root: Path, catalogue: Catalogue) -> dict[str, Findings]:
    """By case: what most readers say; empty where info.csv is missing or has other numbers than shares of readers."""
    places = [folder / "info.csv" for folder in (volumes, volumes.parent, volumes.parent.parent, root)]
    table = next((path for path in places if path.is_file()), None)
    if table is None:
        return {}
    shares = {
        row["name"]: [_number(row.get(column, "")) for column in cq500.COLUMNS]
        for row in read_table(table, needs=["name"])
    }
    if not all(share is None or _is_share(share) for row in shares.values() for share in row):
        reason = "not all of its numbers are shares of three readers: they are not taken for labels"
        catalogue.left_out.append(LeftOut("", table.relative_to(root).as_posix(), "NO_READS", reason))
        return {}
    return {
        name: tuple(UNKNOWN if share is None else int(share > 0.5) for share in row) for name, row in shares.items()
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_share(number: float) -> bool:
    """Of three readers, written with two digits at least."""
    return any(abs(number - readers / 3) < 0.01 for readers in range(4))
