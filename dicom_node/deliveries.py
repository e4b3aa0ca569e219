"""The outbox: which results go where, and how each delivery stands. A PACS that is down costs no inference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.audit import record
from dicom_node.backoff import backoff_s
from dicom_node.config import Config
from dicom_node.config_sections import DeliveryConfig, RouteConfig
from dicom_node.db import Database, now
from dicom_node.fallback import Fallback, close_others, fall_back
from dicom_node.states import ARRIVED, DeliveryState, ResultKind
from dicom_node.tables import Delivery, Instance, Job, Result
from dicom_node.transport import Answer

TOGETHER_S = 1.0
"""So long after it was sent a result is made sure of, together with those that were sent in the meantime."""
UNCONFIRMED = (Delivery.state == DeliveryState.SENT, Delivery.confirm_at.is_not(None))
"""Of deliveries: sent, and the destination's word that it keeps it has not come."""


@dataclass(frozen=True)
class DueDelivery:
    """A claimed delivery: one file for one destination."""

    id: int
    attempts: int
    path: str
    """Relative to the archive."""
    sop_class_uid: str
    sop_instance_uid: str
    form: str


def route(session: Session, job: Job, results: Sequence[Result], *, finding: str, config: Config) -> None:
    """Add outbox rows for every destination that the rules name: of each kind the forms that its profile wants.

    The preferred one is to be sent, the others are spare. A result goes to a destination once, ever.
    """
    made: dict[str, list[Result]] = {}
    for result in results:
        made.setdefault(result.variant, []).append(result)
    segmented = config.segmented(finding)
    series_description = _series_description(session, job)
    for kind in ResultKind:
        for name in destinations_for(
            config.delivery,
            calling_ae_title=job.study.calling_ae_title,
            finding=finding,
            kind=kind.value,
            series_description=series_description,
        ):
            destination = config.destination(name)
            wanted = config.variants(destination.profile, kind, segmented=segmented) if destination else ()
            _put_out(session, [made[one.key] for one in wanted if one.key in made], destination=name)


def _series_description(session: Session, job: Job) -> str:
    """Of the series that was read, as its first image has it; empty when none was, or it has none."""
    first = (
        sa.select(Instance)
        .where(Instance.study_id == job.study_id, Instance.series_instance_uid == job.series_instance_uid)
        .order_by(Instance.sop_instance_uid)
        .limit(1)
    )
    # Not by the database: PostgreSQL takes no JSON apart that holds a NUL, as a malformed UID in it may.
    image = session.scalar(first)
    return str(image.facts.get("series_description") or "") if image else ""


def _put_out(session: Session, ranked: Sequence[Sequence[Result]], *, destination: str) -> None:
    """A row for each object of each form of one kind. Of what arrived before no other form is sent, only its rest."""
    ids = [result.id for form in ranked for result in form]
    rows = sa.select(Delivery).where(Delivery.result_id.in_(ids), Delivery.destination == destination)
    existing = {delivery.result_id: delivery for delivery in session.scalars(rows)}
    there = {result_id for result_id, delivery in existing.items() if delivery.state in ARRIVED}
    for rank, form in enumerate(ranked):
        begun = any(result.id in there for result in form)
        if there and not begun:
            continue
        spare = rank > 0 and not begun
        for result in form:
            delivery = existing.get(result.id)
            if delivery is None:
                state = DeliveryState.SPARE if spare else DeliveryState.PENDING
                session.add(
                    Delivery(result_id=result.id, destination=destination, state=state, rank=rank, created_at=now())
                )
            elif delivery.state is DeliveryState.CANCELLED:
                delivery.rank = rank
                _start_again(delivery, spare=spare)


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
            Delivery.state.not_in(ARRIVED),
        )
        .values(state=DeliveryState.CANCELLED, last_error="replaced by a later result before it was sent")
    )


def claim_due(database: Database, destination: str, *, lease_s: float, limit: int = 64) -> list[DueDelivery]:
    """Lease the pending deliveries of a destination whose time has come, oldest results first."""
    with database.session() as session:
        rows = session.execute(
            sa.select(Delivery, Result)
            .join(Result, Delivery.result_id == Result.id)
            .where(Delivery.destination == destination, *_due())
            .order_by(Delivery.id)
            .limit(limit)
            .with_for_update(skip_locked=True, of=Delivery)
        ).all()
        for delivery, _ in rows:
            delivery.lease_until = now() + timedelta(seconds=lease_s)
            delivery.attempts += 1
        return [DueDelivery(d.id, d.attempts, r.path, r.sop_class_uid, r.sop_instance_uid, r.form) for d, r in rows]


def any_due(session: Session) -> set[str]:
    """The destinations that have something to be sent now."""
    return set(session.scalars(sa.select(Delivery.destination).where(*_due()).distinct()))


def _due() -> tuple[sa.ColumnElement[bool], ...]:
    return (
        Delivery.state == DeliveryState.PENDING,
        sa.or_(Delivery.not_before.is_(None), Delivery.not_before <= now()),
        sa.or_(Delivery.lease_until.is_(None), Delivery.lease_until < now()),
    )


def sent(database: Database, due: DueDelivery, *, status: str, confirm: bool = False) -> None:
    """The destination has it, whatever else was decided about this delivery in the meantime. No other form is sent.

    With `confirm` that is not yet the end: the confirmer makes sure that it stays there.
    """
    with database.session() as session:
        delivery, others = _locked(session, due.id)
        if delivery.state in ARRIVED:
            return
        delivery.state = DeliveryState.SENT
        delivery.sent_at = now()
        delivery.confirm_at = now() + timedelta(seconds=TOGETHER_S) if confirm else None
        delivery.confirm_attempts = 0
        delivery.commitment_id = None
        delivery.lease_until = None
        delivery.last_status = status
        delivery.last_error = None
        close_others(delivery, others)
        note(session, delivery, "result delivered", form=delivery.result.form)


def not_sent(database: Database, due: DueDelivery, answer: Answer, config: DeliveryConfig) -> Fallback | None:
    """Plan the next try; or, refused for good or too old, send the next form or put it into the dead letter."""
    with database.session() as session:
        delivery, others = _locked(session, due.id)
        if delivery.state is not DeliveryState.PENDING or delivery.attempts != due.attempts:
            return None
        too_old = (now() - delivery.created_at).total_seconds() > config.give_up_after_s
        delivery.lease_until = None
        delivery.last_status = answer.status
        delivery.last_error = answer.error[:512]
        if answer.retryable and not too_old:
            pause_s = max(answer.wait_s or 0.0, backoff_s(delivery.attempts, config))
            delivery.not_before = now() + timedelta(seconds=pause_s)
            return None
        fallback = fall_back(delivery, others) if answer.form_refused else None
        if fallback is not None:
            facts = {"form": delivery.result.form, "instead": fallback.form, "error": answer.error[:512]}
            note(session, delivery, "form refused, another goes instead", **facts)
            return fallback
        delivery.state = DeliveryState.DEAD
        note(session, delivery, "delivery given up", form=delivery.result.form, error=answer.error[:512])
        return None


def _locked(session: Session, delivery_id: int) -> tuple[Delivery, list[Delivery]]:
    """A delivery, and all others of its job to the same destination; locked, in one order, until the end."""
    destination, job_id = session.execute(
        sa.select(Delivery.destination, Result.job_id).join(Result).where(Delivery.id == delivery_id)
    ).one()
    rows = session.scalars(
        sa.select(Delivery)
        .join(Result, Delivery.result_id == Result.id)
        .where(Delivery.destination == destination, Result.job_id == job_id)
        .order_by(Delivery.id)
        .with_for_update(of=Delivery)
    ).all()
    (delivery,) = (row for row in rows if row.id == delivery_id)
    return delivery, [row for row in rows if row.id != delivery_id]


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


def _start_again(delivery: Delivery, *, spare: bool = False) -> None:
    """To be sent now (or when it is its turn); one that had ended gets its whole time again."""
    if delivery.state is not DeliveryState.PENDING:
        delivery.created_at = now()
        delivery.attempts = 0
        delivery.confirm_rounds = 0
        delivery.lease_until = None
        delivery.last_error = None
    delivery.state = DeliveryState.SPARE if spare else DeliveryState.PENDING
    delivery.not_before = None
