"""Storage commitment as SCP, in rows: what peers asked this node to keep, and the reports that they are owed.

A request is answered with success once its row is committed. What is reported is found out at the moment of reporting:
committed is exactly what has its row and, read from the disk, the bytes that were acknowledged. What is going to be
reported as committed is marked first, so that retention never removes it: its sender may have let go of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.archive import Archive, StoredFile, intact
from dicom_node.audit import record
from dicom_node.backoff import backoff_s
from dicom_node.commitment_messages import USABLE_UID, FailureReason, Reference, Report, Request
from dicom_node.config_sections import DeliveryConfig
from dicom_node.db import Database, age_s, now
from dicom_node.errors import ArchiveError
from dicom_node.tables import Instance, OwedReport

UIDS_PER_LOOK = 500
"""SQLite takes 32,766 values in one statement, older ones 999."""
_IS_OWED = (OwedReport.reported_at.is_(None), OwedReport.given_up_at.is_(None))


@dataclass(frozen=True)
class Owed:
    """A claimed report that a peer is owed."""

    id: int
    attempts: int
    request: Request


def owe(database: Database, calling_ae_title: str, request: Request, *, hold_s: float) -> int | None:
    """Remember what a peer asked; the id of the report that it is owed, due after `hold_s`.

    The same request again is owed a report again. None when its transaction UID is in use for other instances.
    """
    sop_classes = {one.sop_instance_uid: one.sop_class_uid for one in request.references}
    with database.session() as session:
        owed = session.scalar(
            sa.select(OwedReport)
            .where(
                OwedReport.calling_ae_title == calling_ae_title, OwedReport.transaction_uid == request.transaction_uid
            )
            .with_for_update()
        )
        if owed is None:
            owed = OwedReport(
                calling_ae_title=calling_ae_title, transaction_uid=request.transaction_uid, sop_classes=sop_classes
            )
            session.add(owed)
        elif owed.sop_classes != sop_classes:
            return None
        owed.asked_at = now()
        owed.attempts = 0
        owed.not_before = now() + timedelta(seconds=hold_s)
        owed.reported_at = owed.given_up_at = owed.lease_until = None
        session.flush()
        return owed.id


def any_due(session: Session) -> set[str]:
    """AE titles of the peers that are owed a report now."""
    return set(session.scalars(sa.select(OwedReport.calling_ae_title).where(*_due()).distinct()))


def claim_due(database: Database, calling_ae_title: str, *, lease_s: float, limit: int = 64) -> list[Owed]:
    """Lease the reports that a peer is owed now, oldest first."""
    with database.session() as session:
        rows = session.scalars(
            sa.select(OwedReport)
            .where(OwedReport.calling_ae_title == calling_ae_title, *_due())
            .order_by(OwedReport.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()
        return [_claimed(row, lease_s) for row in rows]


def claim(database: Database, owed_id: int, *, lease_s: float) -> Owed | None:
    """Lease one report, due or not; None when it is settled or somebody else has it in hand."""
    with database.session() as session:
        row = session.scalar(
            sa.select(OwedReport).where(OwedReport.id == owed_id, *_IS_OWED, _free()).with_for_update()
        )
        return _claimed(row, lease_s) if row is not None else None


def _claimed(row: OwedReport, lease_s: float) -> Owed:
    row.lease_until = now() + timedelta(seconds=lease_s)
    row.attempts += 1
    references = tuple(Reference(str(sop_class), uid) for uid, sop_class in row.sop_classes.items())
    return Owed(row.id, row.attempts, Request(row.transaction_uid, references))


def _due() -> tuple[sa.ColumnElement[bool], ...]:
    return (
        *_IS_OWED,
        sa.or_(OwedReport.not_before.is_(None), OwedReport.not_before <= now()),
        _free(),
    )


def _free() -> sa.ColumnElement[bool]:
    return sa.or_(OwedReport.lease_until.is_(None), OwedReport.lease_until < now())


def judge(database: Database, archive: Archive, request: Request) -> Report:
    """Which of the instances this node holds durably, and why not the others.

    Reads each file whole, and promises what it found.
    """
    return promise(database, look(database, archive, request))


def look(database: Database, archive: Archive, request: Request) -> Report:
    """What could be reported now: nothing of it is promised yet, and retention may still take it."""
    held: dict[str, tuple[str, StoredFile]] = {}
    # No instance has another one, and one with a NUL in it is more than PostgreSQL can be asked about.
    uids = [one.sop_instance_uid for one in request.references if USABLE_UID.fullmatch(one.sop_instance_uid)]
    with database.reading() as session:
        for start in range(0, len(uids), UIDS_PER_LOOK):
            some = uids[start : start + UIDS_PER_LOOK]
            for row in session.scalars(sa.select(Instance).where(Instance.sop_instance_uid.in_(some))):
                held[row.sop_instance_uid] = (row.sop_class_uid, StoredFile(row.path, row.sha256, row.size_bytes))
    reasons = {reference: _why_not(archive, reference, held) for reference in request.references}
    return Report(
        request.transaction_uid,
        committed=tuple(reference for reference, reason in reasons.items() if reason is None),
        failed=tuple((reference, int(reason)) for reference, reason in reasons.items() if reason is not None),
    )


def promise(database: Database, found: Report) -> Report:
    """The same, to be told at once: what is in it as committed is promised; what went since is in it as lost."""
    promised = _promise(database, [reference.sop_instance_uid for reference in found.committed])
    lost = [one for one in found.committed if one.sop_instance_uid not in promised]
    return Report(
        found.transaction_uid,
        committed=tuple(one for one in found.committed if one.sop_instance_uid in promised),
        failed=(*found.failed, *((one, int(FailureReason.NO_SUCH_OBJECT_INSTANCE)) for one in lost)),
    )


def _promise(database: Database, uids: list[str]) -> set[str]:
    """Mark instances as promised to a peer. Returns those that are still there."""
    promised: set[str] = set()
    with database.session() as session:
        for start in range(0, len(uids), UIDS_PER_LOOK):
            marked = (
                sa.update(Instance)
                .where(Instance.sop_instance_uid.in_(uids[start : start + UIDS_PER_LOOK]))
                .values(promised_at=sa.func.coalesce(Instance.promised_at, now()))
                .returning(Instance.sop_instance_uid)
            )
            promised.update(session.scalars(marked))
    return promised


def _why_not(archive: Archive, reference: Reference, held: dict[str, tuple[str, StoredFile]]) -> FailureReason | None:
    """None when it is held durably."""
    if reference.sop_instance_uid not in held:
        return FailureReason.NO_SUCH_OBJECT_INSTANCE
    sop_class_uid, stored = held[reference.sop_instance_uid]
    if sop_class_uid != reference.sop_class_uid:
        return FailureReason.CLASS_INSTANCE_CONFLICT
    try:
        return None if intact(archive, stored) else FailureReason.NO_SUCH_OBJECT_INSTANCE
    except ArchiveError:
        return FailureReason.PROCESSING_FAILURE


def reported(database: Database, owed: Owed, report: Report) -> None:
    """The peer has it."""
    with database.session() as session:
        row = session.get_one(OwedReport, owed.id, with_for_update=True)
        if row.reported_at is not None:
            return
        row.reported_at = now()
        row.lease_until = row.last_error = None
        row.committed_count, row.failed_count = len(report.committed), len(report.failed)
        record(
            session,
            "commitment reported to a peer",
            peer=row.calling_ae_title,
            transaction_uid=row.transaction_uid,
            committed=len(report.committed),
            failed=[reference.sop_instance_uid for reference, _ in report.failed],
        )


def release(database: Database, owed: Owed | None, owed_id: int) -> None:
    """The asking association ended: now it is the turn of a new one. `owed` is given by whoever had claimed it."""
    with database.session() as session:
        row = session.get_one(OwedReport, owed_id, with_for_update=True)
        row.not_before = None
        if owed is not None and owed.attempts == row.attempts:
            row.lease_until = None


def not_reported(database: Database, owed: Owed, *, error: str, retryable: bool, config: DeliveryConfig) -> bool | None:
    """Plan the next try, for `give_up_after_s` since it was asked for. Whether there will be one; None when it is
    settled, or in other hands.
    """
    with database.session() as session:
        row = session.get_one(OwedReport, owed.id, with_for_update=True)
        if row.reported_at is not None or row.given_up_at is not None or row.attempts != owed.attempts:
            return None
        row.lease_until = None
        row.last_error = error[:512]
        again = retryable and (now() - row.asked_at).total_seconds() <= config.give_up_after_s
        if again:
            row.not_before = now() + timedelta(seconds=backoff_s(row.attempts, config))
        else:
            row.given_up_at = now()
            record(
                session,
                "commitment report given up",
                peer=row.calling_ae_title,
                transaction_uid=row.transaction_uid,
                error=error[:512],
            )
        return again


def standing(session: Session) -> dict[str, int | float | None]:
    """How many reports are owed and since when (seconds), and how many peers never got."""
    owed, oldest = session.execute(sa.select(sa.func.count(), sa.func.min(OwedReport.asked_at)).where(*_IS_OWED)).one()
    given_up = sa.select(sa.func.count()).select_from(OwedReport).where(OwedReport.given_up_at.is_not(None))
    return {
        "owed": int(owed),
        "longest_wait_s": age_s(oldest),
        "given_up": int(session.scalar(given_up) or 0),
    }
