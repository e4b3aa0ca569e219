"""One job through the real pipeline: rows and files in, rows and result files out, with a tiny network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from dicom_node import deliverer
from dicom_node.states import DeliveryState, JobState, ResultKind
from dicom_node.tables import Delivery, Result
from ml.config import OperatingPoint
from tests.dicom_factory import ct_series
from tests.dicom_node.house import House
from tests.peers import Orthanc
from tests.worker.reader import NEVER, result_files, run
from worker.results.report_tree import referenced_instances, summary_text
from worker.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_positive_exam_gives_seg_sr_overlay_and_outbox(make_house: Callable[..., tuple[House, Runtime]]) -> None:
    """All in the one commit that ends the job."""
    house, runtime = make_house()
    job = run(house, runtime, ct_series(slices=24))
    assert job.state is JobState.SUCCEEDED, (job.error_code, job.error_text)
    assert job.summary["finding"] == "positive"
    files = result_files(house)
    assert set(files) == {"SEG", "SR"}
    assert len(files["SEG"].SegmentSequence) == len(job.summary["lesions"]) > 0
    for row, segment in zip(job.summary["lesions"], files["SEG"].SegmentSequence, strict=True):
        assert row["side"] in {"left", "right", "midline"}
        assert segment.SegmentLabel == f"Hemorrhage {row['number']}, {row['side']}, {row['volume_ml']:.1f} mL"
        assert [list(job.summary["slice_scores"])[z - 1] for z in row["key_slices"]] == row["key_sop_instance_uids"]
    assert [row.destination for row in house.all(Delivery)] == ["pacs", "pacs"]
    assert (house.config.archive_dir / job.summary["overlay"]).read_bytes().startswith(b"\x89PNG")
    assert set(job.summary["slice_scores"]) == set(job.sop_instance_uids)
    assert set(job.summary["seconds"]) == {"volume", "predict", "lesions", "encode", "check", "save"}


def test_a_hospital_may_choose_from_where_an_exam_is_called(make_house: Callable[..., tuple[House, Runtime]]) -> None:
    """By the bundle's own threshold this one would be negative; the results name the one that counted."""
    house, runtime = make_house(NEVER, worker="exam_threshold = 1e-12")
    job = run(house, runtime, ct_series(slices=24))
    assert job.summary["finding"] == "positive"
    assert job.summary["exam_probability"] == 0
    assert runtime.predictor.bundle.config.operating_point == OperatingPoint(0.5, 1e-12, 30.0)
    assert "exam >= 1e-12" in summary_text(result_files(house)["SR"])


MORE_FORMS = """
[[results.profile]]
name = "new"
seg = ["seg-labelmap", "seg-binary"]
first_series_number = 9001
[[delivery.destination]]
name = "archive"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 4243
profile = "new"
"""


def test_every_form_that_some_profile_asks_for_is_written_once(
    make_house: Callable[..., tuple[House, Runtime]],
) -> None:
    """Two destinations share the binary segmentation and its report; the first one refers to no label map."""
    house, runtime = make_house(more=MORE_FORMS)
    job = run(house, runtime, ct_series(slices=24))
    assert job.state is JobState.SUCCEEDED, (job.error_code, job.error_text)
    rows = {row.variant.partition(",")[0]: row for row in house.all(Result)}
    assert list(rows) == ["seg-binary", "seg-labelmap", "sr-3d of seg-binary", "sr-3d of seg-labelmap"]
    for name in ("seg-binary", "seg-labelmap"):
        report = pydicom.dcmread(house.config.archive_dir / rows[f"sr-3d of {name}"].path)
        assert rows[f"sr-3d of {name}"].refers_to == rows[name].sop_instance_uid
        assert rows[name].sop_instance_uid in referenced_instances(report)
    placed = {(row.destination, row.result_id): (row.state.value, row.rank) for row in house.all(Delivery)}
    assert placed == {
        ("pacs", rows["seg-binary"].id): ("PENDING", 0),
        ("pacs", rows["sr-3d of seg-binary"].id): ("PENDING", 0),
        ("archive", rows["seg-labelmap"].id): ("PENDING", 0),
        ("archive", rows["seg-binary"].id): ("SPARE", 1),
        ("archive", rows["sr-3d of seg-labelmap"].id): ("PENDING", 0),
        ("archive", rows["sr-3d of seg-binary"].id): ("SPARE", 1),
    }


EVERYTHING = """
[[delivery.destination]]
name = "{0}"
{1}
profile = "everything"
"""


@pytest.mark.peer("orthanc")
def test_all_that_a_profile_asks_for_reaches_a_real_pacs_both_ways(
    orthanc: Orthanc, make_house: Callable[..., tuple[House, Runtime]]
) -> None:
    """By C-STORE and by STOW-RS: every kind, each object written once; what comes twice is kept once."""
    dimse = f'ae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {orthanc.dicom_port}'
    more = EVERYTHING.format("dimse", dimse) + EVERYTHING.format("web", f'url = "{orthanc.dicomweb_url}"')
    house, runtime = make_house(more=more)
    run(house, runtime, ct_series(slices=24))
    for destination in ("dimse", "web"):
        deliverer.deliver_to(destination, house.database, house.config, house.config.archive_dir)
    arrived = {row.destination: row.state for row in house.all(Delivery) if row.state is not DeliveryState.SPARE}
    assert arrived == {"pacs": DeliveryState.PENDING, "dimse": DeliveryState.SENT, "web": DeliveryState.SENT}
    made = house.all(Result)
    assert {row.kind for row in made} == set(ResultKind)
    variants = [row.variant for row in made if row.kind is not ResultKind.SC]
    assert len(set(variants)) == len(variants)
    assert {one.modality: len(one.sop_instance_uids) > 0 for one in orthanc.series()} == dict.fromkeys(
        ("SEG", "SR", "KO", "OT", "DOC"), True
    )
    sent = {row.result_id for row in house.all(Delivery) if row.state is DeliveryState.SENT}
    assert sorted(orthanc.instances()) == sorted(row.sop_instance_uid for row in made if row.id in sent)


def test_a_rejected_study_is_answered_in_every_form_that_can_say_why(
    make_house: Callable[..., tuple[House, Runtime]],
) -> None:
    """No segmentation and no key image: there is none."""
    address = 'ae_title = "VIEWER"\nhost = "127.0.0.1"\nport = 4244'
    house, runtime = make_house(more=EVERYTHING.format("viewer", address))
    house.receive(_without(11))
    house.age(s=3600)
    house.sweep()
    assert run(house, runtime, []).state is JobState.REJECTED
    sent = [row for row in house.all(Delivery) if row.destination == "viewer"]
    with house.database.reading() as session:
        forms = [(session.get_one(Result, row.result_id).form, row.state.value) for row in sent]
    assert forms == [("sr-3d", "PENDING"), ("sr", "SPARE"), ("sc", "PENDING"), ("pdf", "PENDING")]


@pytest.mark.parametrize(("setting", "kinds"), [("", {"SEG", "SR"}), ("send_seg_when_negative = false", {"SR"})])
def test_a_negative_exam_is_answered_too(
    make_house: Callable[..., tuple[House, Runtime]], setting: str, kinds: set[str]
) -> None:
    """An empty SEG by default, and always an SR."""
    house, runtime = make_house(NEVER, results=setting)
    job = run(house, runtime, ct_series(slices=24))
    assert (job.state, job.summary["finding"], job.summary["hemorrhage_ml"]) == (JobState.SUCCEEDED, "negative", 0.0)
    files = result_files(house)
    assert set(files) == kinds
    evidence = [
        instance.ReferencedSOPClassUID
        for study in files["SR"].CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    assert (SegmentationStorage in evidence) == ("SEG" in kinds), "a report names no segmentation that nobody gets"


def _one_missing(keyword: str) -> Callable[[], list[Dataset]]:
    return lambda: ct_series(slices=24, missing=(keyword,))


def _without(index: int) -> list[Dataset]:
    series = ct_series(slices=24)
    del series[index]
    return series


def _undecodable() -> list[Dataset]:
    series = ct_series(slices=24)
    series[7].PixelData = series[7].PixelData[: len(series[7].PixelData) // 3]
    return series


def _two_acquisitions() -> list[Dataset]:
    first = ct_series(slices=24, seed=1)
    study_uid, series_uid = str(first[0].StudyInstanceUID), str(first[0].SeriesInstanceUID)
    second = ct_series(slices=24, seed=2, acquisition_number=2, study_uid=study_uid, series_uid=series_uid)
    return [*first, *second]


BAD_INPUT: dict[str, Callable[[], list[Dataset]]] = {
    "RESCALE_MISSING": _one_missing("RescaleSlope"),
    "POSITION_MISSING": _one_missing("ImagePositionPatient"),
    "GAP_IN_SLICES": lambda: _without(11),
    "PIXELS_UNDECODABLE": _undecodable,
    "TOO_FEW_SLICES": lambda: ct_series(slices=1),
    "NO_CT": lambda: ct_series(slices=24, modality="MR"),
    "NOT_HEAD": lambda: ct_series(
        slices=24, description="Chest", study_description="CT CHEST", extra={"BodyPartExamined": "CHEST"}
    ),
    "ONLY_BONE_KERNEL": lambda: ct_series(slices=24, kernel="H70s"),
    "ONLY_CONTRAST": lambda: ct_series(slices=24, contrast="IOMERON"),
}


@pytest.mark.parametrize("code", BAD_INPUT)
def test_what_cannot_be_read_is_answered_with_its_reason(
    make_house: Callable[..., tuple[House, Runtime]], code: str
) -> None:
    """REJECTED, the code in the row, an SR that says so, and every received file still there."""
    house, runtime = make_house()
    house.receive(BAD_INPUT[code]())
    house.age(s=3600)
    house.sweep()
    job = run(house, runtime, [])
    assert (job.state, job.rejection_code) == (JobState.REJECTED, code)
    files = result_files(house)
    assert set(files) == {"SR"}
    assert code in summary_text(files["SR"])
    assert job.summary["rejected"] == code


def test_two_acquisitions_in_one_series_are_refused(make_house: Callable[..., tuple[House, Runtime]]) -> None:
    """Two different images at each position: nobody can say which one is meant."""
    house, runtime = make_house()
    house.receive(_two_acquisitions())
    house.age(s=3600)
    house.sweep()
    job = run(house, runtime, [])
    assert job.state is JobState.REJECTED
    assert job.rejection_code in {"MIXED_ACQUISITIONS", "MIXED_FRAMES_OF_REFERENCE"}


def test_a_rejected_study_is_silent_when_config_says_so(make_house: Callable[..., tuple[House, Runtime]]) -> None:
    """The row still tells why."""
    house, runtime = make_house(results="send_sr_when_rejected = false")
    house.receive(_without(11))
    house.age(s=3600)
    house.sweep()
    job = run(house, runtime, [])
    assert (job.state, job.rejection_code) == (JobState.REJECTED, "GAP_IN_SLICES")
    assert result_files(house) == {}
