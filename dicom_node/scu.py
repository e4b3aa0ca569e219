"""Sending: C-STORE and C-ECHO as SCU, each answer judged once: sent, try again later, or never.

sent       success, a warning, or "duplicate SOP instance": our UIDs follow from the content, so it is there already
later      no association (nobody there, or refused: that says nothing about the object), no answer, out of resources
never      no presentation context for the object, or a failure status about the object itself
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_node import judgement
from dicom_node.config_peers import DestinationConfig, TlsConfig
from dicom_node.config_sections import NodeConfig
from dicom_node.errors import ClassesRefused, DestinationRefused, DestinationUnavailable
from dicom_node.judgement import hexadecimal, hint
from dicom_node.part10 import read_file
from dicom_node.transport import Answer, Outgoing, always, later, never

NO_CONTEXT = 0x0122
"""SOP class not supported (PS3.7 C.5.6)."""
MAX_CONTEXTS = 128
"""PS3.8 section 9.3.2.2: presentation context ids are the odd numbers 1 to 255."""
MAX_PDU_BYTES = 131072
"""What this node takes as the requestor of an association."""


def send(
    destination: DestinationConfig,
    node: NodeConfig,
    files: Sequence[Outgoing],
    on_answer: Callable[[Answer], None],
    *,
    wanted: Callable[[int], bool] = always,
) -> None:
    """Send files over as few associations as their presentation contexts allow (`transport.Transport.send`)."""
    for batch in _batches(files):
        contexts = sorted({(f.sop_class_uid, f.transfer_syntax_uid) for f in batch})
        try:
            with associated(destination, node, contexts) as assoc:
                for file in batch:
                    if wanted(file.key):
                        on_answer(_send_one(assoc, file))
        except ClassesRefused:
            for file in batch:
                if wanted(file.key):
                    on_answer(_no_context(file))


def echo(destination: DestinationConfig, node: NodeConfig) -> str:
    """The status of a C-ECHO. Raises DestinationUnavailable or DestinationRefused when it is no success."""
    with associated(destination, node, [(Verification, "")]) as assoc:
        status = assoc.send_c_echo()
        if "Status" not in status:
            raise DestinationUnavailable(f"{name_of(destination)} did not answer C-ECHO in {destination.timeout_s:g} s")
        text = hexadecimal(int(status.Status))
        if status.Status != 0:
            raise DestinationRefused(f"{name_of(destination)} answered C-ECHO with {text}")
        return text


@contextmanager
def associated(
    destination: DestinationConfig,
    node: NodeConfig,
    contexts: Iterable[tuple[str, str]],
    *,
    handlers: Sequence[tuple[Any, Callable[[Event], Any]]] = (),
    as_scp: Iterable[str] = (),
) -> Iterator[Association]:
    """An open association that is released at the end. Raises DestinationUnavailable or DestinationRefused.

    `handlers` serve what the peer may ask on it; for the SOP classes `as_scp` this node is their SCP (PS3.7 D.3.3.4).
    """
    ae = AE(ae_title=destination.calling_ae_title or node.ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = destination.timeout_s
    for sop_class, syntax in contexts:
        ae.requested_contexts = [*ae.requested_contexts, build_context(sop_class, syntax or None)]
    rejections: list[str] = []

    def note_rejection(event: Event) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu.reason_str)

    def limit_silence(event: Event) -> None:
        # pynetdicom's own timeouts end nothing while it waits for a peer that takes no more bytes, or sends half a PDU.
        connection = event.assoc.dul.socket
        if connection is not None and connection.socket is not None:
            connection.socket.settimeout(destination.timeout_s)

    try:
        assoc = ae.associate(
            destination.host,
            destination.port,
            ae_title=destination.ae_title,
            max_pdu=MAX_PDU_BYTES,
            ext_neg=[build_role(uid, scp_role=True) for uid in as_scp],
            # pynetdicom itself forgets a rejection that comes before it waits for one, and says that nobody was there.
            evt_handlers=[(evt.EVT_PDU_RECV, note_rejection), (evt.EVT_CONN_OPEN, limit_silence), *handlers],
            tls_args=(client_context(destination.tls), destination.host) if destination.tls.enabled else None,
        )
    except OSError as error:  # the name is not known (socket.gaierror), or a TLS file cannot be read (ssl.SSLError)
        raise DestinationUnavailable(f"no association with {name_of(destination)}: {error}") from error
    try:
        if not assoc.is_established:
            raise _not_established(assoc, destination, rejections)
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
        elif assoc.is_alive():
            assoc.abort()


def client_context(tls: TlsConfig) -> ssl.SSLContext:
    """Mutual TLS as the requestor (PS3.15 B.12: TLS 1.2 or later)."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca_certificates)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.private_key)
    return context


def _send_one(assoc: Association, file: Outgoing) -> Answer:
    """One C-STORE, with every way it can go wrong turned into an answer."""
    if not assoc.is_established:
        return later(file.key, None, "the association was lost before this file")
    accepted = {(c.abstract_syntax, c.transfer_syntax[0]) for c in assoc.accepted_contexts}
    if (UID(file.sop_class_uid), UID(file.transfer_syntax_uid)) not in accepted:
        return _no_context(file)
    try:
        response = assoc.send_c_store(read_file(file.path))
    except RuntimeError:  # pynetdicom: the association ended between the look above and the sending
        return later(file.key, None, "the association was lost before this file")
    except (ValueError, AttributeError, EOFError, OSError, InvalidDicomError) as error:
        return never(file.key, None, f"cannot be sent: {type(error).__name__}")
    return judge(file.key, int(response.Status) if "Status" in response else None)


def judge(key: int, status: int | None) -> Answer:
    """What a C-STORE status, or none at all, means for the file."""
    if status is None:
        return later(key, None, "no answer to C-STORE; connection lost or timed out")
    return judgement.judge(key, status, f"C-STORE answered {hexadecimal(status)}")


def _no_context(file: Outgoing) -> Answer:
    """The destination accepted no presentation context for the file: as if it had answered 0x0122."""
    what = _object(file.sop_class_uid, file.transfer_syntax_uid)
    return judgement.judge(file.key, NO_CONTEXT, f"the destination accepts no {what}")


def _object(sop_class_uid: str, transfer_syntax_uid: str) -> str:
    """For people: a storage class in a transfer syntax."""
    return f"{UID(sop_class_uid).name} in {UID(transfer_syntax_uid).name}"


def _batches(files: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Files in order, cut where an association would need more presentation contexts than there are."""
    batch: list[Outgoing] = []
    contexts: set[tuple[str, str]] = set()
    for file in files:
        contexts.add((file.sop_class_uid, file.transfer_syntax_uid))
        if len(contexts) > MAX_CONTEXTS:
            yield batch
            batch, contexts = [], {(file.sop_class_uid, file.transfer_syntax_uid)}
        batch.append(file)
    if batch:
        yield batch


def _not_established(
    assoc: Association, destination: DestinationConfig, rejections: Sequence[str]
) -> DestinationUnavailable | ClassesRefused:
    """Why there is no association. Refused for good only when the PACS was there and wanted none of the objects."""
    if assoc.rejected_contexts and not assoc.accepted_contexts:
        wanted = ", ".join(_object(str(cx.abstract_syntax), cx.transfer_syntax[0]) for cx in assoc.rejected_contexts)
        return ClassesRefused(f"{name_of(destination)} accepts no {wanted}{hint(NO_CONTEXT)}")
    if rejections:
        look_at = _look_at(rejections[0], ours=assoc.requestor.ae_title, theirs=destination.ae_title)
        return DestinationUnavailable(f"{name_of(destination)} rejected the association: {rejections[0]}{look_at}")
    why = "connection refused, lost or timed out; does it run, and is this its address?"
    return DestinationUnavailable(f"no association with {name_of(destination)}: {why}")


def _look_at(reason: str, *, ours: str, theirs: str) -> str:
    """What an administrator can look at, by the reason of an A-ASSOCIATE-RJ as pynetdicom words it (PS3.8 9.3.4)."""
    if reason in ("Temporary congestion", "Local limit exceeded"):
        return ""
    if reason == "Called AE title not recognised":
        return f"; it has another AE title than {theirs!r}"
    return f"; does it know our AE title {ours!r} and this address?"


def name_of(destination: DestinationConfig) -> str:
    """For people."""
    return f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"
