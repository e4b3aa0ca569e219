"""Jobs: one worker at a time, late writes, lost workers, poison studies, retries; on both databases."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from dicom_node import jobs
from dicom_node.config_sections import WorkerConfig
from dicom_node.db import now
from dicom_node.errors import ArchiveError, InputChanged, LeaseLost, NotFound, NotPossible
from dicom_node.jobs import ClaimedJob, Outcome
from dicom_node.states import JobState, ResultKind, StudyState
from dicom_node.tables import AuditEvent, Delivery, Job, Result
from tests.dicom_node.house import MR, SR, House, head_ct, other_object

REJECTION: dict[str, Any] = {
    "state": JobState.REJECTED,
    "finding": "rejected",
    "rejection": ("GAP", "not analysed: slices are missing"),
    "kinds": (ResultKind.SR,),
}


def lose(house: House) -> None:
    """The worker falls silent and the sweep notices."""
    house.change(Job, lease_until=now() - timedelta(seconds=1))
    jobs.requeue_expired(house.database, house.config.worker)


def test_only_one_of_many_workers_gets_a_job(house: House) -> None:
    """A message that came several times is claimed once."""
    job_id = house.job()
    taken: list[ClaimedJob | None] = []
    threads = [
        threading.Thread(
            target=lambda n=n: taken.append(jobs.claim(house.database, job_id, worker=f"w{n}", lease_s=30))
        )
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [job for job in taken if job is not None]
    assert (winner.attempt, len(winner.sources)) == (1, 12)
    assert house.row(job_id).state is JobState.RUNNING


def test_a_worker_that_lost_its_lease_changes_nothing(house: House) -> None:
    """Paused, cut off, or on a stopped clock: another attempt has the job."""
    first = house.claimed()
    lose(house)
    second = house.claimed(first.id, worker="worker-2")
    assert second.attempt == first.attempt + 1
    config = house.config.worker
    with pytest.raises(LeaseLost):
        jobs.renew(house.database, first.id, attempt=first.attempt, lease_s=30)
    with pytest.raises(LeaseLost):
        house.finish(first)
    with pytest.raises(LeaseLost):
        jobs.fail(house.database, first, code="X", text="", retryable=False, config=config)
    assert house.all(Result) == []
    house.finish(second)
    assert house.row(first.id).state is JobState.SUCCEEDED


def test_a_lease_that_is_renewed_is_not_taken_away(house: House) -> None:
    """A long job with a living worker."""
    job = house.claimed()
    house.change(Job, lease_until=now() - timedelta(seconds=1))
    jobs.renew(house.database, job.id, attempt=job.attempt, lease_s=30)
    assert jobs.requeue_expired(house.database, house.config.worker) == []


def test_a_job_that_is_cancelled_while_it_runs_keeps_no_result(house: House) -> None:
    """Its worker finds out at its next write."""
    job = house.claimed()
    jobs.cancel(house.database, job.id, why="test")
    with pytest.raises(LeaseLost):
        jobs.renew(house.database, job.id, attempt=job.attempt, lease_s=30)
    with pytest.raises(LeaseLost):
        house.finish(job)
    assert house.row(job.id).state is JobState.CANCELLED
    assert house.all(Result) == []


def test_a_study_that_kills_its_workers_is_quarantined_until_somebody_retries(house: House) -> None:
    """`max_worker_deaths` workers, and no more."""
    job_id = house.job()
    for death in range(1, 4):
        house.claimed(job_id)
        lose(house)
        assert house.row(job_id).worker_deaths == death
    assert house.row(job_id).state is JobState.QUARANTINED
    assert jobs.claim(house.database, job_id, worker="w", lease_s=30) is None
    jobs.retry(house.database, job_id)
    assert (house.row(job_id).state, house.row(job_id).worker_deaths) == (JobState.QUEUED, 0)
    house.finish(house.claimed(job_id))


def test_a_worker_that_an_administrator_stopped_counts_as_no_death(house: House) -> None:
    """Restarting the service three times during a long job must not quarantine its study."""
    job = house.claimed(worker="w")
    assert jobs.hand_back(house.database, "another") == 0
    assert jobs.hand_back(house.database, "w") == 1
    row = house.row(job.id)
    assert (row.state, row.worker_deaths, row.published_at) == (JobState.QUEUED, 0, None)
    assert jobs.hand_back(house.database, "w") == 0


def test_the_jobs_of_a_dead_worker_are_not_waited_for(house: House) -> None:
    """The supervisor knows at once; only that worker's leases end."""
    house.claimed(worker="dead")
    assert jobs.release_worker(house.database, "alive") == 0
    assert jobs.requeue_expired(house.database, house.config.worker) == []
    assert jobs.release_worker(house.database, "dead") == 1
    assert len(jobs.requeue_expired(house.database, house.config.worker)) == 1


def test_transient_errors_are_tried_again_with_growing_waits_and_then_given_up(house: House) -> None:
    """Waiting jobs cannot be claimed; a retry by hand gives all attempts anew."""
    config = WorkerConfig(max_attempts=2)
    job_id = house.job()
    job = house.claimed(job_id)
    assert jobs.fail(house.database, job, code="GPU", text="t", retryable=True, config=config) is JobState.QUEUED
    assert jobs.claim(house.database, job_id, worker="w", lease_s=30) is None, "its time has not come"
    with house.database.reading() as session:
        assert jobs.due_for_publishing(session, sent_before=None) == []
    house.change(Job, not_before=now())
    with house.database.reading() as session:
        assert jobs.due_for_publishing(session, sent_before=None) == [job_id]
    job = house.claimed(job_id)
    assert jobs.fail(house.database, job, code="GPU", text="t", retryable=True, config=config) is JobState.FAILED
    jobs.retry(house.database, job_id)
    job = house.claimed(job_id)
    assert job.attempt == 3
    assert jobs.fail(house.database, job, code="GPU", text="t", retryable=True, config=config) is JobState.QUEUED


def test_a_lost_worker_uses_up_no_attempt(house: House) -> None:
    """Deaths and errors are counted apart."""
    config = WorkerConfig(max_attempts=2)
    job_id = house.job()
    house.claimed(job_id)
    lose(house)
    job = house.claimed(job_id)
    assert jobs.fail(house.database, job, code="X", text="t", retryable=True, config=config) is JobState.QUEUED


@pytest.mark.parametrize("how", ["failed", "worker lost", "handed back", "retried"])
def test_a_job_that_is_to_be_run_again_needs_a_new_message(house: House, how: str) -> None:
    """The one that was sent for it is used up. By hand it is run at once, also when it was to wait."""
    job = house.claimed()
    jobs.mark_published(house.database, [job.id])
    if how == "worker lost":
        lose(house)
    elif how == "handed back":
        jobs.hand_back(house.database, "worker-1")
    else:
        jobs.fail(house.database, job, code="GPU", text="t", retryable=True, config=house.config.worker)
    if how == "failed":
        house.change(Job, not_before=now())
    if how == "retried":
        jobs.mark_published(house.database, [job.id])
        jobs.cancel(house.database, job.id, why="test")
        jobs.retry(house.database, job.id)
    with house.database.reading() as session:
        assert jobs.due_for_publishing(session, sent_before=None) == [job.id]


def test_a_job_reads_what_it_was_made_of(make_house: Callable[..., House]) -> None:
    """In whatever order that came, and not what came to its series since; if its bytes are others now, nothing."""
    house = make_house('[listener]\nsame_uid_other_bytes = "replace"')
    whole = head_ct(slices=13)
    job_id = house.job(reversed(whole[:12]))
    house.receive(whole[12:])
    job = house.claimed(job_id)
    assert [one.sop_instance_uid for one in job.sources] == sorted(str(one.SOPInstanceUID) for one in whole[:12])
    jobs.check_input(job)
    jobs.hand_back(house.database, "worker-1")
    whole[3].ImageComments = "other bytes"
    house.receive(whole[3:4])
    with pytest.raises(InputChanged):
        jobs.check_input(house.claimed(job_id))


def test_a_rejected_study_is_answered_as_itself(small_house: House) -> None:
    """UIDs of reports hang on the digest, so no two studies have one; what a report is made from is never our own."""
    for study_uid, uid in (("2.25.1", "2.9"), ("2.25.90", "2.91")):
        image = other_object(MR, "MR", uid=uid)
        image.StudyInstanceUID = study_uid
        small_house.receive([image])
    small_house.age(s=1001)
    first, other = (small_house.claimed(job_id) for job_id in small_house.sweep())
    assert first.input_digest != other.input_digest
    small_house.finish(first, **REJECTION)
    own = str(small_house.all(Result)[0].sop_instance_uid)
    small_house.receive([other_object(SR, "SR", uid=own)])
    bone = head_ct(slices=2, series_uid="2.92", kernel="H70h", description="Bone")
    for number, image in enumerate(bone):
        image.SOPInstanceUID = f"2.92.{number}"
    small_house.receive(bone)
    small_house.age(s=1001)
    (again,) = small_house.sweep()
    (source,) = small_house.claimed(again).sources
    assert own < source.sop_instance_uid == "2.9"


def test_a_permanent_error_fails_at_once(house: House) -> None:
    """Trying again changes nothing."""
    job = house.claimed()
    config = house.config.worker
    assert jobs.fail(house.database, job, code="X", text="y" * 5000, retryable=False, config=config) is JobState.FAILED
    assert house.row(job.id).error_code == "X"


def test_results_and_their_deliveries_come_with_the_end_or_not_at_all(make_house: Callable[..., House]) -> None:
    """One commit; a destination gets each result once, however often the job is run."""
    house = make_house(DESTINATIONS)
    job = house.claimed()
    house.finish(job)
    assert {r.kind for r in house.all(Result)} == {ResultKind.SEG, ResultKind.SR}
    assert sorted(d.destination for d in house.all(Delivery)) == ["a", "a", "b", "b"]
    with pytest.raises(LeaseLost):
        house.finish(job)


def test_a_result_whose_file_is_gone_gets_no_row(make_house: Callable[..., House]) -> None:
    """The look through the archive may take a file that waited too long for its row; the job is run again then."""
    house = make_house()
    job = house.claimed()
    results = tuple(house.result(one, job.input_digest) for one in house.config.wanted())
    house.archive.remove(results[-1].path)
    with pytest.raises(ArchiveError):
        jobs.finish(house.database, job, Outcome(JobState.SUCCEEDED, "positive", results), house.config)
    assert (house.row(job.id).state, house.all(Result)) == (JobState.RUNNING, [])


def test_a_rejected_job_that_is_retried_is_really_analysed(make_house: Callable[..., House]) -> None:
    """The worker gets no rejection to repeat; the new results replace the report that said why not."""
    house = make_house(DESTINATIONS)
    job = house.claimed()
    house.finish(job, name="rejected", **REJECTION)
    assert house.row(job.id).rejection_code == "GAP"
    jobs.retry(house.database, job.id)
    again = house.claimed(job.id)
    assert again.rejection is None
    house.finish(again)
    assert [(r.kind, r.superseded_at is None) for r in house.all(Result)] == [
        (ResultKind.SR, False),
        (ResultKind.SEG, True),
        (ResultKind.SR, True),
    ]
    assert [d.state.value for d in house.all(Delivery)] == ["CANCELLED"] * 2 + ["PENDING"] * 4


def test_a_retry_with_the_same_answer_makes_no_second_result(make_house: Callable[..., House]) -> None:
    """Same UIDs: the rows are taken over, and what was sent is not sent again."""
    house = make_house(DESTINATIONS)
    job = house.claimed()
    house.finish(job, **REJECTION)
    house.change(Delivery, state="SENT")
    jobs.retry(house.database, job.id)
    house.finish(house.claimed(job.id), **REJECTION)
    assert [(r.job_id, r.superseded_at) for r in house.all(Result)] == [(job.id, None)]
    assert [d.state.value for d in house.all(Delivery)] == ["SENT", "SENT"]


def test_results_of_the_same_uid_are_taken_over_by_a_later_generation(house: House) -> None:
    """They stay current; only the others of the older generation are superseded."""
    first = house.claimed()
    house.finish(first)
    house.receive(head_ct(slices=1, spacing_mm=[], frame_of_reference="2.25.8"))
    house.age(s=1001)
    (second_id,) = house.sweep()
    second = house.claimed(second_id)
    seg, sr = house.config.wanted()
    results = (house.result(seg, first.input_digest), house.result(sr, "new"))
    house.finish(second, results=results)
    current = {(r.kind, r.job_id) for r in house.all(Result) if r.superseded_at is None}
    assert current == {(ResultKind.SEG, second_id), (ResultKind.SR, second_id)}
    assert len(house.all(Result)) == 3


def test_an_exam_that_is_again_what_it_was_has_its_results_again(make_house: Callable[..., House]) -> None:
    """Bytes replaced and put back: the rows of the first results count once more, and their files are there."""
    house = make_house(DESTINATIONS + '[listener]\nsame_uid_other_bytes = "replace"\n')
    whole = head_ct()
    changed = copy.deepcopy(whole[3])
    changed.ImageComments = "other bytes"
    for images in (whole, [changed], whole[3:4]):
        job = house.claimed(house.job(images))
        house.change(Result, file_removed_at=now())
        house.finish(job)
    rows = house.all(Result)
    assert [row.job_id == job.id for row in rows] == [True, True, False, False]
    assert [row.superseded_at is None for row in rows] == [True, True, False, False]
    assert [row.file_removed_at is None for row in rows] == [True, True, False, False]
    assert [one.state.value for one in house.all(Delivery)] == ["PENDING"] * 4 + ["CANCELLED"] * 4


def test_a_study_without_eligible_series_is_looked_at_again_with_the_present_rules(house: House) -> None:
    """After its rules were changed, an administrator retries the rejected job."""
    house.receive([other_object(MR, "MR")])
    house.age(s=1001)
    (job_id,) = house.sweep()
    house.finish(house.claimed(job_id), **REJECTION)
    assert "present rules" in jobs.retry(house.database, job_id)
    assert house.study().state is StudyState.RECEIVING
    assert house.sweep() == [], "the rules say the same: no new job, and no second report"
    assert house.study().state is StudyState.COMPLETE
    assert house.row(job_id).state is JobState.REJECTED


def test_what_cannot_be_done_is_said(house: House) -> None:
    """No such job, a job with a finding, an older generation, an ended job."""
    with pytest.raises(NotFound, match="no job 99"):
        jobs.retry(house.database, 99)
    with pytest.raises(NotFound, match="no job 99"):
        jobs.cancel(house.database, 99, why="")
    job = house.claimed()
    with pytest.raises(NotPossible, match="RUNNING"):
        jobs.retry(house.database, job.id)
    house.receive(head_ct(slices=1, spacing_mm=[]))
    house.age(s=1001)
    (newer,) = house.sweep()
    with pytest.raises(NotPossible, match="generation 2"):
        jobs.retry(house.database, job.id)
    house.finish(house.claimed(newer))
    with pytest.raises(NotPossible, match="SUCCEEDED"):
        jobs.retry(house.database, newer)
    with pytest.raises(NotPossible, match="SUCCEEDED"):
        jobs.cancel(house.database, newer, why="")


def test_every_change_is_in_the_history(small_house: House) -> None:
    """In the order in which it happened."""
    house = small_house
    job = house.claimed()
    lose(house)
    house.finish(house.claimed(job.id))
    assert [event.kind for event in house.all(AuditEvent)] == [
        "study complete",
        "job queued",
        "job claimed",
        "worker lost, job queued again",
        "job claimed",
        "job succeeded",
    ]


DESTINATIONS = "".join(
    f'[[delivery.destination]]\nname = "{name}"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 9\n' for name in "ab"
)
