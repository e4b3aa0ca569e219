"""The append-only record of what happened; no patient name, id or birth date goes in."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from dicom_node.db import now
from dicom_node.tables import AuditEvent


def record(
    session: Session, kind: str, *, study_id: int | None = None, job_id: int | None = None, **detail: Any
) -> None:
    """Add one event to the transaction at hand."""
    session.add(AuditEvent(at=now(), kind=kind, study_id=study_id, job_id=job_id, detail=detail))
