"""A PACS made with pynetdicom that keeps what it gets, commits to it, and can misbehave in each way that matters."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt

from tests.peers.process import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynetdicom.association import Association
    from pynetdicom.events import Event

PUSH_MODEL, PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STORED = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.2")
NO_SUCH_OBJECT_INSTANCE = 0x0112


@dataclass
class Asked:
    """A commitment that was asked for."""

    transaction_uid: str
    references: list[tuple[str, str]]
    """Class and instance."""


@dataclass
class CommittingPacs:
    """`reports`: "same" (on the asking association), "new" (on one of its own, to `report_to`) or "never"."""

    reports: str = "same"
    commits: bool = True
    """Whether it offers storage commitment at all."""
    finds: bool = True
    """Whether it offers C-FIND."""
    ignores_keys: bool = False
    """Whether C-FIND answers with whatever it has."""
    report_to: int = 0
    """Port of the node's listener."""
    reports_times: int = 1
    action_status: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """SOP Instance UID -> Failure Reason, whatever it holds."""
    held: dict[str, int] = field(default_factory=dict)
    """SOP Instance UID -> how often it was sent."""
    asked: list[Asked] = field(default_factory=list)
    answers: list[int | None] = field(default_factory=list)
    """What the node answered to the reports."""
    on_action: Callable[[], object] = lambda: None
    """Called while an N-ACTION waits for its answer."""
    ae_title: str = "PACS"

    def __enter__(self) -> Self:
        ae = AE(self.ae_title)
        for uid in (*STORED, *([PUSH_MODEL] if self.commits else []), *([STUDY_ROOT_FIND] if self.finds else [])):
            ae.add_supported_context(uid)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._action),
            (evt.EVT_C_FIND, self._find),
        ]
        self._server = ae.start_server((HOST, 0), block=False, evt_handlers=handlers)
        self._threads: list[threading.Thread] = []
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(10)
        assert self._server is not None
        self._server.shutdown()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def lose(self, sop_instance_uid: str) -> None:
        """It no longer has this instance."""
        del self.held[sop_instance_uid]

    def report(self, asked: Asked, *, times: int = 1) -> None:
        """Report a transaction on an association of its own, with the roles reversed."""
        ae = AE(self.ae_title)
        ae.add_requested_context(PUSH_MODEL)
        roles: Any = [build_role(PUSH_MODEL, scp_role=True)]
        assoc = ae.associate(HOST, self.report_to, ae_title="ICHNODE", ext_neg=roles)
        assert assoc.is_established, "the listener takes no association for reports"
        assert assoc.acceptor.role_selection[UID(PUSH_MODEL)].scp_role, "the listener does not let the PACS be the SCP"
        try:
            for _ in range(times):
                self._report_on(assoc, asked)
        finally:
            assoc.release()

    def _store(self, event: Event) -> int:
        uid = str(event.dataset.SOPInstanceUID)
        self.held[uid] = self.held.get(uid, 0) + 1
        return 0

    def _action(self, event: Event) -> tuple[int, None]:
        self.on_action()
        if self.action_status:
            return self.action_status, None
        information = event.action_information
        references = [
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in information.ReferencedSOPSequence
        ]
        asked = Asked(str(information.TransactionUID), references)
        self.asked.append(asked)
        if self.reports != "never":
            thread = threading.Thread(target=self._soon, args=(event.assoc, asked))
            self._threads.append(thread)
            thread.start()
        return 0, None

    def _soon(self, assoc: Association, asked: Asked) -> None:
        """Not before the N-ACTION is answered."""
        time.sleep(0.1)
        if self.reports == "same":
            for _ in range(self.reports_times):
                self._report_on(assoc, asked)
        else:
            self.report(asked, times=self.reports_times)

    def _report_on(self, assoc: Association, asked: Asked) -> None:
        information = Dataset()
        information.TransactionUID = asked.transaction_uid
        failed = {
            uid: self.failures.get(uid, NO_SUCH_OBJECT_INSTANCE)
            for _, uid in asked.references
            if uid in self.failures or uid not in self.held
        }
        kept = [_item(sop_class, uid) for sop_class, uid in asked.references if uid not in failed]
        lost = [_item(sop_class, uid) for sop_class, uid in asked.references if uid in failed]
        for item in lost:
            item.FailureReason = failed[str(item.ReferencedSOPInstanceUID)]
        if kept:
            information.ReferencedSOPSequence = kept
        if lost:
            information.FailedSOPSequence = lost
        status, _ = assoc.send_n_event_report(information, 2 if lost else 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        self.answers.append(int(status.Status) if "Status" in status else None)

    def _find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        uid = str(event.identifier.SOPInstanceUID)
        for found in self.held if self.ignores_keys else [uid] if uid in self.held else []:
            match = Dataset()
            match.QueryRetrieveLevel, match.SOPInstanceUID = "IMAGE", found
            yield 0xFF00, match


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item
