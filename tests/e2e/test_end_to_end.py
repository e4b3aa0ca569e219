"""storescu -> node -> Orthanc -> DICOMweb: the results are valid, and the mask is the one that was predicted."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pydicom
import pytest
from pydicom.uid import Comprehensive3DSRStorage

from ml.bundle import load_bundle
from ml.data.series import read_volume
from ml.inference.predictor import Predictor
from ml.phantom import draw_spec, simulate
from ml.phantom.dicom import write_study
from tests.dicom_factory import ct_series
from tests.e2e.node import Node
from tests.peers import dcentvfy, dciodvfy, storescu, wait_until
from tests.real_heads import ge_files
from worker.results.masks import read_mask
from worker.results.report_tree import summary_text

if TYPE_CHECKING:
    from pydicom import Dataset

    from ml.prediction import Prediction
    from ml.volume import Volume
    from tests.peers import Orthanc

pytestmark = [pytest.mark.e2e, pytest.mark.peer("dcmtk", "orthanc", "dicom3tools")]

BACKENDS = ["sqlite + embedded broker", "postgresql + rabbitmq", "postgresql + redis"]


@pytest.fixture
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(database, broker) of the back end that the test is parametrised with; empty strings are the embedded ones."""
    if request.param == BACKENDS[0]:
        return "", ""
    broker = "rabbitmq_url" if request.param == BACKENDS[1] else "redis_url"
    return request.getfixturevalue("postgresql_url"), request.getfixturevalue(broker)


@pytest.fixture(scope="module")
def simulated_study(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A simulated head CT with a bleed, with its localizer and bone-kernel series."""
    exam = simulate(draw_spec(20_260_002, institution="A", bleed=True), matrix=256)
    return write_study(exam, tmp_path_factory.mktemp("simulated"))


@pytest.mark.parametrize("urls", BACKENDS, indirect=True)
def test_a_study_comes_back_as_valid_seg_and_sr(
    urls: tuple[str, str], simulated_study: list[Path], orthanc: Orthanc, tmp_path: Path
) -> None:
    """The whole way, on every back end; done when Orthanc has committed to the results."""
    database_url, broker_url = urls
    with Node(
        tmp_path / "node",
        destinations={"pacs": (orthanc.ae_title, orthanc.dicom_port)},
        database_url=database_url,
        broker_url=broker_url,
        of_each_destination={"commitment": True},
    ) as node:
        orthanc.add_modality(node.ae_title, node.port)
        storescu(simulated_study, node.port, called=node.ae_title)
        study_uid = _study_uid(simulated_study)
        shown = node.wait_for_end(study_uid)
        assert shown["jobs"][-1]["state"] == "SUCCEEDED", shown
        assert shown["jobs"][-1]["arrived"] == "committed", shown
        assert node.json("status")["balances"]
    seg, sr = _fetch(orthanc, study_uid)
    _assert_valid(seg, sr, simulated_study, tmp_path)
    chosen = shown["jobs"][-1]["summary"]["series_instance_uid"]
    volume, prediction = _predict([path for path in simulated_study if _series_uid(path) == chosen])
    _assert_mask_is(seg, volume, prediction)
    assert prediction.exam_positive
    assert sr.SOPClassUID == Comprehensive3DSRStorage


def test_the_real_head_with_its_tilted_gantry_comes_back(orthanc: Orthanc, tmp_path: Path) -> None:
    """28 slices, tilt 18.5 degrees, 4 then 7 mm: analysed, valid, and the geometry is the source's."""
    files = ge_files()
    with Node(tmp_path / "node", destinations={"pacs": (orthanc.ae_title, orthanc.dicom_port)}) as node:
        storescu(files, node.port, called=node.ae_title)
        shown = node.wait_for_end(_study_uid(files))
        assert shown["jobs"][-1]["state"] == "SUCCEEDED", shown
        assert shown["complete_reason"] == "CONTIGUOUS"
    seg, sr = _fetch(orthanc, _study_uid(files))
    _assert_valid(seg, sr, files, tmp_path)
    volume, prediction = _predict(files)
    _assert_mask_is(seg, volume, prediction)


def test_a_study_that_cannot_be_read_comes_back_as_an_sr_that_says_why(orthanc: Orthanc, tmp_path: Path) -> None:
    """A gap in the slices: no SEG, an SR with the code, nothing lost."""
    source = tmp_path / "source"
    series = ct_series(source, slices=24)
    files = sorted(source.glob("*"))
    files.pop(len(files) // 2)
    with Node(tmp_path / "node", destinations={"pacs": (orthanc.ae_title, orthanc.dicom_port)}) as node:
        storescu(files, node.port, called=node.ae_title)
        shown = node.wait_for_end(str(series[0].StudyInstanceUID))
        job = shown["jobs"][-1]
        assert (job["state"], job["code"]) == ("REJECTED", "GAP_IN_SLICES")
        assert shown["instances"] == 23
        assert node.json("status")["studies"]["rejected"] == 1
    results = orthanc.fetch(str(series[0].StudyInstanceUID))
    assert [str(ds.Modality) for ds in results] == ["SR"]
    assert "GAP_IN_SLICES" in summary_text(results[0])
    assert dciodvfy(results[0]).errors == ()


def test_a_late_slice_makes_a_new_generation_and_a_late_series_does_not(orthanc: Orthanc, tmp_path: Path) -> None:
    """Late slices supersede; a late bone series changes nothing; the same study again changes nothing."""
    series = ct_series(tmp_path / "all", slices=24)
    files = sorted((tmp_path / "all").glob("*"))
    study_uid = str(series[0].StudyInstanceUID)
    ct_series(
        tmp_path / "bone", slices=24, study_uid=study_uid, kernel="H60s", description="Head Bone", series_number=3
    )
    with Node(tmp_path / "node", destinations={"pacs": (orthanc.ae_title, orthanc.dicom_port)}) as node:
        storescu(files[:-1], node.port, called=node.ae_title)
        first = node.wait_for_end(study_uid)
        storescu(files[-1:], node.port, called=node.ae_title)
        second = node.wait_for_end(study_uid, generation=2)
        storescu([tmp_path / "bone"], node.port, called=node.ae_title)
        storescu(files, node.port, called=node.ae_title)
        third = node.wait_for_end(study_uid, generation=2)
    assert first["jobs"][0]["state"] == second["jobs"][1]["state"] == "SUCCEEDED"
    assert second["jobs"][1]["slices"] == 24
    assert all(result["superseded_at"] for result in second["jobs"][0]["results"])
    assert not any(result["superseded_at"] for result in third["jobs"][1]["results"])
    assert third["generation"] == 2
    assert third["instances"] == 48


def test_a_pacs_that_is_down_costs_no_inference(orthanc: Orthanc, tmp_path: Path) -> None:
    """The results wait in the outbox and arrive when the PACS is back, from the one analysis that was made."""
    series = ct_series(tmp_path / "source", slices=24)
    study_uid = str(series[0].StudyInstanceUID)
    with Node(tmp_path / "node", destinations={"pacs": (orthanc.ae_title, orthanc.dicom_port)}) as node:
        orthanc.stop()
        try:
            storescu([tmp_path / "source"], node.port, called=node.ae_title)
            wait_until(lambda: _tried(node) == 2, what="both results were tried in vain", process=node.process)
        finally:
            orthanc.start()
        shown = node.wait_for_end(study_uid)
    job = shown["jobs"][-1]
    assert job["attempt"] == 1
    assert {d["state"] for r in job["results"] for d in r["deliveries"]} == {"SENT"}
    assert len(orthanc.instances(study_uid)) == 2


def test_results_that_come_back_are_not_analysed_again(orthanc: Orthanc, tmp_path: Path) -> None:
    """The loop guard: a PACS that routes everything sends our own SEG and SR to us."""
    series = ct_series(tmp_path / "source", slices=24)
    study_uid = str(series[0].StudyInstanceUID)
    with Node(tmp_path / "node", destinations={"pacs": (orthanc.ae_title, orthanc.dicom_port)}) as node:
        storescu([tmp_path / "source"], node.port, called=node.ae_title)
        node.wait_for_end(study_uid)
        for number, sop_instance_uid in enumerate(orthanc.instances(study_uid)):
            (tmp_path / f"returned-{number}.dcm").write_bytes(orthanc.file(sop_instance_uid))
        storescu(sorted(tmp_path.glob("returned-*.dcm")), node.port, called=node.ae_title)
        shown = node.wait_for_end(study_uid)
        ledger = node.json("status")
    assert shown["generation"] == 1
    assert ledger["instances"]["own_results_returned"] == 2
    assert ledger["balances"]


def test_images_that_were_removed_and_come_again_are_nothing_new(orthanc: Orthanc, tmp_path: Path) -> None:
    """Read, delivered, purged while the node runs; sent again it is taken and makes no second result."""
    series = ct_series(tmp_path / "source", slices=24)
    study_uid = str(series[0].StudyInstanceUID)
    with Node(tmp_path / "node", destinations={"pacs": (orthanc.ae_title, orthanc.dicom_port)}) as node:
        storescu([tmp_path / "source"], node.port, called=node.ae_title)
        node.wait_for_end(study_uid)
        assert node.json("purge", "--images-days", "0.000001")["removed"]["instances"] == 24
        assert node.json("status")["instances"]["held"] == 0
        storescu([tmp_path / "source"], node.port, called=node.ae_title)
        wait_until(
            lambda: node.json("show", study_uid)["history"][-1]["event"] == "exam unchanged, no new job",
            what="the study that came again is complete",
            process=node.process,
        )
        shown, ledger = node.json("show", study_uid), node.json("status")
    assert (shown["generation"], shown["instances"], ledger["balances"]) == (1, 24, True)
    assert len(orthanc.instances(study_uid)) == 2


def test_a_contiguous_study_does_not_wait_for_silence(orthanc: Orthanc, tmp_path: Path) -> None:
    """A contiguous study does not wait for the quiet period, which is set far longer here than the test waits."""
    series = ct_series(tmp_path / "source", slices=24)
    study_uid = str(series[0].StudyInstanceUID)
    slow: dict[str, dict[str, object]] = {"completion": {"quiet_s": 120.0}}
    with Node(tmp_path / "node", destinations={"pacs": (orthanc.ae_title, orthanc.dicom_port)}, sections=slow) as node:
        node.process.wait_for_line("worker ready")
        storescu([tmp_path / "source"], node.port, called=node.ae_title)
        shown = node.wait_for_end(study_uid, timeout_s=60)
    assert shown["complete_reason"] == "CONTIGUOUS"


def test_a_killed_supervisor_takes_its_parts_along_and_the_next_one_goes_on(orthanc: Orthanc, tmp_path: Path) -> None:
    """SIGKILL on the supervisor alone: no part is left, and a new node on the same port finishes the work."""
    series = ct_series(tmp_path / "source", slices=24)
    node = Node(tmp_path / "node", destinations={"pacs": (orthanc.ae_title, orthanc.dicom_port)})
    with node:
        parts = node.parts("listener", "sweeper", "worker")
        assert len(parts) == 3
        storescu([tmp_path / "source"], node.port, called=node.ae_title)
        os.kill(node.process.pid, signal.SIGKILL)
        psutil.wait_procs(parts, timeout=60)
        assert not [part for part in parts if part.is_running()]
        node.process.kill()
        node.process.start()
        wait_until(node.answers, what="the new node answers C-ECHO", process=node.process)
        shown = node.wait_for_end(str(series[0].StudyInstanceUID))
    assert shown["jobs"][-1]["state"] == "SUCCEEDED"


def _tried(node: Node) -> int:
    """How many deliveries wait after a failed try."""
    return sum(row["attempts"] > 0 for row in node.json("deliver", "--list", "--state", "pending"))


def _study_uid(files: list[Path]) -> str:
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


def _series_uid(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID)


def _fetch(orthanc: Orthanc, study_uid: str) -> tuple[Dataset, Dataset]:
    """The one SEG and the one SR that the PACS holds, fetched over DICOMweb."""
    found = {modality: orthanc.fetch(study_uid, modality=modality) for modality in ("SEG", "SR")}
    assert {modality: len(items) for modality, items in found.items()} == {"SEG": 1, "SR": 1}
    return found["SEG"][0], found["SR"][0]


def _assert_valid(seg: Dataset, sr: Dataset, sources: list[Path], folder: Path) -> None:
    """dciodvfy finds no error in either, dcentvfy none across them and the source."""
    saved = []
    for name, ds in (("seg", seg), ("sr", sr)):
        assert dciodvfy(ds).errors == ()
        saved.append(folder / f"{name}.dcm")
        ds.save_as(saved[-1], enforce_file_format=True)
    assert dcentvfy([*sources, *saved]).errors == ()


def _predict(files: list[Path]) -> tuple[Volume, Prediction]:
    """What the shipped network says of these files, here and now."""
    volume = read_volume(files)
    return volume, Predictor(load_bundle("default"), device="cpu", threads=1).predict(volume)


def _assert_mask_is(seg: Dataset, volume: Volume, prediction: Prediction) -> None:
    """The SEG's mask, read back per SOP Instance UID, is the prediction's, voxel by voxel."""
    masks = read_mask(seg)
    for z, uid in enumerate(volume.geometry.sop_instance_uids):
        expected = prediction.mask[z]
        np.testing.assert_array_equal(masks.get(uid, np.zeros_like(expected)), expected)
    assert set(masks) <= set(volume.geometry.sop_instance_uids)
