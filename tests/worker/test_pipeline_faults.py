"""Jobs that are run twice, cancelled, given to another worker, or meet a fault: what their rows say then."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import DataError

from dicom_node import jobs
from dicom_node.states import JobState
from dicom_node.tables import Delivery, Job, Result
from tests.dicom_factory import ct_series
from tests.dicom_node.house import House
from tests.worker.reader import result_files, run
from worker import pipeline
from worker.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_second_run_of_the_same_input_writes_the_same_bytes(
    make_house: Callable[..., tuple[House, Runtime]],
) -> None:
    """A worker that died after saving: the next attempt makes no second result."""
    house, runtime = make_house()
    job = run(house, runtime, ct_series(slices=24))
    first = {row.sop_instance_uid: row.sha256 for row in house.all(Result)}
    with house.database.session() as session:
        session.execute(update(Job).values(state=JobState.QUEUED, not_before=None))
    pipeline.run_job(runtime, job.id)
    assert {row.sop_instance_uid: row.sha256 for row in house.all(Result)} == first
    assert len(house.all(Delivery)) == 2
    assert house.row(job.id).attempt == 2


def test_a_message_for_a_job_that_is_gone_or_taken_does_nothing(
    make_house: Callable[..., tuple[House, Runtime]],
) -> None:
    """Duplicates and late messages find nothing to claim."""
    house, runtime = make_house()
    job_id = house.job(ct_series(slices=24))
    assert jobs.claim(house.database, job_id, worker="another", lease_s=30.0) is not None
    pipeline.run_job(runtime, job_id)
    pipeline.run_job(runtime, 4711)
    row = house.row(job_id)
    assert (row.state, row.worker, row.attempt) == (JobState.RUNNING, "another", 1)


def test_a_job_reads_what_it_was_made_for_or_nothing(make_house: Callable[..., tuple[House, Runtime]]) -> None:
    """A slice is replaced while the job waits: its results' UIDs would stand for other bytes. The next job reads it."""
    house, runtime = make_house(more='[listener]\nsame_uid_other_bytes = "replace"\n')
    images = ct_series(slices=24)
    job_id = house.job(images)
    images[3].ImageComments = "corrected"
    house.receive(images[3:4])
    pipeline.run_job(runtime, job_id)
    row = house.row(job_id)
    assert (row.state, row.error_code, house.all(Result)) == (JobState.QUEUED, "INPUT_CHANGED", [])
    (next_id,) = house.sweep()
    pipeline.run_job(runtime, next_id)
    assert [job.state for job in house.all(Job)] == [JobState.CANCELLED, JobState.SUCCEEDED]


def test_a_cancelled_job_keeps_nothing_of_its_worker(
    make_house: Callable[..., tuple[House, Runtime]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while the network runs: no result, no outbox row, and the state stays."""
    house, runtime = make_house()
    job_id = house.job(ct_series(slices=24))
    predict = runtime.predictor.predict

    def cancelled_meanwhile(volume: object) -> object:
        jobs.cancel(house.database, job_id, why="test")
        return predict(volume)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime.predictor, "predict", cancelled_meanwhile)
    pipeline.run_job(runtime, job_id)
    assert house.row(job_id).state is JobState.CANCELLED
    assert house.all(Result) == house.all(Delivery) == []


def test_a_file_that_cannot_be_read_now_is_tried_again(make_house: Callable[..., tuple[House, Runtime]]) -> None:
    """A shared folder that is away is a fault, not an answer: the job waits and runs again."""
    house, runtime = make_house()
    job_id = house.job(ct_series(slices=24))
    with house.database.reading() as session:
        path = house.config.archive_dir / session.scalars(select(Job)).one().study.instances[0].path
    away = path.with_suffix(".away")
    path.rename(away)
    pipeline.run_job(runtime, job_id)
    row = house.row(job_id)
    assert row.state is JobState.QUEUED
    assert row.not_before is not None
    assert row.error_code == "ARCHIVE_ERROR"
    assert (row.error_text or "").startswith("ENOENT: No such file or directory; ")
    away.rename(path)
    with house.database.session() as session:
        session.execute(update(Job).values(not_before=None))
    pipeline.run_job(runtime, job_id)
    assert house.row(job_id).state is JobState.SUCCEEDED


def test_a_disk_that_is_full_is_named(
    make_house: Callable[..., tuple[House, Runtime]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the code that docs/errors.md has for it, and what to do."""
    house, runtime = make_house()
    job_id = house.job(ct_series(slices=24))

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/archive/1.2.3.dcm")

    monkeypatch.setattr(pipeline, "save", full)
    pipeline.run_job(runtime, job_id)
    row = house.row(job_id)
    assert (row.state, row.error_code) == (JobState.QUEUED, "OUT_OF_SPACE")
    assert "1.2.3" not in (row.error_text or "")
    assert "dicom-node doctor" in (row.error_text or "")


def test_a_value_that_the_database_refuses_fails_the_job_and_not_the_worker(
    make_house: Callable[..., tuple[House, Runtime]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no database that is gone: waiting for its lease would end with a job that seems to kill workers."""
    house, runtime = make_house()
    job_id = house.job(ct_series(slices=24))

    def refused(*_: object) -> None:
        raise DataError("", None, ValueError("NaN"))

    monkeypatch.setattr(jobs, "finish", refused)
    pipeline.run_job(runtime, job_id)
    row = house.row(job_id)
    assert (row.state, row.error_code) == (JobState.QUEUED, "DataError")
    assert row.not_before is not None


def test_a_rejection_waits_for_an_archive_that_is_away(make_house: Callable[..., tuple[House, Runtime]]) -> None:
    """No report without a patient goes out because a shared folder was not there for a moment."""
    house, runtime = make_house()
    house.receive(ct_series(slices=24, kernel="H70s"))
    house.age(s=3600)
    (job_id,) = house.sweep()
    instances = house.config.archive_dir / "instances"
    instances.rename(instances.with_name("away"))
    pipeline.run_job(runtime, job_id)
    assert house.row(job_id).state is JobState.QUEUED
    assert house.all(Result) == []
    instances.with_name("away").rename(instances)
    with house.database.session() as session:
        session.execute(update(Job).values(not_before=None))
    pipeline.run_job(runtime, job_id)
    assert house.row(job_id).state is JobState.REJECTED
    assert result_files(house)["SR"].PatientID == "PHANTOM1"


def test_an_unexpected_error_is_a_row_and_not_a_dead_worker(
    make_house: Callable[..., tuple[House, Runtime]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task boundary: the job is tried again, its row names the kind of error and no value of the data."""
    house, runtime = make_house()
    job_id = house.job(ct_series(slices=24))

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("Phantom^Head")

    monkeypatch.setattr(pipeline, "find_lesions", broken)
    pipeline.run_job(runtime, job_id)
    row = house.row(job_id)
    assert (row.state, row.error_code) == (JobState.QUEUED, "ZeroDivisionError")
    assert "Phantom" not in (row.error_text or "")
