"""A SEG that says where the simulator put the blood, or, for the negative controls, where it did not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from dicom_node.result_forms import Form, FormName
from ml.inference.lesions import find_lesions
from ml.prediction import BundleIdentity, Prediction
from worker.results.context import OperatingPoints, ResultContext, SeriesPlan
from worker.results.exam import AnalysedExam
from worker.results.forms import write_form
from worker.results.source import read_source

if TYPE_CHECKING:
    from pydicom import Dataset

    from ml.volume import MaskArray
    from tests.viewer.cases import Study

SIMULATOR = BundleIdentity("simulator", "1", "ab" * 32, "2.25.136204138762351")
CONTEXT = ResultContext(
    input_digest="",
    config_digest="22" * 32,
    bundle=SIMULATOR,
    created_at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    operating_points=OperatingPoints(exam=0.5, voxel=0.5),
    series=SeriesPlan(first_number=9001),
)
SERIES_NUMBER = 8001
BINARY = Form(FormName.SEG_BINARY)


def write_truth(study: Study, mask: MaskArray, *, name: str, form: Form = BINARY) -> Dataset:
    """The SEG of a (z, y, x) mask on this study, written as the worker writes one; `name` is its series description."""
    prediction = Prediction(
        prob=mask.astype(np.float32),
        mask=mask,
        slice_scores=np.asarray(mask.any(axis=(1, 2)), dtype=np.float32),
        exam_score=1.0,
        exam_positive=True,
        bundle=SIMULATOR,
    )
    source = read_source(study.files, study.volume.geometry)
    exam = AnalysedExam(source, study.volume, prediction, find_lesions(mask, study.volume))
    context = replace(CONTEXT, input_digest=f"{name} on {study.uid}")
    (seg,) = write_form(form, context, exam)
    seg.SeriesNumber, seg.SeriesDescription = SERIES_NUMBER, name
    return seg
