"""Jobs: claim, lease, finish, fail, and what the sweep repairs.

A worker owns a job while its lease lasts. Every write that it makes names its attempt number, so a worker
that lost its lease (stopped clock, long pause, lost network) changes nothing when it comes back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node import deliveries
from dicom_node.audit import record
from dicom_node.backoff import backoff_s
from dicom_node.config import Config
from dicom_node.config_sections import WorkerConfig
from dicom_node.db import Database, now
from dicom_node.errors import ArchiveError, InputChanged, LeaseLost, NotFound, NotPossible
from dicom_node.profiles import Variant
from dicom_node.states import OPEN_JOB_STATES, JobState, StudyState, job_states_before
from dicom_node.tables import Instance, Job, Result


@dataclass(frozen=True)
class SourceFile:
    """One instance of a job's input set."""

    sop_instance_uid: str
    path: str
    """Relative to the archive."""
    sha256: str


@dataclass(frozen=True)
class ClaimedJob:
    """What a worker needs to know of the job it owns."""

    id: int
    attempt: int
    study_instance_uid: str
    series_instance_uid: str | None
    series_reason: str
    calling_ae_title: str
    input_digest: str
    queued_at: datetime
    """When the study asked for this analysis: the time that the results carry, the same for every attempt."""
    sources: tuple[SourceFile, ...]
    """The chosen series; for a rejected study one instance of it, from which the SR takes patient and study."""
    rejection: tuple[str, str] | None = None
    """(code, sentence) when the node already knows that the study cannot be analysed."""


@dataclass(frozen=True)
class NewResult:
    """A result file that stands in the archive and waits for its row."""

    variant: Variant
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: str
    sha256: str
    size_bytes: int
    refers_to: str | None = None
    """SOP Instance UID of the segmentation that a report names."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended well: SUCCEEDED with a finding, or REJECTED with a code and a sentence."""

    state: JobState
    finding: str
    """positive, negative or rejected: what routing rules ask for."""
    results: tuple[NewResult, ...]
    bundle: str | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    rejection: tuple[str, str] | None = None


def input_digest(study_instance_uid: str, read: Iterable[tuple[str, str]], *, rejection_code: str | None = None) -> str:
    """SHA-256 over what an analysis reads: UID and SHA-256 of each instance, by UID; or over the rejection."""
    lines = [study_instance_uid, rejection_code or "exam", *(f"{uid} {sha256}" for uid, sha256 in read)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_input(job: ClaimedJob) -> None:
    """Raises InputChanged unless the job's sources are what it was made for: instances may be replaced meanwhile."""
    read = ((source.sop_instance_uid, source.sha256) for source in job.sources)
    if input_digest(job.study_instance_uid, read) != job.input_digest:
        raise InputChanged(f"instances of job {job.id} were replaced since it was made; the next generation reads them")


def claim(database: Database, job_id: int, *, worker: str, lease_s: float) -> ClaimedJob | None:
    """Take a queued job, or None when it is not there to be taken (a duplicate or late message)."""
    with database.session() as session:
        taken = _changed(
            session,
            sa.update(Job)
            .where(
                Job.id == job_id,
                Job.state == JobState.QUEUED,
                sa.or_(Job.not_before.is_(None), Job.not_before <= now()),
            )
            .values(
                state=JobState.RUNNING,
                attempt=Job.attempt + 1,
                worker=worker,
                started_at=now(),
                lease_until=now() + timedelta(seconds=lease_s),
                error_code=None,
                error_text=None,
            ),
        )
        if taken != 1:
            return None
        job = session.get_one(Job, job_id)
        session.refresh(job)
        record(session, "job claimed", study_id=job.study_id, job_id=job.id, attempt=job.attempt, worker=worker)
        return _claimed(session, job)


def _claimed(session: Session, job: Job) -> ClaimedJob:
    """The job with its sources as they lie in the archive now."""
    wanted = sa.select(Instance).where(Instance.study_id == job.study_id)
    if job.sop_instance_uids:
        wanted = wanted.where(Instance.series_instance_uid == job.series_instance_uid)
    else:
        wanted = wanted.where(Instance.is_own_result.is_(False)).limit(1)
    names = set(job.sop_instance_uids)
    rows = session.scalars(wanted.order_by(Instance.sop_instance_uid))
    sources = [
        SourceFile(r.sop_instance_uid, r.path, r.sha256) for r in rows if not names or r.sop_instance_uid in names
    ]
    return ClaimedJob(
        id=job.id,
        attempt=job.attempt,
        study_instance_uid=job.study.study_instance_uid,
        series_instance_uid=job.series_instance_uid,
        series_reason=job.series_reason,
        calling_ae_title=job.study.calling_ae_title,
        input_digest=job.input_digest,
        queued_at=job.queued_at,
        sources=tuple(sources),
        rejection=(job.rejection_code, job.rejection_text or "") if job.rejection_code else None,
    )


def renew(database: Database, job_id: int, *, attempt: int, lease_s: float) -> None:
    """Say that this attempt is alive. Raises LeaseLost when the job is no longer its own."""
    with database.session() as session:
        renewed = _changed(
            session,
            sa.update(Job)
            .where(Job.id == job_id, Job.attempt == attempt, Job.state == JobState.RUNNING)
            .values(lease_until=now() + timedelta(seconds=lease_s)),
        )
        if renewed != 1:
            raise LeaseLost(job_id, attempt)


def finish(database: Database, job: ClaimedJob, outcome: Outcome, config: Config) -> None:
    """End a job with its results and their outbox rows, in one commit.

    Raises LeaseLost, and ArchiveError when a result has no file; then nothing is kept.
    """
    with database.session() as session:
        row = _owned(session, job.id, job.attempt)
        row.state = outcome.state
        row.finished_at = now()
        row.lease_until = None
        row.bundle = outcome.bundle
        row.summary = {**outcome.summary, "results": len(outcome.results)}
        if outcome.rejection:
            row.rejection_code, row.rejection_text = outcome.rejection[0], outcome.rejection[1][:512]
        results = [_keep_result(session, row, result) for result in outcome.results]
        session.flush()
        _check_files(outcome.results, config)
        deliveries.supersede_older(session, row, keep=results)
        deliveries.route(session, row, results, finding=outcome.finding, config=config)
        record(
            session,
            f"job {outcome.state.value.lower()}",
            study_id=row.study_id,
            job_id=row.id,
            finding=outcome.finding,
            results=[result.sop_instance_uid for result in results],
        )


def _keep_result(session: Session, job: Job, new: NewResult) -> Result:
    """A row for the result; the same UID made again by an earlier attempt or generation is taken over."""
    result = session.scalar(sa.select(Result).where(Result.sop_instance_uid == new.sop_instance_uid))
    if result is None:
        result = Result(sop_instance_uid=new.sop_instance_uid, created_at=now())
        session.add(result)
    result.job_id = job.id
    result.kind = new.variant.kind
    result.form = new.variant.form.name.value
    result.variant = new.variant.key
    result.refers_to = new.refers_to
    result.sop_class_uid = new.sop_class_uid
    result.series_instance_uid = new.series_instance_uid
    result.path = new.path
    result.sha256 = new.sha256
    result.size_bytes = new.size_bytes
    result.superseded_at = result.file_removed_at = None
    return result


def _check_files(results: Iterable[NewResult], config: Config) -> None:
    """Reconciliation removes files without a row under a lock that this transaction's rows exclude: look now."""
    if not all((config.archive_dir / result.path).exists() for result in results):
        raise ArchiveError("the file of a result was removed before its row was written")


def fail(
    database: Database, job: ClaimedJob, *, code: str, text: str, retryable: bool, config: WorkerConfig
) -> JobState:
    """Give a job back after an error: QUEUED again after a wait, or FAILED. Raises LeaseLost."""
    with database.session() as session:
        row = _owned(session, job.id, job.attempt)
        row.failures += 1
        again = retryable and row.failures < config.max_attempts
        row.state = JobState.QUEUED if again else JobState.FAILED
        row.not_before = now() + timedelta(seconds=backoff_s(row.failures, config)) if again else None
        row.published_at = None
        row.finished_at = None if again else now()
        row.lease_until = None
        row.error_code = code
        row.error_text = text[:1024]
        kind = "job will be tried again" if again else "job failed"
        record(session, kind, study_id=row.study_id, job_id=row.id, attempt=row.attempt, code=code)
        return row.state


def _owned(session: Session, job_id: int, attempt: int) -> Job:
    """The job's row, locked, if this attempt still runs it. Raises LeaseLost."""
    row = session.scalar(
        sa.select(Job)
        .where(Job.id == job_id, Job.attempt == attempt, Job.state == JobState.RUNNING)
        .with_for_update(key_share=True)
    )
    if row is None:
        raise LeaseLost(job_id, attempt)
    return row


def requeue_expired(database: Database, config: WorkerConfig) -> list[int]:
    """Queue jobs whose worker is silent; quarantine those that ended too many workers. Returns the ids."""
    with database.session() as session:
        expired = session.scalars(
            sa.select(Job)
            .where(Job.state == JobState.RUNNING, Job.lease_until < now())
            .with_for_update(skip_locked=True, key_share=True)
        ).all()
        for job in expired:
            job.worker_deaths += 1
            job.lease_until = None
            job.published_at = None
            poison = job.worker_deaths >= config.max_worker_deaths
            job.state = JobState.QUARANTINED if poison else JobState.QUEUED
            job.error_code = "POISON_STUDY" if poison else "WORKER_LOST"
            job.error_text = (
                f"{job.worker_deaths} workers died on this study; look at it, then `dicom-node retry {job.id}`"
                if poison
                else f"the worker of attempt {job.attempt} died or was cut off"
            )
            job.finished_at = now() if poison else None
            job.not_before = None
            kind = "job quarantined" if poison else "worker lost, job queued again"
            record(session, kind, study_id=job.study_id, job_id=job.id, attempt=job.attempt, worker=job.worker)
        return [job.id for job in expired]


def release_worker(database: Database, worker: str) -> int:
    """End the leases of a worker that is known to have died, so that nobody waits for them. Returns how many.

    The sweep queues its jobs again and counts the death.
    """
    with database.session() as session:
        return _changed(
            session,
            sa.update(Job)
            .where(Job.worker == worker, Job.state == JobState.RUNNING)
            .values(lease_until=now() - timedelta(seconds=1)),
        )


def hand_back(database: Database, worker: str) -> int:
    """Queue the jobs of a worker that an administrator stopped: no death is counted. Returns how many."""
    with database.session() as session:
        stopped = session.scalars(
            sa.select(Job).where(Job.worker == worker, Job.state == JobState.RUNNING).with_for_update(key_share=True)
        ).all()
        for job in stopped:
            job.state = JobState.QUEUED
            job.lease_until = None
            job.published_at = None
            record(session, "worker stopped, job queued again", study_id=job.study_id, job_id=job.id, worker=worker)
        return len(stopped)


def _changed(session: Session, statement: sa.Update) -> int:
    """How many rows an UPDATE changed."""
    return cast("sa.CursorResult[Any]", session.execute(statement)).rowcount


def due_for_publishing(session: Session, *, sent_before: datetime | None) -> list[int]:
    """Ids of queued jobs whose time has come, oldest first: never published, or (with a time) published before it."""
    published = Job.published_at.is_(None) if sent_before is None else Job.published_at < sent_before
    return list(
        session.scalars(
            sa.select(Job.id)
            .where(Job.state == JobState.QUEUED, sa.or_(Job.not_before.is_(None), Job.not_before <= now()), published)
            .order_by(Job.queued_at)
        )
    )


def mark_published(database: Database, job_ids: Iterable[int]) -> None:
    """Remember that a message was sent for each of these jobs."""
    ids = list(job_ids)
    if ids:
        with database.session() as session:
            session.execute(sa.update(Job).where(Job.id.in_(ids)).values(published_at=now()))


def cancel(database: Database, job_id: int, *, why: str) -> None:
    """Cancel a queued or running job; its worker finds out at its next write. Raises NotFound or NotPossible."""
    with database.session() as session:
        job = _for_administrator(session, job_id)
        if job.state not in OPEN_JOB_STATES:
            raise NotPossible(f"job {job_id} is {job.state.value}; only a queued or running job can be cancelled")
        cancel_row(session, job, why=why)


def _for_administrator(session: Session, job_id: int) -> Job:
    """The job's row, locked. Raises NotFound."""
    job = session.get(Job, job_id, with_for_update={"key_share": True})
    if job is None:
        raise NotFound(f"there is no job {job_id}; see `dicom-node jobs`")
    return job


def cancel_row(session: Session, job: Job, *, why: str) -> None:
    """Cancel within the transaction at hand."""
    job.state = JobState.CANCELLED
    job.error_code = "CANCELLED"
    job.error_text = why
    job.finished_at = now()
    job.lease_until = None
    record(session, "job cancelled", study_id=job.study_id, job_id=job.id, why=why)


def retry(database: Database, job_id: int) -> str:
    """Run an ended job again, with fresh counts of failures and worker deaths. Returns what will happen.

    A study in which no series was eligible is looked at again with the present rules instead: its job has nothing to
    run. Raises NotFound or NotPossible.
    """
    with database.session() as session:
        job = _for_administrator(session, job_id)
        if job.state not in job_states_before(JobState.QUEUED) or job.state is JobState.RUNNING:
            raise NotPossible(
                f"job {job_id} is {job.state.value}; only an ended job without a finding can be tried again"
            )
        newest = session.scalar(sa.select(sa.func.max(Job.generation)).where(Job.study_id == job.study_id))
        if job.generation != newest:
            raise NotPossible(f"job {job_id} was replaced by generation {newest} of its study; retry that one")
        _check_images(session, job)
        if job.state is JobState.REJECTED and job.series_instance_uid is None:
            job.study.state = StudyState.RECEIVING
            record(session, "study reopened by hand", study_id=job.study_id, job_id=job.id)
            return "its study is looked at again with the present rules"
        if job.series_instance_uid is not None:
            # What an earlier run found wrong with the series is for this run to say; "no series" stands.
            job.rejection_code = job.rejection_text = None
        job.state = JobState.QUEUED
        job.failures = 0
        job.worker_deaths = 0
        job.not_before = None
        job.published_at = None
        job.finished_at = None
        record(session, "job queued by hand", study_id=job.study_id, job_id=job.id)
        return "it is queued again"


def _check_images(session: Session, job: Job) -> None:
    """Raises NotPossible when retention has taken the images that the job would read."""
    removed_at = job.study.images_removed_at
    if removed_at is None:
        return
    here = set(session.scalars(sa.select(Instance.sop_instance_uid).where(Instance.study_id == job.study_id)))
    if not here or not here.issuperset(job.sop_instance_uids):
        raise NotPossible(
            f"the images of job {job.id} were removed on {removed_at:%Y-%m-%d} ([retention]): send the study again, "
            f"then `dicom-node retry {job.id}`"
        )
