"""Association negotiation (PS3.8 section 9.3.2-4, PS3.7 Annex D): pynetdicom decodes, matches and encodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import negotiate_as_acceptor

from dicom_node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.upper_layer import AbortReason, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_REQUEST_BYTES = 1024 * 1024
"""128 presentation contexts with 30 transfer syntaxes each are some 250 KiB."""
APPLICATION_CONTEXT_NAME = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ, decoded."""

    calling_ae_title: str
    called_ae_title: str
    protocol_version: int
    application_context_name: str
    abstract_syntaxes: tuple[str, ...]
    peer_max_pdu_bytes: int
    """What the peer takes; 0 for any length."""
    primitive: Any
    """pynetdicom's A_ASSOCIATE."""


@dataclass(frozen=True)
class Acceptance:
    """The answer to a request, and what was agreed on."""

    contexts: Mapping[int, Context]
    pdu: bytes
    """A-ASSOCIATE-AC."""


def read_request(pdu: bytes) -> AssociateRequest:
    """Decode a whole A-ASSOCIATE-RQ PDU. Raises ProtocolError."""
    try:
        decoded = A_ASSOCIATE_RQ()
        decoded.decode(b"".join((pdu[:10], _blanks_for_nul(pdu[10:26]), _blanks_for_nul(pdu[26:42]), pdu[42:])))
        primitive = decoded.to_primitive()
        request = AssociateRequest(
            calling_ae_title=str(primitive.calling_ae_title).strip(),
            called_ae_title=str(primitive.called_ae_title).strip(),
            protocol_version=int(decoded.protocol_version),
            application_context_name=str(primitive.application_context_name or ""),
            abstract_syntaxes=tuple(str(c.abstract_syntax) for c in primitive.presentation_context_definition_list),
            peer_max_pdu_bytes=_peer_max_pdu_bytes(primitive.user_information),
            primitive=primitive,
        )
    # The decoder has no error class of its own: on garbage it raises whatever its code runs into.
    except Exception as error:
        raise ProtocolError("the A-ASSOCIATE-RQ cannot be decoded", AbortReason.INVALID_PARAMETER) from error
    return request


def _blanks_for_nul(ae_title: bytes) -> bytes:
    """An AE title padded as PS3.5 wants it: there are modalities that end theirs with NUL, as DCMTK lets them."""
    return ae_title.partition(b"\0")[0].ljust(len(ae_title))


def accept(
    request: AssociateRequest,
    *,
    sop_classes: Sequence[str],
    service_sop_classes: Sequence[str] = (),
    transfer_syntaxes: Sequence[str],
    max_pdu_bytes: int,
) -> Acceptance:
    """Match the peer's presentation contexts with ours and write the A-ASSOCIATE-AC.

    For `service_sop_classes` this node plays both roles: the peer may be their SCU or, as it says by role selection,
    their SCP; their datasets are small and travel uncompressed.

    `max_pdu_bytes` is what this node takes, 0 for any length. Where a context offers several transfer syntaxes, the
    first of `transfer_syntaxes` among them is chosen.
    """
    ours = [build_context(VERIFICATION, list(UNCOMPRESSED))]
    ours += [build_context(uid, list(transfer_syntaxes)) for uid in sop_classes]
    for uid in service_sop_classes:
        context = build_context(uid, list(UNCOMPRESSED))
        context.scu_role = context.scp_role = True
        ours.append(context)
    offered = request.primitive.presentation_context_definition_list
    results, role_items = negotiate_as_acceptor(offered, ours, _offered_roles(request.primitive.user_information))
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT_NAME
    primitive.calling_ae_title = request.primitive.calling_ae_title
    primitive.called_ae_title = request.primitive.called_ae_title
    primitive.result, primitive.result_source = 0x00, 0x01
    primitive.presentation_context_definition_results_list = results
    primitive.user_information = [*_our_user_information(max_pdu_bytes), *role_items]
    encoded = A_ASSOCIATE_AC()
    encoded.from_primitive(primitive)
    contexts = {
        int(context.context_id or 0): Context(str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for context in results
        if context.result == 0
    }
    return Acceptance(contexts, bytes(encoded.encode()))


def _our_user_information(max_pdu_bytes: int) -> list[Any]:
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu_bytes
    class_uid = ImplementationClassUIDNotification()
    class_uid.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version_name = ImplementationVersionNameNotification()
    version_name.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, class_uid, version_name]


def _peer_max_pdu_bytes(user_information: Sequence[Any]) -> int:
    lengths = (getattr(item, "maximum_length_received", None) for item in user_information)
    return next((int(length) for length in lengths if length is not None), 0)


def _offered_roles(user_information: Sequence[Any]) -> dict[Any, Any]:
    """SCP/SCU role selection (PS3.7 section D.3.3.4) by SOP Class UID."""
    return {
        item.sop_class_uid: (item.scu_role, item.scp_role) for item in user_information if hasattr(item, "scu_role")
    }
