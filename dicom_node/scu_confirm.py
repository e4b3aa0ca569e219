"""Making sure: asking for storage commitment and reporting it (PS3.4 Annex J), and looking by C-FIND (PS3.4 C.4.1)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from dicom_node import commitment_messages as messages
from dicom_node.config_peers import DestinationConfig
from dicom_node.config_sections import NodeConfig
from dicom_node.errors import DestinationRefused, DestinationUnavailable
from dicom_node.scu import associated, name_of
from dicom_node.statuses import Status

log = structlog.get_logger()

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PENDING = (0xFF00, 0xFF01)
"""PS3.4 Table C.4-1."""
POLL_S = 0.01

Taken = Callable[[messages.Report], Status]
"""Takes in a report; what it is answered with."""


@dataclass(frozen=True)
class Wanted:
    """An instance to look for, by the unique keys of each level."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


def ask(
    destination: DestinationConfig, node: NodeConfig, request: messages.Request, *, wait_s: float, on_report: Taken
) -> int:
    """Ask for commitment; the status of the N-ACTION. A report that comes within `wait_s` is handed to `on_report`.

    Raises DestinationUnavailable or DestinationRefused.
    """
    taking = _Taking(destination.name, on_report)
    handlers = [(evt.EVT_N_EVENT_REPORT, taking.answer), (evt.EVT_PDU_SENT, taking.note_sent)]
    with associated(destination, node, [(messages.PUSH_MODEL, "")], handlers=handlers) as assoc:
        try:
            status, _ = assoc.send_n_action(
                messages.request_dataset(request),
                messages.REQUEST_COMMITMENT,
                messages.PUSH_MODEL,
                messages.PUSH_MODEL_INSTANCE,
            )
        except (RuntimeError, ValueError) as error:  # the association ended, or the peer turned the roles round
            raise DestinationUnavailable(f"{name_of(destination)}: commitment could not be asked for") from error
        if "Status" not in status:
            raise DestinationUnavailable(f"{name_of(destination)} did not answer the request for commitment")
        if status.Status == Status.SUCCESS:
            assoc.network_timeout = wait_s + destination.timeout_s
            _stay(assoc, taking.done, wait_s)
        return int(status.Status)


class _Taking:
    """Takes a report in on the association on which it was asked for. Its methods run in pynetdicom's threads."""

    def __init__(self, name: str, on_report: Taken) -> None:
        self._name = name
        self._on_report = on_report
        self._taken = False
        self.done = threading.Event()
        """The report was taken in and its answer sent: not before that the association may be released."""

    def answer(self, event: Event) -> tuple[int, None]:
        """The status for an N-EVENT-REPORT."""
        try:
            status = self._on_report(messages.read_report(event.event_information))
        except messages.NotCommitment as error:
            log.warning("a commitment report that cannot be used", destination=self._name, why=str(error))
            return int(Status.INVALID_ARGUMENT_VALUE), None
        self._taken = True
        return int(status), None

    def note_sent(self, _event: Event) -> None:
        """A PDU went out; after a report was taken in, that is the answer."""
        if self._taken:
            self.done.set()


def _stay(assoc: Association, done: threading.Event, wait_s: float) -> None:
    """Keep the association open until the report has come, the peer leaves, or the time is over."""
    ends = time.monotonic() + wait_s
    while assoc.is_established and time.monotonic() < ends and not done.wait(POLL_S):
        pass


def tell(destination: DestinationConfig, node: NodeConfig, reports: Iterable[messages.Report]) -> Iterator[int | None]:
    """Report commitments that the peer asked for, with the roles reversed; the status of each, None without an answer.

    Raises DestinationUnavailable or DestinationRefused.
    """
    contexts = [(messages.PUSH_MODEL, "")]
    with associated(destination, node, contexts, as_scp=[messages.PUSH_MODEL]) as assoc:
        for report in reports:
            try:
                status, _ = assoc.send_n_event_report(
                    messages.report_dataset(report),
                    report.event_type,
                    messages.PUSH_MODEL,
                    messages.PUSH_MODEL_INSTANCE,
                )
            except RuntimeError as error:
                raise DestinationUnavailable(f"{name_of(destination)}: the association was lost") from error
            except ValueError as error:
                sentence = f"{name_of(destination)} does not let this node be the SCP of commitment (role selection)"
                raise DestinationRefused(sentence) from error
            yield int(status.Status) if "Status" in status else None


def find(destination: DestinationConfig, node: NodeConfig, wanted: Iterable[Wanted]) -> set[str]:
    """The SOP Instance UIDs of those that the destination shows. Raises DestinationUnavailable, DestinationRefused."""
    with associated(destination, node, [(STUDY_ROOT_FIND, "")]) as assoc:
        return {one.sop_instance_uid for one in wanted if _shows(assoc, destination, one)}


def _shows(assoc: Association, destination: DestinationConfig, wanted: Wanted) -> bool:
    keys = Dataset()
    keys.QueryRetrieveLevel = "IMAGE"
    keys.StudyInstanceUID = wanted.study_instance_uid
    keys.SeriesInstanceUID = wanted.series_instance_uid
    keys.SOPInstanceUID = wanted.sop_instance_uid
    shown = False
    try:
        for status, match in assoc.send_c_find(keys, STUDY_ROOT_FIND):
            code = int(status.Status) if "Status" in status else None
            if code in PENDING:
                # Not every peer matches by the keys it was given.
                shown = shown or (match is not None and match.get("SOPInstanceUID") == wanted.sop_instance_uid)
            elif code != Status.SUCCESS:
                answered = "did not answer C-FIND" if code is None else f"answered C-FIND with 0x{code:04X}"
                raise DestinationUnavailable(f"{name_of(destination)} {answered}")
    except RuntimeError as error:
        raise DestinationUnavailable(f"{name_of(destination)}: the association was lost") from error
    except ValueError as error:
        raise DestinationRefused(f"{name_of(destination)} takes no C-FIND") from error
    return shown
