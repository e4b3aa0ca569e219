"""What leaves the node again: images and results of studies that nothing waits for, when config says so.

A study is settled when it is complete, its analysis has ended (one that failed or is quarantined has not: somebody has
to look at it), and every delivery has arrived, confirmed where that is asked for, or was withdrawn. Of settled studies
the images go, unless a peer was told that this node keeps one of them; so do result files that had somewhere to go, and
the picture that a job made beside them (`overlay` in its summary), which holds pixels of the patient too.
Of storage commitment the rows of transactions that are over go; what was promised in them is marked on the instances
and stays. Nothing else is ever removed, however full the disk is.

Rows go first, in one commit that looks again under locks; then the files that no row knows any more
(dicom_node.reconcile), so that an instance that comes again at that moment either keeps its file or is not
acknowledged. The study's own row, its jobs, results, deliveries and history stay: they tell what was found, and that
the same images, sent again, are nothing new.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, aliased

from dicom_node.archive import Archive
from dicom_node.audit import record
from dicom_node.config import Config
from dicom_node.config_sections import RetentionConfig
from dicom_node.db import Database, now
from dicom_node.deliveries import UNCONFIRMED
from dicom_node.errors import ArchiveError
from dicom_node.reconcile import remove_unknown
from dicom_node.states import DeliveryState, JobState, StudyState
from dicom_node.tables import PICTURE, Commitment, Conflict, Delivery, Instance, Job, OwedReport, Result, Study

log = structlog.get_logger()

ROUND_S = 60.0
AT_A_TIME = 200
"""Studies that are looked for, result files that are marked, and transactions that go, in one statement."""
NOT_ENDED = (JobState.QUEUED, JobState.RUNNING, JobState.FAILED, JobState.QUARANTINED)
WITHDRAWN = (DeliveryState.REFUSED, DeliveryState.CANCELLED)

Progress = Callable[["Amount"], None]


@dataclass(frozen=True)
class Amount:
    """How much was, or would be, removed."""

    studies: int = 0
    """Whose images went."""
    instances: int = 0
    results: int = 0
    size_bytes: int = 0
    transactions: int = 0
    """Of storage commitment: asked for, or asked of this node."""
    pictures: int = 0
    """Of jobs."""

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.studies + other.studies,
            self.instances + other.instances,
            self.results + other.results,
            self.size_bytes + other.size_bytes,
            self.transactions + other.transactions,
            self.pictures + other.pictures,
        )


@dataclass(frozen=True)
class Plan:
    """What a purge would do now."""

    removed: Amount
    kept: dict[str, int]
    """Studies that are old enough, by what keeps their images."""


def keep_tidy_until(stop: threading.Event, database: Database, config: Config, archive: Archive) -> None:
    """Remove what may go, once a minute, until `stop` is set; a fault is logged and the next round tries again."""
    while not stop.wait(ROUND_S):
        try:
            removed = purge(database, archive, config.retention) + make_room(database, archive, config)
        except (SQLAlchemyError, ArchiveError) as error:
            log.error("retention could not go on, soon again", error=type(error).__name__)
            continue
        if removed != Amount():
            log.info("retention", **asdict(removed))


def purge(
    database: Database, archive: Archive, retention: RetentionConfig, *, progress: Progress | None = None
) -> Amount:
    """Remove all that is old enough. `progress` is told after each study, and each set of results or transactions.

    Raises SQLAlchemyError, ArchiveError; what was removed by then stays removed.
    """
    removed = Amount()
    tell = progress or (lambda _amount: None)
    if retention.images_days:
        before = now() - timedelta(days=retention.images_days)
        while (some := _remove_old_images(database, archive, before, tell)) != Amount():
            removed += some
    if retention.results_days:
        before = now() - timedelta(days=retention.results_days)
        while (some := _remove_results(database, archive, before)) != Amount():
            removed += some
            tell(some)
        while (some := _remove_pictures(database, archive, before)) != Amount():
            removed += some
            tell(some)
    if retention.transactions_days:
        before = now() - timedelta(days=retention.transactions_days)
        while (some := _remove_transactions(database, before)) != Amount():
            removed += some
            tell(some)
    return removed


def _remove_old_images(database: Database, archive: Archive, before: datetime, tell: Progress) -> Amount:
    """The images of the oldest studies."""
    removed = Amount()
    for study_id in _due(database, before):
        one = _remove_images(database, archive, study_id, before=before, why="retention.images_days")
        removed += one
        tell(one)
    return removed


def make_room(database: Database, archive: Archive, config: Config) -> Amount:
    """While less than `make_room_below_bytes` is free, remove the images of the oldest settled study.

    Late slices are waited for: no study goes before `completion.max_wait_s` has passed since its last image. No more
    goes in one round than what is missing: some file systems (btrfs, ZFS) say seconds later only what has become free.
    Raises SQLAlchemyError, ArchiveError.
    """
    removed = Amount()
    wanted = config.retention.make_room_below_bytes
    missing = wanted - archive.free_bytes()
    while removed.size_bytes < missing and archive.free_bytes() < wanted:
        before = now() - timedelta(seconds=config.completion.max_wait_s)
        some = Amount()
        for study_id in _due(database, before, limit=1):
            some = _remove_images(database, archive, study_id, before=before, why="retention.make_room_below_bytes")
        if some == Amount():
            days = config.completion.max_wait_s / timedelta(days=1).total_seconds()
            see = f"`dicom-node purge --dry-run --images-days {days:.2g}` says what keeps them"
            log.error("no room can be made: no study is settled", see=see, wanted_bytes=wanted)
            break
        removed += some
    return removed


def plan(session: Session, retention: RetentionConfig) -> Plan:
    """What `purge` would remove now, and what it would not."""
    removed, kept = Amount(), dict[str, int]()
    if retention.images_days:
        old = _old(now() - timedelta(days=retention.images_days))
        rows = session.execute(
            sa.select(sa.func.count(Study.id.distinct()), sa.func.count(), sa.func.sum(Instance.size_bytes))
            .select_from(Instance)
            .join(Study)
            .where(*old, *_settled(), ~_promised())
        ).one()
        removed += Amount(studies=rows[0], instances=rows[1], size_bytes=int(rows[2] or 0))
        kept = {
            "being received": _count(session, *old, Study.state != StudyState.COMPLETE),
            "analysis not ended": _count(session, *old, _at_work()),
            "results not arrived": _count(session, *old, _on_its_way()),
            "promised to a sender": _count(session, *old, _promised()),
        }
    if retention.results_days:
        before = now() - timedelta(days=retention.results_days)
        count, size_bytes = session.execute(
            sa.select(sa.func.count(), sa.func.sum(Result.size_bytes))
            .join(Job, Result.job_id == Job.id)
            .join(Study)
            .where(*_files_due(before))
        ).one()
        pictures = sa.select(sa.func.count()).select_from(Job).join(Study).where(*_pictures_due(before))
        removed += Amount(results=count, size_bytes=int(size_bytes or 0), pictures=int(session.scalar(pictures) or 0))
    if retention.transactions_days:
        before = now() - timedelta(days=retention.transactions_days)
        asked = sa.select(sa.func.count()).select_from(Commitment).where(*_asked_and_over(before))
        answered = sa.select(sa.func.count()).select_from(OwedReport).where(*_answered_and_over(before))
        removed += Amount(transactions=int(session.scalar(asked) or 0) + int(session.scalar(answered) or 0))
    return Plan(removed, {why: studies for why, studies in kept.items() if studies})


def _count(session: Session, *conditions: sa.ColumnElement[bool]) -> int:
    return int(session.scalar(sa.select(sa.func.count()).select_from(Study).where(*conditions)) or 0)


def _due(database: Database, before: datetime, *, limit: int = AT_A_TIME) -> Sequence[int]:
    """Ids of the studies whose images may go, the oldest first."""
    with database.reading() as session:
        return session.scalars(
            sa.select(Study.id)
            .where(*_old(before), *_settled(), ~_promised())
            .order_by(Study.last_received_at, Study.id)
            .limit(limit)
        ).all()


def _old(before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Nothing came since, and there is something to remove."""
    has_images = sa.select(Instance.id).where(Instance.study_id == Study.id).correlate(Study).exists()
    return Study.last_received_at < before, has_images


def _settled() -> tuple[sa.ColumnElement[bool], ...]:
    return Study.state == StudyState.COMPLETE, ~_at_work(), ~_on_its_way()


def _at_work() -> sa.Exists:
    """The newest analysis has not ended, or not in a way that needs nobody."""
    return (
        sa.select(Job.id)
        .where(Job.study_id == Study.id, Job.generation == Study.generation, Job.state.in_(NOT_ENDED))
        .correlate(Study)
        .exists()
    )


def _on_its_way() -> sa.Exists:
    """A result has yet to arrive somewhere, or to be confirmed there."""
    done = sa.or_(
        Delivery.state == DeliveryState.COMMITTED,
        Delivery.state.in_(WITHDRAWN),
        sa.and_(Delivery.state == DeliveryState.SENT, Delivery.confirm_at.is_(None)),
    )
    of_study = sa.select(Delivery.id).join(Result, Delivery.result_id == Result.id).join(Job, Result.job_id == Job.id)
    return of_study.where(Job.study_id == Study.id, ~done).correlate(Study).exists()


def _promised() -> sa.Exists:
    """A peer was told that this node keeps one of its instances."""
    of_study = sa.select(Instance.id).where(Instance.study_id == Study.id, Instance.promised_at.is_not(None))
    return of_study.correlate(Study).exists()


def _remove_images(database: Database, archive: Archive, study_id: int, *, before: datetime, why: str) -> Amount:
    """The instances of one study: rows, then files. Nothing when it is no longer as it was."""
    with database.session() as session:
        if not _lock(session, study_id, before):
            return Amount()
        gone = session.execute(
            sa.delete(Instance)
            .where(Instance.study_id == study_id)
            .returning(Instance.sop_instance_uid, Instance.path, Instance.size_bytes)
        ).all()
        paths = [row.path for row in gone]
        paths += _remove_conflicts(session, [row.sop_instance_uid for row in gone])
        amount = Amount(studies=1, instances=len(gone), size_bytes=sum(row.size_bytes for row in gone))
        session.execute(sa.update(Study).where(Study.id == study_id).values(images_removed_at=now()))
        record(
            session, "images removed", study_id=study_id, instances=len(gone), bytes=amount.size_bytes, because_of=why
        )
    for start in range(0, len(paths), AT_A_TIME):
        remove_unknown(database.engine, archive, paths[start : start + AT_A_TIME])
    return amount


def _lock(session: Session, study_id: int, before: datetime) -> bool:
    """Lock the study with its jobs and instances, in this order; whether its images may still go."""
    locked = sa.select(Study.id).where(Study.id == study_id).with_for_update(skip_locked=True, key_share=True)
    if session.scalar(locked) is None:
        return False
    # A retry waits here and then finds no images; a promise waits and is then not given.
    session.execute(sa.select(Job.id).where(Job.study_id == study_id).with_for_update(key_share=True))
    session.execute(sa.select(Instance.id).where(Instance.study_id == study_id).with_for_update())
    still = sa.select(Study.id).where(Study.id == study_id, *_old(before), *_settled(), ~_promised())
    return session.scalar(still) is not None


def _remove_conflicts(session: Session, sop_instance_uids: Sequence[str]) -> list[str]:
    """Rows of what was kept aside under the same UIDs. Returns the paths."""
    paths: list[str] = []
    for start in range(0, len(sop_instance_uids), AT_A_TIME):
        uids = sop_instance_uids[start : start + AT_A_TIME]
        paths += session.scalars(
            sa.delete(Conflict).where(Conflict.sop_instance_uid.in_(uids)).returning(Conflict.path)
        ).all()
    return paths


def _files_due(before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Of results, joined with job and study: those that had somewhere to go, and went."""
    had_a_destination = sa.select(Delivery.id).where(Delivery.result_id == Result.id).correlate(Result).exists()
    return Result.file_removed_at.is_(None), Result.created_at < before, had_a_destination, *_settled()


def _remove_results(database: Database, archive: Archive, before: datetime) -> Amount:
    """Some result files that are old enough; their rows stay."""
    due = sa.select(Result.id).join(Job, Result.job_id == Job.id).join(Study).where(*_files_due(before))
    ids = _some(database, due.order_by(Result.id))
    if not ids:
        return Amount()
    with database.session() as session:
        rows = session.execute(
            sa.select(Result.id, Result.path, Result.size_bytes, Job.study_id)
            .join(Job, Result.job_id == Job.id)
            .join(Study)
            .where(Result.id.in_(ids), *_files_due(before))
            .order_by(Result.id)
            .with_for_update(skip_locked=True, of=(Result, Job))
        ).all()
        if not rows:
            return Amount()
        session.execute(sa.update(Result).where(Result.id.in_([row.id for row in rows])).values(file_removed_at=now()))
        for study_id in sorted({row.study_id for row in rows}):
            files = sum(row.study_id == study_id for row in rows)
            record(session, "result files removed", study_id=study_id, files=files, because_of="retention.results_days")
    remove_unknown(database.engine, archive, [row.path for row in rows])
    return Amount(results=len(rows), size_bytes=sum(row.size_bytes for row in rows))


def _some(database: Database, due: sa.Select[int]) -> Sequence[int]:
    """Some ids of what may go.

    To find it takes long, so it is done before the transaction that writes, for which listeners wait on SQLite. That
    one looks again at these.
    """
    with database.reading() as session:
        return session.scalars(due.limit(AT_A_TIME)).all()


def _pictures_due(before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Of jobs, joined with their study: those with a picture, whose results had somewhere to go, and went."""
    of_study = aliased(Job)
    had_a_destination = (
        sa.select(Delivery.id)
        .join(Result, Delivery.result_id == Result.id)
        .join(of_study, Result.job_id == of_study.id)
        .where(of_study.study_id == Study.id)
        .correlate(Study)
        .exists()
    )
    has_one = Job.summary[PICTURE].as_string().is_not(None)
    return has_one, Job.finished_at < before, had_a_destination, *_settled()


def _remove_pictures(database: Database, archive: Archive, before: datetime) -> Amount:
    """Some pictures that are old enough: files first, as nothing but the job's summary knows them."""
    ids = _some(database, sa.select(Job.id).join(Study).where(*_pictures_due(before)).order_by(Job.id))
    if not ids:
        return Amount()
    with database.session() as session:
        jobs = session.scalars(
            sa.select(Job)
            .join(Study)
            .where(Job.id.in_(ids), *_pictures_due(before))
            .order_by(Job.id)
            .with_for_update(skip_locked=True, of=Job, key_share=True)
        ).all()
        for job in jobs:
            archive.remove(job.summary[PICTURE])
            job.summary = {key: value for key, value in job.summary.items() if key != PICTURE}
        return Amount(pictures=len(jobs))


def _asked_and_over(before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Of transactions that this node asked for: no result waits for its report any more."""
    waiting = sa.select(Delivery.id).where(Delivery.commitment_id == Commitment.id, *UNCONFIRMED)
    return Commitment.asked_at < before, ~waiting.correlate(Commitment).exists()


def _answered_and_over(before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Of transactions that a peer asked for: it has its report, or cannot be reached. (NULL is not before.)"""
    return (sa.or_(OwedReport.reported_at < before, OwedReport.given_up_at < before),)


def _remove_transactions(database: Database, before: datetime) -> Amount:
    """Some transactions that are over. Should one of their peers report once more, it is told that it is not known."""
    asked = _some(database, sa.select(Commitment.id).where(*_asked_and_over(before)))
    answered = _some(database, sa.select(OwedReport.id).where(*_answered_and_over(before)))
    if not asked and not answered:
        return Amount()
    with database.session() as session:
        asked = session.scalars(
            sa.select(Commitment.id)
            .where(Commitment.id.in_(asked), *_asked_and_over(before))
            .with_for_update(skip_locked=True)
        ).all()
        session.execute(sa.update(Delivery).where(Delivery.commitment_id.in_(asked)).values(commitment_id=None))
        session.execute(sa.delete(Commitment).where(Commitment.id.in_(asked)))
        answered = session.scalars(
            sa.select(OwedReport.id)
            .where(OwedReport.id.in_(answered), *_answered_and_over(before))
            .with_for_update(skip_locked=True)
        ).all()
        session.execute(sa.delete(OwedReport).where(OwedReport.id.in_(answered)))
        if asked or answered:
            record(
                session,
                "commitment transactions removed",
                asked=len(asked),
                answered=len(answered),
                because_of="retention.transactions_days",
            )
    return Amount(transactions=len(asked) + len(answered))
