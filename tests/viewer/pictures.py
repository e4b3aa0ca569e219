"""`make pictures`: renews docs/pictures, what a reader sees of each form of a result in OHIF.

The same head as in the tests, on finer pixels, and what the shipped network says of it.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dicom_node.result_forms import Form, FormName
from ml.bundle import load_bundle
from ml.inference.lesions import find_lesions
from ml.inference.predictor import Predictor
from ml.phantom import simulate
from tests.peers import Chromium, Ohif, Orthanc, dcmsend
from tests.viewer.cases import Study, head, write_study
from tests.viewer.session import Reader
from tests.viewer.truth import CONTEXT
from worker.results.exam import AnalysedExam
from worker.results.forms import write_form
from worker.results.source import read_source

if TYPE_CHECKING:
    from pydicom import Dataset

DOCS = Path(__file__).parents[2] / "docs" / "pictures"
COLOURS = 96
"""Of a picture: a grey head and a few colours take no more, and the files stay under 200 KB."""


def main() -> None:
    """Writes every picture."""
    with tempfile.TemporaryDirectory() as folder:
        study = write_study(simulate(head(), matrix=256), Path(folder, "study"))
        exam = _analyse(study)
        binary = _write(exam, Form(FormName.SEG_BINARY))
        label_map = _write(exam, Form(FormName.SEG_LABELMAP))
        report = _write(exam, Form(FormName.SR_3D, planar_regions=True), binary)
        summary = _write(exam, Form(FormName.SC), binary)
        shown = int(
            np.argmax(exam.lesions[0].region.mask.sum(axis=(1, 2)) * exam.lesions[1].region.mask.any(axis=(1, 2)))
        )
        slice_uid = study.volume.geometry.sop_instance_uids[shown]
        for name, objects in {
            "overlay": [binary],
            "label-map": [label_map],
            "report": [binary, report],
            "summary": [summary],
        }.items():
            _look(study, objects, DOCS / f"{name}.png", slice_uid=slice_uid, folder=Path(folder))


def _analyse(study: Study) -> AnalysedExam:
    prediction = Predictor(load_bundle("default"), device="cpu").predict(study.volume)
    source = read_source(study.files, study.volume.geometry)
    return AnalysedExam(source, study.volume, prediction, find_lesions(prediction.mask, study.volume))


def _write(exam: AnalysedExam, form: Form, *beside: Dataset) -> Dataset:
    context = replace(CONTEXT, input_digest="pictures", bundle=exam.prediction.bundle)
    return write_form(form, context, exam, beside=beside)[0]


def _look(study: Study, objects: list[Dataset], picture: Path, *, slice_uid: str, folder: Path) -> None:
    """One PACS and browser for each picture: the list of series shows what one destination gets."""
    with Orthanc() as pacs, Ohif(pacs.url) as viewer, Chromium(width=1200, height=720) as browser:
        dcmsend(study.files, pacs.dicom_port)
        for ds in objects:
            ds.save_as(folder / "object.dcm", enforce_file_format=True)
            pacs.upload(folder / "object.dcm")
        reader = Reader(browser, viewer)
        reader.open_study(study.uid)
        last = objects[-1]
        if last.Modality == "SEG":
            reader.open_segmentation(last, slices=len(study.files))
            reader.open_panel("panelSegmentation-btn", shows="Hemorrhage 1")
        elif last.Modality == "SR":
            lines = reader.open_report(last, slices=len(study.files))
            slice_uid = lines[0]["image"]
        else:
            reader.open_image(last, slices=len(study.files))
            slice_uid = str(last.SOPInstanceUID)
        reader.take_picture(picture, sop_instance_uid=slice_uid)
    with Image.open(picture) as image:
        image.convert("RGB").quantize(COLOURS).save(picture, optimize=True)
    print(json.dumps({"picture": picture.name, "bytes": picture.stat().st_size}))  # noqa: T201


if __name__ == "__main__":
    main()
