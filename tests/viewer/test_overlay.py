"""What a reader sees: the SEG that OHIF overlays is the mask that the worker predicted, voxel by voxel, slice by slice.

dcmsend -> node -> Orthanc -> DICOMweb -> OHIF in Chromium without a screen -> the label maps out of the running page.
No validator sees a SEG whose slices are in reversed order, or one that is mirrored; this does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ml.bundle import load_bundle
from ml.inference.predictor import Predictor
from tests.peers import dciodvfy
from tests.viewer.cases import ANALYSED, CONTROL, REJECTED, TILT_DEGREES
from tests.viewer.hospital import MIRRORED, REVERSED, TRUTH, Hospital, open_hospital

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml.volume import MaskArray
    from tests.viewer.cases import Study
    from tests.viewer.session import Overlay

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the first test's set-up is that of all; on an idle machine it takes half a minute
    pytest.mark.peer("dcmtk", "orthanc", "dicom3tools", "chromium", "ohif"),
]
LEAST_ML = 20.0
"""Of the 80 mL that were simulated: far from any bundle's decision."""


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """One node, one PACS, one viewer for all cases."""
    with open_hospital(tmp_path_factory.mktemp("hospital")) as hospital:
        yield hospital


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The shipped network, as the node's worker runs it."""
    return Predictor(load_bundle("default"), device="cpu", threads=1)


def differing_voxels(overlay: Overlay, mask: MaskArray, study: Study) -> int:
    """Voxels in which the overlay (all segments together) is not the (z, y, x) mask, each slice found by its UID."""
    uids = study.volume.geometry.sop_instance_uids
    assert set(overlay.labels) == set(uids)
    shown = np.stack([overlay.labels[uid] > 0 for uid in uids])
    assert shown.shape == mask.shape
    return int(np.count_nonzero(shown != mask))


@pytest.mark.parametrize("case", ANALYSED)
def test_the_overlay_is_the_mask_that_the_worker_predicted(hospital: Hospital, predictor: Predictor, case: str) -> None:
    """And its segments' labels tell the volume of the prediction."""
    study = hospital.studies[case]
    assert hospital.jobs[case]["state"] == "SUCCEEDED", hospital.jobs[case]
    prediction = predictor.predict(study.volume)
    volume_ml = study.volume.volume_ml(prediction.mask)
    assert volume_ml > LEAST_ML
    (name,) = set(hospital.segs[case]) - {TRUTH}
    overlay = hospital.look(case)[name]
    assert differing_voxels(overlay, prediction.mask, study) == 0
    listed_ml = [float(label.split()[-2]) for label in overlay.names.values()]
    assert sum(listed_ml) == pytest.approx(volume_ml, abs=0.05 * len(listed_ml))


@pytest.mark.parametrize("case", [*ANALYSED, REJECTED])
def test_a_seg_from_the_truth_is_overlaid_on_the_truth(hospital: Hospital, case: str) -> None:
    """The truth is the simulator's and never went through a SEG."""
    study = hospital.studies[case]
    assert study.volume.volume_ml(study.truth) > LEAST_ML
    assert differing_voxels(hospital.look(case)[TRUTH], study.truth, study) == 0


def test_a_study_with_a_missing_slice_is_rejected_by_the_node(hospital: Hospital) -> None:
    """So no prediction is shown on it."""
    job = hospital.jobs[REJECTED]
    assert (job["state"], job["code"]) == ("REJECTED", "GAP_IN_SLICES")
    assert set(hospital.segs[REJECTED]) == {TRUTH}


def test_volumes_on_a_tilted_gantry_use_the_spacing_along_the_normal(hospital: Hospital) -> None:
    """Table step instead would be 5.1 % more; the labels that the viewer lists add up to what the simulator counted."""
    study = hospital.studies["tilted gantry"]
    names = hospital.look("tilted gantry")[TRUTH].names
    listed_ml = sum(float(label.split()[-2]) for label in names.values())
    geometry = study.volume.geometry
    table_step_mm = float(np.linalg.norm(geometry.positions_lps[1] - geometry.positions_lps[0]))
    by_table_step_ml = float(study.truth.sum() * table_step_mm * np.prod(geometry.pixel_spacing_mm) / 1000)
    assert listed_ml == pytest.approx(by_table_step_ml * np.cos(np.radians(TILT_DEGREES)), abs=0.05 * len(names))
    assert by_table_step_ml > 1.05 * listed_ml


@pytest.mark.parametrize("wrong", [REVERSED, MIRRORED])
def test_a_wrong_seg_is_seen_here_and_by_no_validator(hospital: Hospital, wrong: str) -> None:
    """As many voxels, no error by dciodvfy, and the overlay beside the blood."""
    study = hospital.studies[CONTROL]
    seen = hospital.look(CONTROL)
    assert differing_voxels(seen[TRUTH], study.truth, study) == 0
    assert sum(np.count_nonzero(labels) for labels in seen[wrong].labels.values()) == study.truth.sum()
    assert dciodvfy(hospital.segs[CONTROL][wrong]).errors == ()
    assert differing_voxels(seen[wrong], study.truth, study) > study.truth.sum() / 2
