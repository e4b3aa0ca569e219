"""Who may open an association, and how many: closed by default but for loopback (PS3.8 Table 9-21 for the reasons)."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from dicom_node.errors import ArchiveError
from dicom_node.negotiation import APPLICATION_CONTEXT_NAME

if TYPE_CHECKING:
    from dicom_node.archive import Archive
    from dicom_node.config import Config
    from dicom_node.negotiation import AssociateRequest


@dataclass(frozen=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ, and the word for the log."""

    result: int
    source: int
    reason: int
    word: str


APPLICATION_CONTEXT_NOT_SUPPORTED = Rejection(1, 1, 2, "application context not supported")
CALLING_AE_TITLE_NOT_RECOGNIZED = Rejection(1, 1, 3, "calling AE title or address not recognized")
CALLED_AE_TITLE_NOT_RECOGNIZED = Rejection(1, 1, 7, "called AE title not recognized")
PROTOCOL_VERSION_NOT_SUPPORTED = Rejection(1, 2, 2, "protocol version not supported")
TOO_MANY_ASSOCIATIONS = Rejection(2, 3, 2, "too many associations")
OUT_OF_SPACE = Rejection(2, 3, 2, "free space below the watermark")


class Admission:
    """Checks requests against config and counts the associations that are open. For many threads."""

    def __init__(self, config: Config, archive: Archive) -> None:
        self._listener = config.listener
        self._ae_title = config.node.ae_title
        self._archive = archive
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        """Since start, by the word of the rejection."""

    def enter(self, request: AssociateRequest, address: str) -> Rejection | None:
        """Count the association as open, or say why not; then there is nothing to leave."""
        calling = request.calling_ae_title
        rejection = self._reject(request, address)
        limit = self._limit(calling, address) or 0
        with self._lock:
            if rejection is None and (
                self._open.total() >= self._listener.max_associations or self._open[calling] >= limit
            ):
                rejection = TOO_MANY_ASSOCIATIONS
            if rejection is None:
                self._open[calling] += 1
            else:
                self.refusals[rejection.word] += 1
        return rejection

    def leave(self, request: AssociateRequest) -> None:
        """The association ended."""
        with self._lock:
            self._open[request.calling_ae_title] -= 1

    def has_space(self) -> bool:
        """Whether the archive's free space is above the watermark."""
        try:
            return self._archive.free_bytes() >= self._listener.min_free_bytes
        except ArchiveError:
            return False

    def _reject(self, request: AssociateRequest, address: str) -> Rejection | None:
        """What can be said against the request, apart from numbers."""
        if not request.protocol_version & 1:
            return PROTOCOL_VERSION_NOT_SUPPORTED
        if request.application_context_name != APPLICATION_CONTEXT_NAME:
            return APPLICATION_CONTEXT_NOT_SUPPORTED
        if self._limit(request.calling_ae_title, address) is None:
            return CALLING_AE_TITLE_NOT_RECOGNIZED
        if self._listener.check_called_ae_title and request.called_ae_title != self._ae_title:
            return CALLED_AE_TITLE_NOT_RECOGNIZED
        if set(request.abstract_syntaxes).intersection(self._listener.sop_classes) and not self.has_space():
            return OUT_OF_SPACE
        return None

    def _limit(self, calling_ae_title: str, address: str) -> int | None:
        """How many associations the peer may have, None when it is not known."""
        ip = ip_address(address.partition("%")[0])
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        for peer in self._listener.peer:
            allowed = not peer.addresses or any(ip in ip_network(one, strict=False) for one in peer.addresses)
            if peer.ae_title == calling_ae_title and allowed:
                return peer.max_associations
        return self._listener.max_associations if self._listener.allow_loopback and ip.is_loopback else None
