"""INSTANCE 2022: 100 labelled training volumes of 200, one binary mask each.

<...>/{data,images}/<n>.nii.gz
<...>/{label,labels,masks}/<n>.nii.gz    none for the volumes of the validation and test phase
"""

from __future__ import annotations

from pathlib import Path

from ml.data.exams import patient_key
from ml.data.manifest import Catalogue
from ml.data.readers.layout import Options, exam_name, leave_out_orphans, leave_out_others, nifti_files
from ml.data.sources import ExamSource, MaskFile
from ml.errors import DataError


def read_instance(root: Path, options: Options) -> Catalogue:  # noqa: ARG001 (there are no headers to read)
    """One exam per volume, those without a mask unlabelled."""
    catalogue = Catalogue("instance")
    images, masks = nifti_files(root, "data", "image", "evaluation"), nifti_files(root, "label", "mask")
    if not images:
        raise DataError(f"{root} has no data/001.nii.gz ... (docs/data.md)")
    catalogue.exams += [
        ExamSource(
            dataset="instance",
            exam=exam_name(name),
            patient=patient_key("instance", name),
            family="instance",
            images=(images[name].relative_to(root),),
            masks=(MaskFile(masks[name].relative_to(root)),) if name in masks else (),
        )
        for name in sorted(images)
    ]
    leave_out_orphans(catalogue, root, images, masks)
    leave_out_others(catalogue, root, images, masks)
    return catalogue
