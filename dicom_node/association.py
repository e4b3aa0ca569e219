"""One association from its first byte to its last, in one thread (PS3.8 section 9.2, acceptor's side).

    TLS handshake -> A-ASSOCIATE -> [ C-STORE | C-ECHO | a registered service ] ... -> A-RELEASE | A-ABORT | silence

pynetdicom decodes and matches the A-ASSOCIATE; once established the socket is read here: of its own two threads per
association each polls with sleeps, about 40 % of the time, and re-encodes every response.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from typing import TYPE_CHECKING

import structlog

from dicom_node import dimse
from dicom_node import upper_layer as ul
from dicom_node.intake_rows import AssociationRecord
from dicom_node.negotiation import MAX_REQUEST_BYTES, accept, read_request
from dicom_node.reception import Answer, DatasetReception, ResponseReception, StoreReception
from dicom_node.statuses import Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from socket import socket

    from dicom_node.admission import Rejection
    from dicom_node.negotiation import AssociateRequest, Context
    from dicom_node.reception import Event, Notice, Reception, Request, Services

log = structlog.get_logger()


class AcceptedAssociation:
    """Serves one connection. `serve` runs in its own thread; `interrupt` may be called from another."""

    def __init__(self, sock: socket, address: str, services: Services) -> None:
        self._services = services
        self._config = services.config
        self._wire = ul.Wire(sock, timeout_s=services.config.negotiation_timeout_s)
        self._address = address
        self._began = time.monotonic()
        self._contexts: Mapping[int, Context] = {}
        self._peer_max_pdu_bytes = 0
        self._command = bytearray()
        self._reception: Reception | None = None
        self._reception_context = 0
        self._notices: deque[tuple[int, Notice]] = deque()
        """What the peer is to be told once it is silent, each with its presentation context."""
        self._unanswered: dict[int, Notice] = {}
        """What it was told and has not answered, by Message ID."""
        self.record: AssociationRecord | None = None
        """None until the association is established."""
        self._message_id = 0

    def interrupt(self) -> None:
        """End it with an A-ABORT before the next read."""
        self._wire.interrupt()

    def serve(self) -> str:
        """Serve until it ends. How it ended, in a few words for the log and the row; `close` must follow."""
        how = "internal error"
        last_words = ul.abort_pdu(ul.AbortReason.NOT_SPECIFIED)
        try:
            how, last_words = self._serve()
        except ul.PeerGone as gone:
            how = "listener stopping" if self._wire.interrupted else "peer gone"
            log.debug("peer gone", peer=self._address, why=str(gone))
        except ul.TimedOut as error:
            how = "timed out"
            log.warning("peer timed out", peer=self._address, why=str(error))
        except ul.ProtocolError as error:
            how = "protocol error"
            # Before an association there is no service provider to speak for (PS3.8 Table 9-10, Sta2: AA-1).
            last_words = ul.abort_pdu(error.reason if self.record else None)
            log.warning("protocol error", peer=self._address, why=str(error))
        # The boundary of the thread: one association's fault must not end in silence, nor reach another one.
        except Exception:
            log.exception("association failed", peer=self._address)
        finally:
            if self._reception is not None:
                self._reception.abandon()
            for notice in (*self._unanswered.values(), *(notice for _, notice in self._notices)):
                notice.abandon()
            self._wire.hang_up(last_words)
        self._log_end(how)
        return how

    def close(self) -> None:
        """Close the connection; the peer gets a moment to do it first."""
        self._wire.close()

    def _serve(self) -> tuple[str, bytes]:
        """How it ended, and what is still to be sent."""
        request = self._read_request()
        rejection = self._services.admission.enter(request, self._address)
        if rejection is not None:
            self._log_rejection(request, rejection)
            return "rejected", ul.reject_pdu(rejection.result, rejection.source, rejection.reason)
        try:
            self._establish(request)
            return self._messages()
        finally:
            self._services.admission.leave(request)

    def _read_request(self) -> AssociateRequest:
        """The A-ASSOCIATE-RQ, within the negotiation timeout as a whole (ARTIM)."""
        timeout_s = self._config.negotiation_timeout_s
        self._wire.set_timeouts(timeout_s, deadline_s=timeout_s)
        header = bytes(self._wire.read(6))
        kind, _, length = struct.unpack(">BBL", header)
        if kind != ul.PduType.ASSOCIATE_RQ:
            raise ul.ProtocolError("the first PDU is no A-ASSOCIATE-RQ", ul.AbortReason.UNEXPECTED_PDU)
        if length > MAX_REQUEST_BYTES:
            raise ul.ProtocolError("an A-ASSOCIATE-RQ of absurd length", ul.AbortReason.INVALID_PARAMETER)
        body = b"".join(bytes(piece) for piece in self._wire.stream(length))
        return read_request(header + body)

    def _log_rejection(self, request: AssociateRequest, rejection: Rejection) -> None:
        log.warning(
            "association rejected",
            peer=self._address,
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            why=rejection.word,
            count=self._services.admission.refusals[rejection.word],
        )

    def _establish(self, request: AssociateRequest) -> None:
        acceptance = accept(
            request,
            sop_classes=self._config.sop_classes,
            service_sop_classes=self._services.other_sop_classes,
            transfer_syntaxes=self._config.transfer_syntaxes,
            max_pdu_bytes=self._config.max_pdu_bytes,
        )
        self._contexts = acceptance.contexts
        self._peer_max_pdu_bytes = request.peer_max_pdu_bytes
        self._wire.set_timeouts(self._config.idle_timeout_s)
        self._wire.send(acceptance.pdu)
        self.record = AssociationRecord(request.calling_ae_title, request.called_ae_title, self._address)

    def _messages(self) -> tuple[str, bytes]:
        """Read PDUs until the association ends. How it did, and what is still to be sent."""
        while True:
            self._notify()
            kind, _, length = struct.unpack(">BBL", self._wire.read(6))
            if kind == ul.PduType.P_DATA_TF:
                self._p_data(length)
            elif kind in (ul.PduType.RELEASE_RQ, ul.PduType.ABORT):
                if length != 4:
                    raise ul.ProtocolError("a PDU of the wrong length", ul.AbortReason.INVALID_PARAMETER)
                self._wire.read(4)
                if kind == ul.PduType.ABORT:
                    return "aborted by the peer", b""
                return "released", ul.RELEASE_RP
            elif kind in list(ul.PduType):
                raise ul.ProtocolError("a PDU that has no place here", ul.AbortReason.UNEXPECTED_PDU)
            else:
                raise ul.ProtocolError("a PDU of no known type", ul.AbortReason.UNRECOGNIZED_PDU)

    def _notify(self) -> None:
        """Between two messages, tell a silent peer what it is to be told; one thing at a time."""
        while self._notices and not (self._unanswered or self._command or self._reception):
            if self._wire.has_more(self._config.report_hold_s):
                return
            context_id, notice = self._notices[0]
            event = notice.event()
            if event is not None and self._wire.has_more(0.0):  # that took a while: perhaps the peer wants to leave
                return
            self._notices.popleft()
            if event is not None:
                self._tell(context_id, notice, event)

    def _tell(self, context_id: int, notice: Notice, event: Event) -> None:
        self._message_id = self._message_id % 0xFFFF + 1
        command_set = dimse.write_event_report(
            self._message_id,
            sop_class_uid=event.sop_class_uid,
            sop_instance_uid=event.sop_instance_uid,
            event_type=event.event_type,
        )
        self._unanswered[self._message_id] = notice
        self._wire.send(self._message(context_id, command_set, event.dataset))

    def _message(self, context_id: int, command_set: bytes, dataset: bytes) -> bytes:
        """A command set, and its dataset unless that is empty, as PDUs."""
        limit = self._peer_max_pdu_bytes
        data = ul.p_data_pdus(context_id, command_set, is_command=True, max_pdu_bytes=limit)
        if dataset:
            data += ul.p_data_pdus(context_id, dataset, is_command=False, max_pdu_bytes=limit)
        return data

    def _p_data(self, length: int) -> None:
        """The presentation data values of one P-DATA-TF (PS3.8 section 9.3.5)."""
        if length < 6:
            raise ul.ProtocolError("a P-DATA-TF without a value", ul.AbortReason.INVALID_PARAMETER)
        while length:
            if length < 6:
                raise ul.ProtocolError("a value does not fit its P-DATA-TF", ul.AbortReason.INVALID_PARAMETER)
            item_length, context_id, control = struct.unpack(">LBB", self._wire.read(6))
            size = item_length - 2
            length -= 6 + size
            if size < 0 or length < 0:
                raise ul.ProtocolError("a value does not fit its P-DATA-TF", ul.AbortReason.INVALID_PARAMETER)
            if context_id not in self._contexts:
                raise ul.ProtocolError(
                    "a presentation context that was not agreed on", ul.AbortReason.INVALID_PARAMETER
                )
            if control & 1:
                self._command_piece(context_id, size, is_last=bool(control & 2))
            else:
                self._dataset_piece(context_id, size, is_last=bool(control & 2))

    def _command_piece(self, context_id: int, size: int, *, is_last: bool) -> None:
        if self._reception is not None:
            raise ul.ProtocolError("a command in the middle of a dataset", ul.AbortReason.UNEXPECTED_PARAMETER)
        if len(self._command) + size > dimse.MAX_COMMAND_BYTES:
            raise ul.ProtocolError("a command set of absurd length", ul.AbortReason.INVALID_PARAMETER)
        if not self._command:
            self._wire.begin_message()
        for piece in self._wire.stream(size):
            self._command += piece
        if not is_last:
            return
        try:
            command = dimse.read_command(bytes(self._command))
        except dimse.NotACommand as error:
            raise ul.ProtocolError(str(error), ul.AbortReason.INVALID_PARAMETER) from error
        self._command.clear()
        self._begin(command, context_id)

    def _begin(self, command: dimse.Command, context_id: int) -> None:
        """A request (or the response to a notice) has come; its dataset, if it has one, follows."""
        if command.field == dimse.CommandField.C_CANCEL_RQ:
            self._wire.end_message()
            return
        if self.record is None:
            return
        if command.field & 0x8000:
            self._reception = self._response_to_notice(command)
        else:
            self._reception = self._reception_for(command, self._contexts[context_id], self.record)
        self._reception_context = context_id
        if not command.has_dataset:
            self._finish()

    def _response_to_notice(self, command: dimse.Command) -> Reception:
        message_id = command.us(dimse.MESSAGE_ID_RESPONDED_TO)
        is_of_its_kind = command.field == dimse.CommandField.N_EVENT_REPORT_RQ | 0x8000
        if not is_of_its_kind or message_id not in self._unanswered:
            raise ul.ProtocolError("a response to nothing", ul.AbortReason.UNEXPECTED_PARAMETER)
        return ResponseReception(command, self._unanswered.pop(message_id))

    def _reception_for(self, command: dimse.Command, context: Context, record: AssociationRecord) -> Reception:
        if command.field == dimse.CommandField.C_STORE_RQ:
            return StoreReception(command, context, record, self._services)
        service = self._services.others.get(command.field, _unrecognized)
        if command.field == dimse.CommandField.C_ECHO_RQ:
            service = _echo
        return DatasetReception(command, context, record, service)

    def _dataset_piece(self, context_id: int, size: int, *, is_last: bool) -> None:
        reception = self._reception
        if reception is None or context_id != self._reception_context:
            raise ul.ProtocolError("a dataset without a command", ul.AbortReason.UNEXPECTED_PARAMETER)
        for piece in self._wire.stream(size):
            reception.write(piece)
        if is_last:
            self._finish()

    def _finish(self) -> None:
        """The request is whole: serve it and answer."""
        reception, self._reception = self._reception, None
        if reception is None:
            return
        answer = reception.finish()
        self._wire.end_message()
        if answer is None:
            return
        command_set = dimse.write_response(
            reception.command, answer.status, comment=answer.comment, has_dataset=bool(answer.dataset)
        )
        if answer.notice is not None:
            self._notices.append((self._reception_context, answer.notice))
        self._wire.send(self._message(self._reception_context, command_set, answer.dataset))

    def _log_end(self, how: str) -> None:
        """One line for each association that was established."""
        if self.record is None:
            return
        log.info(
            "association ended",
            peer=self._address,
            calling_ae_title=self.record.calling_ae_title,
            how=how,
            stored=self.record.stored_count,
            refused=self.record.refused_count,
            bytes=self._wire.bytes_received,
            seconds=round(time.monotonic() - self._began, 3),
        )


def _echo(_request: Request) -> Answer:
    return Answer(Status.SUCCESS)


def _unrecognized(_request: Request) -> Answer:
    return Answer(Status.UNRECOGNIZED_OPERATION)
