"""What a reader sees of the report: OHIF draws each lesion's outline on its key slice, with its measures beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dicom_node.result_forms import Form, FormName
from ml.bundle import load_bundle
from ml.inference.lesions import find_lesions
from ml.inference.predictor import Predictor
from ml.phantom import simulate
from tests.peers import Chromium, Ohif, Orthanc, dcmsend
from tests.viewer.cases import head, write_study
from tests.viewer.session import Reader
from tests.viewer.truth import CONTEXT
from worker.results.exam import AnalysedExam
from worker.results.forms import write_form
from worker.results.source import read_source

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.peer("dcmtk", "orthanc", "chromium", "ohif"),
]


def test_the_outlines_of_the_report_are_drawn_on_the_key_slices(tmp_path: Path) -> None:
    """The report of profile `viewer`; no line on any other slice, and the lesion's area in words."""
    study = write_study(simulate(head(), matrix=128), tmp_path / "study")
    prediction = Predictor(load_bundle("default"), device="cpu", threads=1).predict(study.volume)
    lesions = find_lesions(prediction.mask, study.volume)
    assert len(lesions) >= 2
    exam = AnalysedExam(read_source(study.files, study.volume.geometry), study.volume, prediction, lesions)
    context = replace(CONTEXT, input_digest="drawn", bundle=prediction.bundle)
    (seg,) = write_form(Form(FormName.SEG_BINARY), context, exam)
    (report,) = write_form(Form(FormName.SR_3D, planar_regions=True), context, exam, beside=(seg,))
    with Orthanc() as pacs, Ohif(pacs.url) as viewer, Chromium() as browser:
        dcmsend(study.files, pacs.dicom_port)
        for number, ds in enumerate((seg, report)):
            ds.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
            pacs.upload(tmp_path / f"{number}.dcm")
        reader = Reader(browser, viewer)
        reader.open_study(study.uid)
        lines = reader.open_report(report, slices=len(study.files))
    uids = study.volume.geometry.sop_instance_uids
    assert {line["image"] for line in lines} == {uids[lesion.key_slice] for lesion in lesions}
    assert any("mm" in line["text"] for line in lines), lines
