"""Storage commitment as SCU, in rows: what a destination was asked to keep, and what came of it.

A delivery that is SENT and has `confirm_at` waits for its destination's word. The word is a report (for a transaction
whose row was there before the request went out) or, failing that, a C-FIND that shows the result. Whatever happens to
the processes in between, the rows say what is to be done next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node import deliveries
from dicom_node.audit import record
from dicom_node.backoff import backoff_s
from dicom_node.commitment_messages import FailureReason, Report
from dicom_node.config import Config
from dicom_node.db import Database, now
from dicom_node.states import DeliveryState
from dicom_node.tables import Commitment, Delivery, Job, Result, Study

BY_REPORT, BY_READ_BACK = "report", "read back"
JOB_DONE_LOCK = 0x1C4_0D0
"""First key of the PostgreSQL advisory lock under which a job is found to be done; the second is the job's id."""


@dataclass(frozen=True)
class Unconfirmed:
    """A claimed delivery that was sent and is not yet confirmed, with what C-FIND asks for."""

    delivery_id: int
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    was_asked: bool
    """A report was asked for and did not come in time."""


class Known(Enum):
    """What a report was about."""

    OPEN = auto()
    """It said something new."""
    SETTLED = auto()
    """A transaction of ours of which everything was known: the peer reports again."""
    UNKNOWN = auto()
    """No transaction of this node."""


class _Consequence(Enum):
    """What follows when a destination does not commit to a result."""

    SEND_AGAIN = auto()
    ASK_AGAIN = auto()
    GIVE_UP = auto()


_CONSEQUENCES = {
    FailureReason.PROCESSING_FAILURE: (_Consequence.SEND_AGAIN, "the destination could not process it"),
    FailureReason.NO_SUCH_OBJECT_INSTANCE: (_Consequence.SEND_AGAIN, "the destination does not have it"),
    FailureReason.RESOURCE_LIMITATION: (_Consequence.SEND_AGAIN, "the destination has no room for it"),
    FailureReason.DUPLICATE_TRANSACTION_UID: (_Consequence.ASK_AGAIN, "the transaction UID was in use there"),
    FailureReason.CLASS_INSTANCE_CONFLICT: (
        _Consequence.GIVE_UP,
        "the destination has an object of another class under this UID; look at it there",
    ),
    FailureReason.SOP_CLASS_NOT_SUPPORTED: (
        _Consequence.GIVE_UP,
        "the destination commits to no object of this class; `read_back` in place of `commitment` asks it by C-FIND",
    ),
}
"""By Failure Reason (PS3.3 C.14.1.1). One that is not listed is treated as a processing failure: time may heal it."""


def claim_due(database: Database, destination: str, *, lease_s: float, limit: int = 256) -> list[Unconfirmed]:
    """Lease the sent deliveries of a destination whose confirmation has its next step now, or in a moment."""
    soon = now() + timedelta(seconds=deliveries.TOGETHER_S)
    with database.session() as session:
        rows = session.execute(
            sa.select(Delivery, Result, Study.study_instance_uid)
            .join(Result, Delivery.result_id == Result.id)
            .join(Job, Result.job_id == Job.id)
            .join(Study, Job.study_id == Study.id)
            .where(Delivery.destination == destination, *_due(soon))
            .order_by(Delivery.id)
            .limit(limit)
            .with_for_update(skip_locked=True, of=Delivery)
        ).all()
        for delivery, _, _ in rows:
            delivery.lease_until = now() + timedelta(seconds=lease_s)
            delivery.confirm_attempts += 1
        return [
            Unconfirmed(
                delivery_id=delivery.id,
                study_instance_uid=study_uid,
                series_instance_uid=result.series_instance_uid,
                sop_class_uid=result.sop_class_uid,
                sop_instance_uid=result.sop_instance_uid,
                was_asked=delivery.commitment_id is not None,
            )
            for delivery, result, study_uid in rows
        ]


def any_due(session: Session) -> set[str]:
    """The destinations of which something is to be made sure now."""
    return set(session.scalars(sa.select(Delivery.destination).where(*_due(now())).distinct()))


def _due(by: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        Delivery.state == DeliveryState.SENT,
        Delivery.confirm_at <= by,
        sa.or_(Delivery.lease_until.is_(None), Delivery.lease_until < now()),
    )


def begin(
    database: Database, destination: str, items: Sequence[Unconfirmed], *, transaction_uid: str, timeout_s: float
) -> None:
    """Remember a transaction before it is asked for; its deliveries wait for a report until the time-out."""
    with database.session() as session:
        commitment = Commitment(
            transaction_uid=transaction_uid,
            destination=destination,
            sop_instance_uids=sorted(item.sop_instance_uid for item in items),
            asked_at=now(),
        )
        session.add(commitment)
        session.flush()
        for delivery in _waiting(session, items):
            delivery.commitment_id = commitment.id
            delivery.confirm_at = now() + timedelta(seconds=timeout_s)
            delivery.lease_until = None


def not_asked(
    database: Database, transaction_uid: str, items: Sequence[Unconfirmed], *, error: str, config: Config
) -> None:
    """The request did not get through: ask again later, for `delivery.give_up_after_s` since the result was sent.

    Should a report come all the same, it counts.
    """
    with database.session() as session:
        commitment = session.scalar(sa.select(Commitment).where(Commitment.transaction_uid == transaction_uid))
        if commitment is not None:
            commitment.last_error = error[:512]
        for delivery in _waiting(session, items):
            delivery.commitment_id = None
            _postpone(session, delivery, error=error, config=config)


def postpone(database: Database, items: Sequence[Unconfirmed], *, error: str, config: Config) -> None:
    """Nothing could be found out now: look again later, for `delivery.give_up_after_s` since it was sent."""
    with database.session() as session:
        for delivery in _waiting(session, items):
            _postpone(session, delivery, error=error, config=config)


def read_back(database: Database, items: Sequence[Unconfirmed], found: set[str], *, config: Config) -> tuple[int, int]:
    """What C-FIND showed: found ones are COMMITTED; others are sent again once the time-out is over.

    How many were found, how many not.
    """
    with database.session() as session:
        waiting = _waiting(session, items)
        for delivery in waiting:
            error = "not found at the destination (C-FIND)"
            if delivery.result.sop_instance_uid in found:
                _confirm(session, delivery, by=BY_READ_BACK)
            elif _since_sent_s(delivery) < config.confirmation.report_timeout_s:
                _step_later(delivery, error=error, config=config)
            else:
                _send_again(session, delivery, error=error, config=config)
        shown = sum(delivery.state is DeliveryState.COMMITTED for delivery in waiting)
        return shown, len(waiting) - shown


def send_again(database: Database, items: Sequence[Unconfirmed], *, error: str, config: Config) -> None:
    """No report, and no C-FIND to be had: all that is left is to send and to ask again."""
    with database.session() as session:
        for delivery in _waiting(session, items):
            _send_again(session, delivery, error=error, config=config)


def let_be(database: Database, items: Sequence[Unconfirmed]) -> None:
    """Config asks for no confirmation any more: SENT is the end."""
    with database.session() as session:
        for delivery in _waiting(session, items):
            delivery.confirm_at = delivery.lease_until = None
            deliveries.note(session, delivery, "confirmation no longer wanted")


def report(database: Database, told: Report, *, config: Config) -> Known:
    """Take in a destination's report. What it says of instances that it was not asked for is not believed.

    Success counts whenever it comes; failure only while this transaction is the one that is waited for: a later one
    may have been asked since the result was sent again.
    """
    with database.session() as session:
        commitment = session.scalar(
            sa.select(Commitment).where(Commitment.transaction_uid == told.transaction_uid).with_for_update()
        )
        if commitment is None:
            return Known.UNKNOWN
        by_uid = {d.result.sop_instance_uid: d for d in _deliveries_of(session, commitment)}
        kept = {reference.sop_instance_uid for reference in told.committed} & by_uid.keys()
        lost = {r.sop_instance_uid: reason for r, reason in told.failed if r.sop_instance_uid in by_uid.keys() - kept}
        news = [_confirm(session, by_uid[uid], by=BY_REPORT) for uid in sorted(kept)]
        news += [_refuse(session, by_uid[uid], commitment, lost[uid], config=config) for uid in sorted(lost)]
        if commitment.reported_at is None:
            commitment.reported_at = now()
            commitment.committed_count, commitment.failed_count = len(kept), len(lost)
            return Known.OPEN
        return Known.OPEN if any(news) else Known.SETTLED


def _deliveries_of(session: Session, commitment: Commitment) -> Sequence[Delivery]:
    """All deliveries that a transaction was about, locked, whatever became of them since."""
    return session.scalars(
        sa.select(Delivery)
        .join(Result, Delivery.result_id == Result.id)
        .where(
            Delivery.destination == commitment.destination, Result.sop_instance_uid.in_(commitment.sop_instance_uids)
        )
        .order_by(Delivery.id)
        .with_for_update(of=Delivery)
    ).all()


def _waiting(session: Session, items: Sequence[Unconfirmed]) -> Sequence[Delivery]:
    """Of these deliveries, locked, those that still wait: a report may have come meanwhile."""
    return session.scalars(
        sa.select(Delivery)
        .where(Delivery.id.in_([item.delivery_id for item in items]), *deliveries.UNCONFIRMED)
        .order_by(Delivery.id)
        .with_for_update()
    ).all()


def _confirm(session: Session, delivery: Delivery, *, by: str) -> bool:
    """The destination keeps it, whatever else was decided meanwhile. Whether that was news."""
    if delivery.state is DeliveryState.COMMITTED:
        return False
    delivery.state = DeliveryState.COMMITTED
    delivery.committed_at = now()
    delivery.committed_by = by
    delivery.sent_at = delivery.sent_at or now()
    delivery.confirm_at = delivery.lease_until = delivery.not_before = None
    delivery.last_error = None
    deliveries.note(session, delivery, "result committed", by=by)
    _note_done(session, delivery)
    return True


def _refuse(session: Session, delivery: Delivery, commitment: Commitment, reason: int, *, config: Config) -> bool:
    """The destination does not keep it. Whether that was news."""
    if delivery.state is not DeliveryState.SENT or delivery.commitment_id != commitment.id:
        return False
    reasons = {int(known): consequence for known, consequence in _CONSEQUENCES.items()}
    consequence, why = reasons.get(reason, reasons[FailureReason.PROCESSING_FAILURE])
    error = f"commitment failed with 0x{reason:04X}: {why}"
    delivery.last_status = f"0x{reason:04X}"
    if consequence is _Consequence.GIVE_UP:
        _give_up(session, delivery, error)
    elif consequence is _Consequence.SEND_AGAIN:
        _send_again(session, delivery, error=error, config=config)
    else:
        _next_round(session, delivery, error=error, config=config)
    return True


def _send_again(session: Session, delivery: Delivery, *, error: str, config: Config) -> None:
    """Back into the outbox with its whole time; not for ever, and not a result that a later one has replaced."""
    if not _next_round(session, delivery, error=error, config=config):
        return
    if delivery.result.superseded_at is not None:
        delivery.state = DeliveryState.CANCELLED
        deliveries.note(session, delivery, "lost at the destination, and replaced by a later result", error=error[:512])
    else:
        delivery.state = DeliveryState.PENDING
        delivery.created_at = now()
        delivery.attempts = 0
        delivery.not_before, delivery.confirm_at = delivery.confirm_at, None
        deliveries.note(session, delivery, "result will be sent again", error=error[:512])


def _next_round(session: Session, delivery: Delivery, *, error: str, config: Config) -> bool:
    """Begin anew after a wait, if there is a round left; else the delivery is dead."""
    if delivery.confirm_rounds >= config.confirmation.max_rounds:
        _give_up(session, delivery, f"{error}; given up after {delivery.confirm_rounds} further rounds")
        return False
    delivery.confirm_rounds += 1
    delivery.commitment_id = None
    _step_later(delivery, error=error, config=config)
    return True


def _postpone(session: Session, delivery: Delivery, *, error: str, config: Config) -> None:
    if _since_sent_s(delivery) > config.delivery.give_up_after_s:
        _give_up(session, delivery, error)
    else:
        _step_later(delivery, error=error, config=config)


def _since_sent_s(delivery: Delivery) -> float:
    return (now() - (delivery.sent_at or now())).total_seconds()


def _step_later(delivery: Delivery, *, error: str, config: Config) -> None:
    steps = delivery.confirm_rounds + delivery.confirm_attempts
    delivery.confirm_at = now() + timedelta(seconds=backoff_s(steps, config.delivery))
    delivery.lease_until = None
    delivery.last_error = error[:512]


def _give_up(session: Session, delivery: Delivery, error: str) -> None:
    """Dead, until `dicom-node deliver`; a result that a later one has replaced must not be sent by that after it."""
    replaced = delivery.result.superseded_at is not None
    delivery.state = DeliveryState.CANCELLED if replaced else DeliveryState.DEAD
    delivery.confirm_at = delivery.lease_until = None
    delivery.last_error = error[:512]
    deliveries.note(session, delivery, "delivery given up", error=error[:512])


def _note_done(session: Session, delivery: Delivery) -> None:
    """A job is done when all its results are where they should be: the last one says so."""
    job = delivery.result.job
    session.flush()
    if session.get_bind().dialect.name == "postgresql":
        # Two destinations may report at the same moment: the second one must see the first one's commit.
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(JOB_DONE_LOCK, job.id)))
    open_ones = (
        sa.select(sa.func.count())
        .select_from(Delivery)
        .join(Result, Delivery.result_id == Result.id)
        .where(
            Result.job_id == job.id,
            Result.superseded_at.is_(None),
            sa.or_(
                Delivery.state.in_((DeliveryState.PENDING, DeliveryState.DEAD)),
                sa.and_(*deliveries.UNCONFIRMED),
            ),
        )
    )
    if session.scalar(open_ones) == 0:
        record(session, "job done: its results are committed", study_id=job.study_id, job_id=job.id)
