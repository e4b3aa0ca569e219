"""The listener: accepts connections and gives each its own thread (dicom_node.association)."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from dicom_node import listener_locks
from dicom_node.admission import Admission
from dicom_node.association import AcceptedAssociation
from dicom_node.errors import ConfigError
from dicom_node.intake import Intake
from dicom_node.reception import Services

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import sqlalchemy as sa

    from dicom_node.archive import Archive
    from dicom_node.config import Config
    from dicom_node.config_peers import TlsConfig
    from dicom_node.reception import Service

    AssociationClosed = Callable[[int, frozenset[int]], None]
    """Called with the association's id and the ids of the studies it changed, after its row is closed."""

log = structlog.get_logger()

BACKLOG = 128
SPARE_CONNECTIONS = 32
"""Connections beyond `max_associations` that may negotiate, so that each can be told why it is refused."""
ACCEPT_RETRY_S = 0.1
LAST_JOIN_S = 5.0
"""After associations were interrupted, how long a store that is under way may take to end."""


class Listener:
    """The SCP of one process. `start` returns when it listens; `stop` when every association has ended."""

    def __init__(
        self,
        config: Config,
        engine: sa.Engine,
        archive: Archive,
        *,
        listener_id: str,
        on_association_closed: AssociationClosed | None = None,
        services: Mapping[int, Service] | None = None,
        service_sop_classes: tuple[str, ...] = (),
    ) -> None:
        """`services` are DIMSE services beside C-STORE and C-ECHO, by Command Field, for `service_sop_classes`."""
        self._config = config
        self._archive = archive
        self._listener_id = listener_id
        self._lock_folder = config.node.data_dir / "listeners"
        self._on_association_closed = on_association_closed
        self.intake = Intake(
            engine, archive, listener_id=listener_id, same_uid_other_bytes=config.listener.same_uid_other_bytes
        )
        self.admission = Admission(config, archive)
        self._services = Services(
            config.listener, self.admission, archive, self.intake, services or {}, service_sop_classes
        )
        self._tls = server_context(config.listener.tls) if config.listener.tls.enabled else None
        self._socket: socket.socket | None = None
        self._lock: listener_locks.ListenerLock | None = None
        self._acceptor: threading.Thread | None = None
        self._associations: dict[threading.Thread, Callable[[], None]] = {}
        """Thread of each connection -> what makes it end."""
        self._associations_lock = threading.Lock()
        self._stopping = False

    @property
    def port(self) -> int:
        """The port it listens on, also when config said 0 (any free one)."""
        if self._socket is None:
            raise RuntimeError("the listener has not been started")
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Clear up after dead predecessors and listen. Raises ConfigError when the address cannot be had."""
        self._lock = listener_locks.ListenerLock(self._lock_folder, self._listener_id)
        self._clear_up()
        self._socket = _listening_socket(
            self._config.listener.host,
            self._config.listener.port,
            shared=self._config.listener.acceptor_processes > 1,
        )
        self._acceptor = threading.Thread(target=self._accept, args=(self._socket,), name="acceptor", daemon=True)
        self._acceptor.start()

    def stop(self, grace_s: float) -> None:
        """Accept no more, let associations end for `grace_s`, abort the rest. A second call does nothing."""
        if self._stopping:
            return
        self._stopping = True
        if self._socket is not None and self._acceptor is not None:
            # Wakes the accepting thread on Linux; closing alone would not.
            self._socket.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
            self._socket.close()
        self._join(grace_s)
        with self._associations_lock:
            remaining = list(self._associations.values())
        for interrupt in remaining:
            interrupt()
        self.intake.give_up_closing()
        self._join(LAST_JOIN_S)
        if self._lock is not None:
            with self._associations_lock:
                under_way = bool(self._associations)
            self._lock.release(in_order=not (under_way or self.intake.left_open))

    def _clear_up(self) -> None:
        """Half-received files and open rows of listeners that died."""
        swept = self._archive.sweep_incoming(older_than=time.time())
        dead = listener_locks.dead_listeners(self._lock_folder)
        closed = self.intake.close_associations_of(dead)
        for listener_id in dead:
            listener_locks.forget(self._lock_folder, listener_id)
        if swept or closed:
            log.warning("cleared up after a listener that died", half_received=swept, open_associations=closed)

    def _accept(self, listening: socket.socket) -> None:
        while not self._stopping:
            try:
                sock, address = listening.accept()
            except OSError as error:
                if not self._stopping:
                    log.warning("cannot accept a connection", error=type(error).__name__, errno=error.errno)
                    time.sleep(ACCEPT_RETRY_S)
                continue
            self._start_association(sock, str(address[0]))

    def _start_association(self, sock: socket.socket, address: str) -> None:
        with self._associations_lock:
            if len(self._associations) >= self._config.listener.max_associations + SPARE_CONNECTIONS:
                log.warning("too many connections, closed one at once", peer=address)
                sock.close()
                return
            thread = threading.Thread(
                target=self._serve, args=(sock, address), name=f"association {address}", daemon=True
            )
            self._associations[thread] = partial(_shut_down, sock)
        try:
            thread.start()
        except RuntimeError:  # no memory, or the system's limit of threads: there will be some when others have ended
            with self._associations_lock:
                del self._associations[thread]
            log.error("no thread for a connection, closed at once: raise the limit of tasks or memory", peer=address)
            sock.close()

    def _serve(self, sock: socket.socket, address: str) -> None:
        """The whole life of one connection, in its own thread."""
        me = threading.current_thread()
        try:
            wrapped = self._handshake(sock, address)
            if wrapped is None:
                return
            association = AcceptedAssociation(wrapped, address, self._services)
            with self._associations_lock:
                self._associations[me] = association.interrupt
            try:
                how = association.serve()
                self._note_end(association, how)
            finally:
                association.close()
        finally:
            with self._associations_lock:
                del self._associations[me]

    def _handshake(self, sock: socket.socket, address: str) -> socket.socket | None:
        """TLS, when config asks for it; None when the peer failed."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(self._config.listener.negotiation_timeout_s)
        if self._tls is None:
            return sock
        try:
            return self._tls.wrap_socket(sock, server_side=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            log.warning("TLS handshake failed", peer=address, why=str(reason))
            sock.close()
            return None

    def _note_end(self, association: AcceptedAssociation, how: str) -> None:
        record = association.record
        if record is None:
            return
        self.intake.close(record, how)
        if record.id is not None and self._on_association_closed is not None:
            self._on_association_closed(record.id, frozenset(record.study_ids))

    def _join(self, timeout_s: float) -> None:
        ends = time.monotonic() + timeout_s
        with self._associations_lock:
            threads = list(self._associations)
        for thread in threads:
            thread.join(max(0.0, ends - time.monotonic()))


def _shut_down(sock: socket.socket) -> None:
    """End a TLS handshake that is under way."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def server_context(tls: TlsConfig) -> ssl.SSLContext:
    """TLS 1.2 or newer, a certificate of ours, and one of the peer's that `ca_certificates` vouches for.

    Raises ConfigError.
    """
    if tls.certificate is None or tls.ca_certificates is None:
        raise ConfigError("listener.tls needs certificate, private_key and ca_certificates: both sides show one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # Nothing more to read (`Wire.interrupt`) is no reason to say nothing more. PDUs say themselves where they end.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    try:
        context.load_cert_chain(tls.certificate, tls.private_key)
        context.load_verify_locations(tls.ca_certificates)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"listener.tls cannot be used: {error}") from error
    return context


def _listening_socket(host: str, port: int, *, shared: bool) -> socket.socket:
    """A listening socket; `shared` lets several processes accept on one port (SO_REUSEPORT). Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return sock
