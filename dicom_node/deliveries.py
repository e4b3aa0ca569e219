"""The outbox: which results go where, and how each delivery stands. A PACS that is down costs no inference."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.audit import record
from dicom_node.config import Config, DeliveryConfig, RouteConfig
from dicom_node.db import Database, now
from dicom_node.states import ARRIVED, DeliveryState
from dicom_node.tables import Delivery, Job, Result


@dataclass(frozen=True)
class DueDelivery:
    """A claimed delivery: one file for one destination."""

    id: int
    attempts: int
    path: str
    """Relative to the archive."""
    sop_class_uid: str
    sop_instance_uid: str


def route(session: Session, job: Job, results: Sequence[Result], *, finding: str, config: Config) -> None:
    """Add an outbox row for every result and destination that the rules name; once per pair, ever."""
    for result in results:
        for destination in destinations_for(
            config.delivery,
            calling_ae_title=job.study.calling_ae_title,
            finding=finding,
            kind=result.kind.value,
            series_description=str(job.summary.get("series_description") or ""),
        ):
            existing = session.scalar(
                sa.select(Delivery).where(Delivery.result_id == result.id, Delivery.destination == destination)
            )
            if existing is None:
                session.add(Delivery(result_id=result.id, destination=destination, created_at=now()))
            elif existing.state is DeliveryState.CANCELLED:
                _start_again(existing)


def destinations_for(
    delivery: DeliveryConfig, *, calling_ae_title: str, finding: str, kind: str, series_description: str
) -> tuple[str, ...]:
    """Names of the destinations of one result, in config order. Without any route, every destination gets all."""
    if not delivery.route:
        return tuple(destination.name for destination in delivery.destination)
    named = {
        name
        for rule in delivery.route
        if _applies(
            rule, calling_ae_title=calling_ae_title, finding=finding, kind=kind, series_description=series_description
        )
        for name in rule.destinations
    }
    return tuple(destination.name for destination in delivery.destination if destination.name in named)


def _applies(rule: RouteConfig, *, calling_ae_title: str, finding: str, kind: str, series_description: str) -> bool:
    return (
        (not rule.calling_ae_titles or calling_ae_title in rule.calling_ae_titles)
        and (not rule.findings or finding in rule.findings)
        and (not rule.kinds or kind in rule.kinds)
        and (
            not rule.series_description
            or re.search(rule.series_description, series_description, re.IGNORECASE) is not None
        )
    )


def supersede_older(session: Session, job: Job, *, keep: Sequence[Result]) -> None:
    """Mark every other result of the study as replaced and stop those still unsent.

    Others are those of older generations, and those that an earlier run of this job made when it ended otherwise.
    """
    older = session.scalars(
        sa.select(Result)
        .join(Job, Result.job_id == Job.id)
        .where(
            Job.study_id == job.study_id,
            Result.superseded_at.is_(None),
            Result.id.not_in([result.id for result in keep]),
        )
    ).all()
    for result in older:
        result.superseded_at = now()
        record(session, "result superseded", study_id=job.study_id, job_id=job.id, result=result.sop_instance_uid)
    session.execute(
        sa.update(Delivery)
        .where(
            Delivery.result_id.in_([result.id for result in older]),
            Delivery.state.in_((DeliveryState.PENDING, DeliveryState.DEAD)),
        )
        .values(state=DeliveryState.CANCELLED, last_error="replaced by a later result before it was sent")
    )


def claim_due(database: Database, destination: str, *, lease_s: float, limit: int = 64) -> list[DueDelivery]:
    """Lease the pending deliveries of a destination whose time has come, oldest results first."""
    with database.session() as session:
        rows = session.execute(
            sa.select(Delivery, Result)
            .join(Result, Delivery.result_id == Result.id)
            .where(
                Delivery.destination == destination,
                Delivery.state == DeliveryState.PENDING,
                sa.or_(Delivery.not_before.is_(None), Delivery.not_before <= now()),
                sa.or_(Delivery.lease_until.is_(None), Delivery.lease_until < now()),
            )
            .order_by(Delivery.id)
            .limit(limit)
            .with_for_update(skip_locked=True, of=Delivery)
        ).all()
        for delivery, _ in rows:
            delivery.lease_until = now() + timedelta(seconds=lease_s)
            delivery.attempts += 1
        return [DueDelivery(d.id, d.attempts, r.path, r.sop_class_uid, r.sop_instance_uid) for d, r in rows]


def any_due(session: Session) -> set[str]:
    """The destinations that have something to be sent now."""
    return set(
        session.scalars(
            sa.select(Delivery.destination)
            .where(
                Delivery.state == DeliveryState.PENDING,
                sa.or_(Delivery.not_before.is_(None), Delivery.not_before <= now()),
                sa.or_(Delivery.lease_until.is_(None), Delivery.lease_until < now()),
            )
            .distinct()
        )
    )


def sent(database: Database, due: DueDelivery, *, status: int, confirm: bool = False) -> None:
    """The destination has it, whatever else was decided about this delivery in the meantime.

    With `confirm` that is not yet the end: the confirmer makes sure that it stays there.
    """
    with database.session() as session:
        delivery = _locked(session, due.id)
        if delivery.state in ARRIVED:
            return
        delivery.state = DeliveryState.SENT
        delivery.sent_at = now()
        delivery.confirm_at = now() if confirm else None
        delivery.confirm_attempts = 0
        delivery.lease_until = None
        delivery.last_status = f"0x{status:04X}"
        delivery.last_error = None
        note(session, delivery, "result delivered")


def not_sent(
    database: Database, due: DueDelivery, *, error: str, status: int | None, retryable: bool, config: DeliveryConfig
) -> None:
    """Plan the next try, or put the delivery into the dead letter: refused for good, or too old."""
    with database.session() as session:
        delivery = _locked(session, due.id)
        if delivery.state is not DeliveryState.PENDING or delivery.attempts != due.attempts:
            return
        too_old = (now() - delivery.created_at).total_seconds() > config.give_up_after_s
        delivery.lease_until = None
        delivery.last_status = f"0x{status:04X}" if status is not None else None
        delivery.last_error = error[:512]
        if retryable and not too_old:
            delivery.not_before = now() + timedelta(seconds=wait_s(delivery.attempts, config))
            return
        delivery.state = DeliveryState.DEAD
        note(session, delivery, "delivery given up", error=error[:512])


def _locked(session: Session, delivery_id: int) -> Delivery:
    """The delivery's row, locked until the end of the transaction."""
    return session.get_one(Delivery, delivery_id, with_for_update=True)


def note(session: Session, delivery: Delivery, kind: str, **detail: str) -> None:
    """An audit event of the delivery's study and job."""
    job = delivery.result.job
    record(
        session,
        kind,
        study_id=job.study_id,
        job_id=job.id,
        delivery=delivery.id,
        result=delivery.result.sop_instance_uid,
        destination=delivery.destination,
        **detail,
    )


def wait_s(attempts: int, config: DeliveryConfig) -> float:
    """Seconds until try number `attempts` + 1: doubling, capped, with jitter of half to whole."""
    longest = min(config.retry_longest_s, config.retry_first_s * 2.0 ** min(attempts - 1, 30))
    return longest * random.uniform(0.5, 1.0)


def restart(database: Database, *, delivery_id: int | None = None, destination: str | None = None) -> int:
    """Try dead deliveries again, and waiting ones at once: one, those of a destination, or all. Returns how many."""
    with database.session() as session:
        wanted = sa.select(Delivery).where(Delivery.state.in_((DeliveryState.DEAD, DeliveryState.PENDING)))
        if delivery_id is not None:
            wanted = wanted.where(Delivery.id == delivery_id)
        if destination is not None:
            wanted = wanted.where(Delivery.destination == destination)
        rows = session.scalars(wanted.with_for_update()).all()
        for delivery in rows:
            _start_again(delivery)
            note(session, delivery, "delivery restarted")
        return len(rows)


def _start_again(delivery: Delivery) -> None:
    """To be sent now; one that had ended gets its whole time again."""
    if delivery.state is not DeliveryState.PENDING:
        delivery.created_at = now()
        delivery.attempts = 0
        delivery.confirm_rounds = 0
        delivery.lease_until = None
        delivery.last_error = None
    delivery.state = DeliveryState.PENDING
    delivery.not_before = None
