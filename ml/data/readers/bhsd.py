"""BHSD: 192 volumes with voxel masks of five subtypes, and about 2,000 without, all made of RSNA 2019.

    label_192/images/ID_<8>_ID_<10>.nii.gz     ID_<8> is the RSNA patient, ID_<10> the study
    label_192/ground truths/<the same name>    also images*/ and labels*/ or masks/, as copies for nnU-Net have them
    unlabel_2000/{anybleed,nobleed}/...        whether it bleeds is all that is told of a volume there

Values: 1 EDH, 2 IPH, 3 IVH, 4 SAH, 5 SDH. Patients are those of RSNA: a split must not have them on both sides.
"""

from __future__ import annotations

import re
from pathlib import Path

from ml.data.exams import patient_key
from ml.data.manifest import Catalogue
from ml.data.readers import rsna
from ml.data.readers.layout import Options, exam_name, leave_out_orphans, leave_out_others, nifti_files
from ml.data.sources import NOTHING_KNOWN, ExamSource, MaskFile, findings
from ml.errors import DataError
from ml.labels import FINDINGS, Subtype

NAME = re.compile(r"ID_([0-9a-f]+)_ID_[0-9a-f]+", re.IGNORECASE)
VALUES = {int(subtype): int(subtype) for subtype in Subtype}
TOLD = {"anybleed": findings(any=True), "nobleed": (0,) * len(FINDINGS)}
"""What the name of a folder tells of its volumes."""
IMAGES = ("image", "unlabel", *TOLD)
"""Folders of volumes begin with these."""


def read_bhsd(root: Path, options: Options) -> Catalogue:  # noqa: ARG001 (there are no headers to read)
    """One exam per volume, those without a mask unlabelled."""
    catalogue = Catalogue("bhsd")
    images, masks = nifti_files(root, *IMAGES), nifti_files(root, "ground", "label", "mask")
    if not images:
        raise DataError(f"{root} has no images/ID_..._ID_....nii.gz (docs/data.md)")
    for name in sorted(images):
        known = NAME.fullmatch(name)
        catalogue.exams.append(
            ExamSource(
                dataset="bhsd",
                exam=exam_name(name),
                patient=rsna.patient(f"ID_{known.group(1).lower()}") if known else patient_key("bhsd", name),
                family=rsna.FAMILY,
                patient_known=known is not None,
                images=(images[name].relative_to(root),),
                masks=(MaskFile(masks[name].relative_to(root), VALUES),) if name in masks else (),
                findings=TOLD.get(images[name].parent.name.lower(), NOTHING_KNOWN),
            )
        )
    leave_out_orphans(catalogue, root, images, masks)
    leave_out_others(catalogue, root, images, masks)
    return catalogue
