"""Takes a received instance in: check, file, row, and only then success. The one place that decides a C-STORE status.

    spool -> facts -> same UIDs as the command? -> durable file -> committed row -> 0x0000

Idempotent on SOP Instance UID. Whatever fails on the way gives a status that says so, and the sender keeps its copy.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog

from dicom_node import intake_rows as rows
from dicom_node.archive import InstanceKey, StoredFile
from dicom_node.dataset_walk import NotADataset
from dicom_node.errors import ArchiveError, UnsafeUid
from dicom_node.group_commit import GroupCommit
from dicom_node.read_facts import map_file, read_facts
from dicom_node.statuses import Status

if TYPE_CHECKING:
    from dicom_node.archive import Archive, Spool
    from dicom_node.facts import InstanceFacts
    from dicom_node.intake_rows import AssociationRecord

log = structlog.get_logger()

CLOSE_RETRY_S = 1.0


@dataclass(frozen=True)
class StoreRequest:
    """What the C-STORE-RQ and its presentation context say of the dataset."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    head_bytes: int
    """Where the dataset begins in the spooled file."""


@dataclass(frozen=True)
class Outcome:
    """The answer to a C-STORE; `comment` becomes ErrorComment (0000,0902): ASCII, no PHI."""

    status: Status
    comment: str = ""


STORED = Outcome(Status.SUCCESS)


class Intake:
    """Stores instances for every association of this listener. For many threads."""

    def __init__(self, engine: sa.Engine, archive: Archive, *, listener_id: str, same_uid_other_bytes: str) -> None:
        self._archive = archive
        self._listener_id = listener_id
        self._policy = same_uid_other_bytes
        self._commits = GroupCommit(engine)
        self._giving_up = threading.Event()
        self.left_open = False
        """An association's end could not be noted before this listener ended."""

    def store(self, spool: Spool, request: StoreRequest, association: AssociationRecord) -> Outcome:
        """Keep what was spooled, or say why not; the spool is gone afterwards. Never raises."""
        try:
            outcome = self._store(spool, request, association)
        except (NotADataset, UnsafeUid) as error:
            outcome = Outcome(Status.CANNOT_UNDERSTAND, str(error))
        except ArchiveError as error:
            outcome = Outcome(Status.OUT_OF_RESOURCES, str(error))
        except sa.exc.SQLAlchemyError as error:
            log.warning("the database cannot take a row", error=type(error).__name__)
            outcome = Outcome(Status.OUT_OF_RESOURCES, "the database is not available")
        # The boundary: a fault of this code must reach the sender as a failure, never as silence.
        except Exception:
            log.exception("store failed")
            outcome = Outcome(Status.PROCESSING_FAILURE, "internal error")
        finally:
            spool.discard()
        return outcome

    def close(self, association: AssociationRecord, how_ended: str) -> None:
        """Note that the association ended; tries until the database takes it, since a study may wait for it."""
        if association.id is None and not association.stored_count + association.refused_count:
            return
        while True:
            try:
                self._commits.run(
                    lambda connection: rows.close_association(connection, association, self._listener_id, how_ended)
                )
            except sa.exc.SQLAlchemyError as error:
                log.warning("the end of an association is not noted yet", error=type(error).__name__)
                if self._giving_up.wait(CLOSE_RETRY_S):
                    self.left_open = True
                    return
            else:
                return

    def give_up_closing(self) -> None:
        """The listener ends: what cannot be noted now is noted by the next one."""
        self._giving_up.set()

    def close_associations_of(self, listener_ids: list[str]) -> int:
        """Close the rows that dead listeners left open. How many."""
        return self._commits.run(lambda connection: rows.close_associations_of(connection, listener_ids))

    def _store(self, spool: Spool, request: StoreRequest, association: AssociationRecord) -> Outcome:
        with spool.reader() as file:
            data = map_file(file)
        facts = read_facts(data, request.transfer_syntax_uid, start=request.head_bytes)
        if facts.sop_class_uid != request.sop_class_uid:
            return Outcome(Status.DATASET_MISMATCH, "the dataset is of another SOP class than the command")
        if facts.sop_instance_uid != request.sop_instance_uid:
            return Outcome(Status.DATASET_MISMATCH, "the dataset has another SOP Instance UID than the command")
        key = InstanceKey(facts.study_instance_uid, facts.series_instance_uid, facts.sop_instance_uid)
        stored = self._archive.commit(spool, key)
        written = self._write(facts, stored, association, conflict=None)
        if written.kind is not rows.Kind.CONFLICT:
            return STORED
        return self._conflict(facts, stored, association)

    def _conflict(self, facts: InstanceFacts, stored: StoredFile, association: AssociationRecord) -> Outcome:
        """Same UID, other bytes: `replace` makes the new file the instance, the other policies keep it aside."""
        log.warning(
            "same SOP Instance UID with other bytes", policy=self._policy, calling_ae_title=association.calling_ae_title
        )
        kept = stored if self._policy == "replace" else self._archive.set_aside(stored)
        self._write(facts, kept, association, conflict=self._policy)
        if self._policy == "refuse":
            return Outcome(Status.DUPLICATE_SOP_INSTANCE, "another dataset is stored under this SOP Instance UID")
        return STORED

    def _write(
        self, facts: InstanceFacts, stored: StoredFile, association: AssociationRecord, *, conflict: str | None
    ) -> rows.Written:
        """Commit the row and take over what the association must remember."""
        arrival = rows.Arrival(facts, stored, association, self._listener_id, self._archive, conflict)
        written = self._commits.run(lambda connection: rows.write(connection, arrival))
        association.id = written.association_id or association.id
        if written.study_id is not None:
            association.study_ids.add(written.study_id)
        return written
