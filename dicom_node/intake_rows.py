"""The rows of intake: instances, their study, their association, conflicts. Runs inside a group commit.

Every function here only writes through its connection, so that it may run again when its batch failed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from dicom_node.db import now
from dicom_node.errors import ArchiveError
from dicom_node.facts import facts_to_json
from dicom_node.result_forms import SOP_CLASSES
from dicom_node.states import StudyState
from dicom_node.tables import Association, AuditEvent, Base, Conflict, Result, UtcDateTime

if TYPE_CHECKING:
    from dicom_node.archive import Archive, StoredFile
    from dicom_node.facts import InstanceFacts

RESULT_SOP_CLASSES = frozenset(SOP_CLASSES.values())
"""Only these can be results of this node that a PACS sends back."""


@dataclass
class AssociationRecord:
    """One association as its row will tell it. Of one thread; the row is written with the first instance."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    opened_at: datetime = field(default_factory=now)
    id: int | None = None
    stored_count: int = 0
    refused_count: int = 0
    study_ids: set[int] = field(default_factory=set)
    """Studies that it changed."""


# Statements are built once and on tables, not on mapped classes: building them anew took longer than running them.
_INSTANCES, _STUDIES, _ASSOCIATIONS = (Base.metadata.tables[name] for name in ("instances", "studies", "associations"))
FIND_INSTANCE = sa.select(*(_INSTANCES.c[name] for name in ("id", "study_id", "sha256", "size_bytes", "path"))).where(
    _INSTANCES.c.sop_instance_uid == sa.bindparam("uid")
)
COUNT_INSTANCE = (
    sa.update(_INSTANCES)
    .where(_INSTANCES.c.id == sa.bindparam("instance_id"))
    .values(times_received=_INSTANCES.c.times_received + 1)
)
KEEP_LONGER = (
    sa.update(_STUDIES)
    .where(_STUDIES.c.id == sa.bindparam("study_id"), _STUDIES.c.state == StudyState.COMPLETE)
    .values(last_received_at=sa.bindparam("at", type_=UtcDateTime()))
)
"""What comes again is no news to the analysis, but retention counts from it: a study that is being sent stays whole."""
INSERT_INSTANCE = sa.insert(_INSTANCES)
UPDATE_INSTANCE = sa.update(_INSTANCES).where(_INSTANCES.c.id == sa.bindparam("instance_id"))
FIND_STUDY = sa.select(_STUDIES.c.id).where(_STUDIES.c.study_instance_uid == sa.bindparam("uid"))
_REOPEN = sa.update(_STUDIES).values(
    receiving_since=sa.case(
        (_STUDIES.c.state == StudyState.COMPLETE, sa.bindparam("at", type_=UtcDateTime())),
        else_=_STUDIES.c.receiving_since,
    ),
    state=StudyState.RECEIVING,
    last_received_at=sa.bindparam("at", type_=UtcDateTime()),
    completed_at=None,
    complete_reason=None,
)
TOUCH_STUDY = (
    _REOPEN.where(_STUDIES.c.study_instance_uid == sa.bindparam("uid"))
    .values(calling_ae_title=sa.bindparam("calling"))
    .returning(_STUDIES.c.id)
)
"""One UPDATE, so that completion, which locks the row, either comes before and is undone or sees the new time."""
LEAVE_STUDY = _REOPEN.where(_STUDIES.c.id == sa.bindparam("study_id"))
"""An instance went to another study: what is left here is looked at again."""
INSERT_STUDY = sa.insert(_STUDIES).returning(_STUDIES.c.id)

INSERT_ASSOCIATION = sa.insert(_ASSOCIATIONS).returning(_ASSOCIATIONS.c.id)


class Kind(Enum):
    """What an arrival turned out to be."""

    NEW = auto()
    DUPLICATE = auto()
    """Same UID, same bytes: nothing changed but a count and a time."""
    CONFLICT = auto()
    """Same UID, other bytes: nothing was written; the caller applies the policy."""
    KEPT_ASIDE = auto()
    REPLACED = auto()


@dataclass(frozen=True)
class Arrival:
    """A durable file that waits for its row."""

    facts: InstanceFacts
    stored: StoredFile
    association: AssociationRecord
    listener_id: str
    archive: Archive
    conflict_policy: str | None
    """None at first; the configured policy when the arrival is known to be a conflict."""


@dataclass(frozen=True)
class Written:
    """What was written; `study_id` when the study's content changed."""

    kind: Kind
    association_id: int | None = None
    study_id: int | None = None


def write(connection: sa.Connection, arrival: Arrival) -> Written:
    """Write the rows of one arrival. A row that retention removed after it was found here is written anew."""
    uid = arrival.facts.sop_instance_uid
    present = connection.execute(FIND_INSTANCE, {"uid": uid}).one_or_none()
    if present is None:
        return _insert(connection, arrival)
    if present.sha256 == arrival.stored.sha256:
        # The study first, as everywhere: whoever locks rows of both the other way round waits for ever.
        connection.execute(KEEP_LONGER, {"study_id": present.study_id, "at": now()})
        counted = connection.execute(COUNT_INSTANCE, {"instance_id": present.id})
        return Written(Kind.DUPLICATE) if counted.rowcount else _insert(connection, arrival)
    if arrival.conflict_policy is None:
        return Written(Kind.CONFLICT)
    if arrival.conflict_policy == "replace":
        return _replace(connection, arrival, present)
    association_id = _association_id(connection, arrival)
    _keep_conflict(connection, arrival, arrival.stored, association_id)
    return Written(Kind.KEPT_ASIDE, association_id)


def close_association(
    connection: sa.Connection, association: AssociationRecord, listener_id: str, how_ended: str
) -> None:
    """Close the association's row; one that only had failures gets its row now."""
    values = _association_values(association, listener_id)
    values |= {"closed_at": now(), "how_ended": how_ended}
    if association.id is None:
        connection.execute(sa.insert(Association).values(**values))
    else:
        connection.execute(sa.update(Association).where(Association.id == association.id).values(**values))


def close_associations_of(connection: sa.Connection, listener_ids: list[str]) -> int:
    """Close what listeners that died left open. How many those were."""
    open_rows = sa.and_(Association.closed_at.is_(None), Association.listener_id.in_(listener_ids))
    return connection.execute(
        sa.update(Association).where(open_rows).values(closed_at=now(), how_ended="listener died")
    ).rowcount


def _insert(connection: sa.Connection, arrival: Arrival) -> Written:
    is_own_result = _is_own_result(connection, arrival.facts)
    association_id = _association_id(connection, arrival)
    received_at = now()
    study_id = _study_id(connection, arrival, received_at, is_own_result=is_own_result)
    values = _instance_values(arrival, study_id, association_id, received_at)
    connection.execute(INSERT_INSTANCE, {**values, "times_received": 1, "is_own_result": is_own_result})
    _check_file(arrival)
    return Written(Kind.NEW, association_id, None if is_own_result else study_id)


def _replace(connection: sa.Connection, arrival: Arrival, present: Any) -> Written:
    """The new bytes become the instance; the old file stays where it is and is noted as the conflict."""
    is_own_result = _is_own_result(connection, arrival.facts)
    association_id = _association_id(connection, arrival)
    received_at = now()
    study_id = _study_id(connection, arrival, received_at, is_own_result=is_own_result)
    if study_id != present.study_id and not is_own_result:
        connection.execute(LEAVE_STUDY, {"study_id": present.study_id, "at": received_at})
    old = type(arrival.stored)(present.path, present.sha256, present.size_bytes)
    values = _instance_values(arrival, study_id, association_id, received_at)
    if not connection.execute(UPDATE_INSTANCE, {**values, "instance_id": present.id}).rowcount:
        return _insert(connection, arrival)
    _keep_conflict(connection, arrival, old, association_id)
    _check_file(arrival)
    return Written(Kind.REPLACED, association_id, None if is_own_result else study_id)


def _check_file(arrival: Arrival) -> None:
    """Reconciliation removes files without a row under a lock that this transaction's insert excludes: look now."""
    if not arrival.archive.exists(arrival.stored.path):
        raise ArchiveError("the file was removed before its row was written")


def _instance_values(arrival: Arrival, study_id: int, association_id: int, received_at: datetime) -> dict[str, Any]:
    facts, stored = arrival.facts, arrival.stored
    return {
        "sop_instance_uid": facts.sop_instance_uid,
        "study_id": study_id,
        "series_instance_uid": facts.series_instance_uid,
        "association_id": association_id,
        "sop_class_uid": facts.sop_class_uid,
        "transfer_syntax_uid": facts.transfer_syntax_uid,
        "sha256": stored.sha256,
        "size_bytes": stored.size_bytes,
        "path": stored.path,
        "received_at": received_at,
        "facts": facts_to_json(facts),
    }


def _is_own_result(connection: sa.Connection, facts: InstanceFacts) -> bool:
    """Loop guard: an object that this node made and a PACS sent back."""
    if facts.sop_class_uid not in RESULT_SOP_CLASSES:
        return False
    found = connection.scalar(sa.select(Result.id).where(Result.sop_instance_uid == facts.sop_instance_uid))
    return found is not None


def _study_id(connection: sa.Connection, arrival: Arrival, at: datetime, *, is_own_result: bool) -> int:
    """The study's id; a new instance makes it RECEIVING (again), an own result leaves it as it is."""
    uid, calling = arrival.facts.study_instance_uid, arrival.association.calling_ae_title
    if is_own_result:
        found = connection.scalar(FIND_STUDY, {"uid": uid})
    else:
        found = connection.scalar(TOUCH_STUDY, {"uid": uid, "at": at, "calling": calling})
    if found is not None:
        return int(found)
    values = {
        "study_instance_uid": uid,
        "state": StudyState.COMPLETE if is_own_result else StudyState.RECEIVING,
        "generation": 0,
        "calling_ae_title": calling,
        "created_at": at,
        "receiving_since": at,
        "last_received_at": at,
        "completed_at": at if is_own_result else None,
    }
    return int(connection.execute(INSERT_STUDY, values).scalar_one())


def _association_id(connection: sa.Connection, arrival: Arrival) -> int:
    """The association's row, written with the first instance that needs it."""
    if arrival.association.id is not None:
        return arrival.association.id
    values = _association_values(arrival.association, arrival.listener_id)
    return int(connection.execute(INSERT_ASSOCIATION, values).scalar_one())


def _association_values(association: AssociationRecord, listener_id: str) -> dict[str, Any]:
    return {
        "listener_id": listener_id,
        "calling_ae_title": association.calling_ae_title,
        "called_ae_title": association.called_ae_title,
        "peer_address": association.peer_address,
        "opened_at": association.opened_at,
        "stored_count": association.stored_count,
        "refused_count": association.refused_count,
    }


def _keep_conflict(connection: sa.Connection, arrival: Arrival, kept: StoredFile, association_id: int) -> None:
    """A row and an audit event for bytes that lost against others under the same UID; once for the same bytes."""
    uid = arrival.facts.sop_instance_uid
    same = sa.and_(Conflict.sop_instance_uid == uid, Conflict.sha256 == kept.sha256, Conflict.path == kept.path)
    if connection.scalar(sa.select(Conflict.id).where(same).limit(1)) is None:
        connection.execute(
            sa.insert(Conflict).values(
                sop_instance_uid=uid,
                association_id=association_id,
                sha256=kept.sha256,
                size_bytes=kept.size_bytes,
                path=kept.path,
                policy=arrival.conflict_policy,
                received_at=now(),
            )
        )
    detail = {"sop_instance_uid": uid, "policy": arrival.conflict_policy, "kept_sha256": kept.sha256}
    connection.execute(sa.insert(AuditEvent).values(at=now(), kind="same UID, other bytes", detail=detail))
