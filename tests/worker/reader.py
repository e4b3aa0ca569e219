"""A node and its worker with a tiny network, for tests of the pipeline; the fixture `make_house` is in conftest.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydicom
import torch

from dicom_node.tables import Job, Result
from ml.bundle import BundleConfig, write_bundle
from ml.config import Calibration, Logistic, OperatingPoint, Preprocessing, Provenance, Window
from ml.networks.drn import DrnConfig, Level
from ml.networks.patchfcn import PatchFcn, PatchFcnConfig
from worker import pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

    from tests.dicom_node.house import House
    from worker.runtime import Runtime

TINY = PatchFcnConfig(DrnConfig(6, 4, 3, 2, (Level("conv", 6, 1),)), class_pooling="smooth-max")
ALWAYS, NEVER = 20.0, -20.0
"""Bias of the exam score: a bundle that calls every exam positive, or none."""


def write_tiny_bundle(folder: Path, bias: float) -> Path:
    """The same weights every time, and an exam score that is decided."""
    torch.manual_seed(0)
    network = PatchFcn(TINY)
    torch.nn.init.normal_(network.get_parameter("pixel_score.weight"), 0, 2.0)
    torch.nn.init.zeros_(network.get_parameter("pixel_score.bias"))
    config = BundleConfig(
        name="tiny",
        version="0",
        network=TINY,
        preprocessing=Preprocessing(4.0, 64, (Window(-10, 110), Window(-300, 900)), 5.0, 5.0),
        operating_point=OperatingPoint(pixel_prob=0.5, exam_score=0.5, least_lesion_ml=30.0),
        calibration=Calibration(Logistic((1.0, 0.5, 0.5), -1.0), Logistic((0.0, 0.0, 0.0), bias)),
        provenance=Provenance("none: random weights", "tests", 0, "none", 0),
    )
    write_bundle(folder, config, weights=network.state_dict(), metrics={}, card="tiny")
    return folder


def run(house: House, runtime: Runtime, series: list[Dataset]) -> Job:
    """Receive, complete and run; the job as it ended."""
    job_id = house.job(series) if not house.all(Job) else house.all(Job)[-1].id
    pipeline.run_job(runtime, job_id)
    return house.row(job_id)


def result_files(house: House) -> dict[str, Dataset]:
    """Modality -> result, as saved."""
    return {row.kind.value: pydicom.dcmread(house.config.archive_dir / row.path) for row in house.all(Result)}
