"""What the rows tell people: the ledger, lists, and everything about one study. Plain data; the CLI prints it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from dicom_node import owed_reports
from dicom_node.db import age_s
from dicom_node.deliveries import UNCONFIRMED
from dicom_node.errors import NotFound
from dicom_node.states import DeliveryState, JobState, StudyState
from dicom_node.tables import Association, AuditEvent, Conflict, Delivery, Instance, Job, Result, Study, Verdict

Row = dict[str, Any]
FORM_NOT_SENT = (DeliveryState.SPARE, DeliveryState.REFUSED, DeliveryState.CANCELLED)
"""Of a current result: another form went to that destination, or goes."""


def ledger(session: Session) -> Row:
    """Where every study, instance and delivery is. `balances` is False when something is unaccounted for."""
    received, studies = _count(session, Study), _studies(session)
    unfinished, forgotten = _unfinished(session), _forgotten(session)
    deliveries = {state.value.lower(): _count(session, Delivery, Delivery.state == state) for state in DeliveryState}
    return {
        "studies": {"received": received, **studies},
        "instances": {
            "held": _count(session, Instance),
            "bytes": int(session.scalar(sa.select(sa.func.sum(Instance.size_bytes))) or 0),
            "kept_aside": _count(session, Conflict),
            "own_results_returned": _count(session, Instance, Instance.is_own_result.is_(True)),
        },
        "results": {
            "current": _count(session, Result, Result.superseded_at.is_(None)),
            "made": _count(session, Result),
        },
        "removed": {
            "images_of_studies": _count(session, Study, Study.images_removed_at.is_not(None)),
            "result_files": _count(session, Result, Result.file_removed_at.is_not(None)),
        },
        "deliveries": deliveries,
        "confirmation": {
            "waiting": _count(session, Delivery, *UNCONFIRMED),
            "longest_wait_s": _longest_wait_s(session),
        },
        "commitments_asked_by_peers": owed_reports.standing(session),
        "open_associations": _count(session, Association, Association.closed_at.is_(None)),
        "oldest_waiting_s": _oldest_waiting_s(session),
        "unfinished_results": unfinished,
        "forgotten_forms": forgotten,
        "balances": received == sum(studies.values()) and unfinished == 0 and forgotten == 0,
    }


def _studies(session: Session) -> dict[str, int]:
    """How many studies are where; each is in one place."""
    newest = _newest_jobs()
    states = sa.select(Job.state, sa.func.count()).join(
        newest, sa.and_(Job.study_id == newest.c.study_id, Job.generation == newest.c.generation)
    )
    settled = states.join(Study, Study.id == Job.study_id).where(Study.state == StudyState.COMPLETE).group_by(Job.state)
    by_state = {state.value: count for state, count in session.execute(settled).all()}
    return {
        "processed": by_state.get(JobState.SUCCEEDED, 0),
        "rejected": by_state.get(JobState.REJECTED, 0),
        "receiving": _count(session, Study, Study.state == StudyState.RECEIVING),
        "queued": by_state.get(JobState.QUEUED, 0),
        "running": by_state.get(JobState.RUNNING, 0),
        "failed": by_state.get(JobState.FAILED, 0),
        "quarantined": by_state.get(JobState.QUARANTINED, 0),
        "cancelled": by_state.get(JobState.CANCELLED, 0),
        "nothing_to_analyse": _count(
            session, Study, Study.state == StudyState.COMPLETE, Study.id.not_in(sa.select(Job.study_id))
        ),
    }


def _newest_jobs() -> sa.Subquery:
    """The newest generation of each study that has a job."""
    return sa.select(Job.study_id, sa.func.max(Job.generation).label("generation")).group_by(Job.study_id).subquery()


def _unfinished(session: Session) -> int:
    """Newest jobs that ended with a finding and results, but have no result row."""
    newest = _newest_jobs()
    ended = (
        sa.select(sa.func.count())
        .select_from(Job)
        .join(newest, sa.and_(Job.study_id == newest.c.study_id, Job.generation == newest.c.generation))
        .where(
            Job.state == JobState.SUCCEEDED,
            Job.id.not_in(sa.select(Result.job_id)),
            # A profile can ask for what a negative exam does not give; rows of older releases do not say how many.
            sa.func.coalesce(Job.summary["results"].as_integer(), 1) > 0,
        )
    )
    return int(session.scalar(ended) or 0)


def _forgotten(session: Session) -> int:
    """Spare forms that nothing will ever send: no delivery of their kind is on its way there, or given up."""
    spare, other = aliased(Delivery), aliased(Delivery)
    of_spare, of_other = aliased(Result), aliased(Result)
    before_it = (
        sa.select(other.id)
        .join(of_other, other.result_id == of_other.id)
        .where(
            other.destination == spare.destination,
            of_other.job_id == of_spare.job_id,
            of_other.kind == of_spare.kind,
            other.state.in_((DeliveryState.PENDING, DeliveryState.DEAD)),
        )
    )
    forgotten = (
        sa.select(sa.func.count())
        .select_from(spare)
        .join(of_spare, spare.result_id == of_spare.id)
        .where(spare.state == DeliveryState.SPARE, ~before_it.exists())
    )
    return int(session.scalar(forgotten) or 0)


def _oldest_waiting_s(session: Session) -> float | None:
    """Age of the oldest queued job, seconds; None when nothing waits."""
    return age_s(session.scalar(sa.select(sa.func.min(Job.queued_at)).where(Job.state == JobState.QUEUED)))


def _longest_wait_s(session: Session) -> float | None:
    """How long the oldest of the unconfirmed deliveries waits, seconds; None when none does."""
    return age_s(session.scalar(sa.select(sa.func.min(Delivery.sent_at)).where(*UNCONFIRMED)))


def _count(session: Session, table: type[Any], *conditions: sa.ColumnElement[bool]) -> int:
    return int(session.scalar(sa.select(sa.func.count()).select_from(table).where(*conditions)) or 0)


def studies(session: Session, *, limit: int) -> list[Row]:
    """The latest studies, newest first."""
    rows = session.scalars(sa.select(Study).order_by(Study.last_received_at.desc(), Study.id.desc()).limit(limit)).all()
    return [_study_row(session, study) for study in rows]


def _study_row(session: Session, study: Study) -> Row:
    job = study.jobs[-1] if study.jobs else None
    return {
        "study_instance_uid": study.study_instance_uid,
        "state": study.state.value,
        "complete_reason": study.complete_reason.value if study.complete_reason else None,
        "generation": study.generation,
        "instances": _count(session, Instance, Instance.study_id == study.id),
        "images_removed_at": _iso(study.images_removed_at),
        "calling_ae_title": study.calling_ae_title,
        "last_received_at": _iso(study.last_received_at),
        "job": job.state.value if job else None,
        "answer": _answer(job),
    }


def _answer(job: Job | None) -> str:
    """A short answer for a list: the finding, or why there is none."""
    if job is None:
        return ""
    if job.state is JobState.SUCCEEDED:
        return str(job.summary.get("line", "done"))
    return job.rejection_code or job.error_code or ""


def show(session: Session, study_instance_uid: str) -> Row:
    """Everything about one study. Raises NotFound."""
    study = session.scalar(sa.select(Study).where(Study.study_instance_uid == study_instance_uid))
    if study is None:
        raise NotFound(f"there is no study {study_instance_uid}; see `dicom-node studies`")
    latest_verdicts = sa.select(Verdict).where(Verdict.study_id == study.id, Verdict.generation == study.generation)
    events = sa.select(AuditEvent).where(AuditEvent.study_id == study.id).order_by(AuditEvent.id)
    return {
        **_study_row(session, study),
        "series": [
            {
                "series_instance_uid": v.series_instance_uid,
                "chosen": v.chosen,
                "eligible": v.eligible,
                "rank": v.rank,
                "reason_code": v.reason_code,
                "reason": v.reason,
            }
            for v in session.scalars(latest_verdicts.order_by(Verdict.id))
        ],
        "jobs": [job_row(job) | {"results": [_result_row(r) for r in job.results]} for job in study.jobs],
        "history": [{"at": _iso(e.at), "event": e.kind, **e.detail} for e in session.scalars(events)],
    }


def jobs(session: Session, *, state: JobState | None, limit: int) -> list[Row]:
    """The latest jobs, newest first, of one state if given."""
    wanted = sa.select(Job).order_by(Job.id.desc()).limit(limit)
    if state:
        wanted = wanted.where(Job.state == state)
    return [job_row(job) for job in session.scalars(wanted)]


def job_row(job: Job) -> Row:
    """One job."""
    return {
        "job": job.id,
        "study_instance_uid": job.study.study_instance_uid,
        "generation": job.generation,
        "state": job.state.value,
        "attempt": job.attempt,
        "worker_deaths": job.worker_deaths,
        "slices": len(job.sop_instance_uids),
        "series_reason": job.series_reason,
        "bundle": job.bundle,
        "queued_at": _iso(job.queued_at),
        "finished_at": _iso(job.finished_at),
        "code": job.rejection_code or job.error_code,
        "text": job.rejection_text or job.error_text,
        "summary": job.summary,
    } | _arrival(job)


def _arrival(job: Job) -> Row:
    """Whether a job's results are where they should be: it is done when every destination has, or keeps, them."""
    everywhere = [d for result in job.results if result.superseded_at is None for d in result.deliveries]
    current = [d for d in everywhere if d.state not in FORM_NOT_SENT]
    waiting = [d for d in current if not _is_final(d)]
    if not current or waiting:
        states = sorted({"unconfirmed" if d.state is DeliveryState.SENT else d.state.value.lower() for d in waiting})
        return {"arrived": ", ".join(states) or None, "done_at": None}
    committed = all(d.state is DeliveryState.COMMITTED for d in current)
    ends = [moment for d in current if (moment := d.committed_at or d.sent_at)]
    return {"arrived": "committed" if committed else "sent", "done_at": _iso(max(ends, default=None))}


def _is_final(delivery: Delivery) -> bool:
    """Nothing more is expected of it, and it is where it should be."""
    sent = delivery.state is DeliveryState.SENT and delivery.confirm_at is None
    return sent or delivery.state is DeliveryState.COMMITTED


LESION_COLUMNS = {
    "number": ("lesion", "{}"),
    "side": ("side", "{}"),
    "subtype": ("subtype", "{}"),
    "volume_ml": ("volume mL", "{:.1f}"),
    "abc2_ml": ("ABC/2 mL", "{:.1f}"),
    "longest_axial_diameter_mm": ("longest axial mm", "{:.1f}"),
    "mean_hu": ("mean HU", "{:.0f}"),
    "key_slices": ("key slices", "{}"),
}
"""What a job's summary says of a lesion -> the column that shows it, and how."""


def lesions(job: Row) -> list[Row]:
    """The lesions of a job as `job_row` gives it, one row each, largest first; a column that none fills is left out."""
    found = job["summary"].get("lesions", [])
    shown = [key for key in LESION_COLUMNS if any(key in one for one in found)]
    return [{LESION_COLUMNS[key][0]: _lesion_cell(key, one.get(key)) for key in shown} for one in found]


def _lesion_cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    return LESION_COLUMNS[key][1].format(", ".join(map(str, value)) if isinstance(value, list) else value)


def deliveries(
    session: Session, *, state: DeliveryState | None, limit: int, destination: str | None = None
) -> list[Row]:
    """The latest deliveries, newest first, of one state and for one destination if given."""
    wanted = sa.select(Delivery).order_by(Delivery.id.desc()).limit(limit)
    if state:
        wanted = wanted.where(Delivery.state == state)
    if destination is not None:
        wanted = wanted.where(Delivery.destination == destination)
    return [_delivery_row(delivery) for delivery in session.scalars(wanted)]


def _result_row(result: Result) -> Row:
    return {
        "kind": result.kind.value,
        "form": result.form,
        "variant": result.variant,
        "sop_instance_uid": result.sop_instance_uid,
        "path": result.path,
        "superseded_at": _iso(result.superseded_at),
        "file_removed_at": _iso(result.file_removed_at),
        "deliveries": [_delivery_row(delivery) for delivery in result.deliveries],
    }


def _delivery_row(delivery: Delivery) -> Row:
    return {
        "delivery": delivery.id,
        "kind": delivery.result.kind.value,
        "form": delivery.result.form,
        "destination": delivery.destination,
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "sent_at": _iso(delivery.sent_at),
        "committed_at": _iso(delivery.committed_at),
        "committed_by": delivery.committed_by,
        "next_try_at": _iso(_next_step(delivery)),
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
    }


def _next_step(delivery: Delivery) -> datetime | None:
    """When it is sent, or made sure of, again."""
    if delivery.state is DeliveryState.PENDING:
        return delivery.not_before
    return delivery.confirm_at if delivery.state is DeliveryState.SENT else None


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None
