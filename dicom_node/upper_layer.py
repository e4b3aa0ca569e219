"""The DICOM upper layer on a connected socket: PDUs in, PDUs out (PS3.8 section 9.3).

A `Wire` reads through one preallocated buffer and hands P-DATA out in pieces as they arrive, so a PDU of any length
costs no more memory than the buffer. Nothing here knows what the pieces mean.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BUFFER_BYTES = 512 * 1024
"""A CT slice of 512 x 512 x 16 bit; larger reads gained nothing."""
MIN_BYTES_PER_WINDOW = 64 * 1024
"""A message that is under way must bring this much in each idle timeout, so that one byte a minute is not progress."""
LINGER_S = 1.0
"""After an abort or a rejection, how long the peer may take to close (ARTIM of PS3.8 section 9.1.5, kept short)."""
LINGER_BYTES = 8 * 1024 * 1024


class PduType(IntEnum):
    """First byte of a PDU: PS3.8 section 9.3."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


class AbortReason(IntEnum):
    """Reason of an A-ABORT whose source is the service provider: PS3.8 Table 9-26."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class PeerGone(Exception):
    """The peer closed the connection or the network broke."""


class TimedOut(Exception):
    """The peer was silent, or too slow, for longer than the timeout."""


class ProtocolError(Exception):
    """The peer broke PS3.8; the association ends with an A-ABORT that carries `reason`."""

    def __init__(self, sentence: str, reason: AbortReason) -> None:
        super().__init__(sentence)
        self.reason = reason


RELEASE_RP = struct.pack(">BBLL", PduType.RELEASE_RP, 0, 4, 0)


def abort_pdu(reason: AbortReason | None) -> bytes:
    """A-ABORT (PS3.8 section 9.3.8) from the service provider, or from the service user when `reason` is None."""
    source, code = (0, 0) if reason is None else (2, int(reason))
    return struct.pack(">BBLBBBB", PduType.ABORT, 0, 4, 0, 0, source, code)


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 section 9.3.4, Table 9-21)."""
    return struct.pack(">BBLBBBB", PduType.ASSOCIATE_RJ, 0, 4, 0, result, source, reason)


def p_data_pdus(context_id: int, payload: bytes, *, is_command: bool, max_pdu_bytes: int) -> bytes:
    """P-DATA-TF PDUs (PS3.8 section 9.3.5) that carry one command set or dataset.

    `max_pdu_bytes` is what the peer takes, 0 for any length.
    """
    step = max(max_pdu_bytes - 6, 1) if max_pdu_bytes else max(len(payload), 1)
    pdus = []
    for start in range(0, len(payload), step):
        piece = payload[start : start + step]
        flags = int(is_command) | (2 if start + step >= len(payload) else 0)
        header = struct.pack(">BBLLBB", PduType.P_DATA_TF, 0, len(piece) + 6, len(piece) + 2, context_id, flags)
        pdus.append(header + piece)
    return b"".join(pdus)


class Wire:
    """One connected socket, read through one buffer. For one thread; `interrupt` may be called from another."""

    def __init__(self, sock: socket.socket, *, timeout_s: float) -> None:
        self._socket = sock
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._window_began = 0.0
        self._window_bytes = 0
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        self.interrupted = False
        self.bytes_received = 0
        sock.settimeout(timeout_s)

    def set_timeouts(self, timeout_s: float, *, deadline_s: float | None = None) -> None:
        """Silence of `timeout_s` is an error; so is reading on after `deadline_s` from now."""
        self._timeout_s = timeout_s
        self._deadline = None if deadline_s is None else time.monotonic() + deadline_s
        self._socket.settimeout(timeout_s)

    def begin_message(self) -> None:
        """Start counting the progress of a message."""
        self._window_began = time.monotonic()
        self._window_bytes = 0

    def end_message(self) -> None:
        """The message is whole; until the next one silence is all that counts."""
        self._window_began = 0.0

    def read(self, size: int) -> memoryview:
        """Exactly `size` bytes (no more than the buffer holds), valid until the next read."""
        while self._end - self._start < size:
            if self._start + size > BUFFER_BYTES:
                self._compact()
            self._fill()
        piece = self._view[self._start : self._start + size]
        self._start += size
        return piece

    def stream(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes in pieces as they arrive, each valid until the next one is asked for."""
        while size:
            if self._start == self._end:
                self._fill()
            piece = self._view[self._start : min(self._end, self._start + size)]
            self._start += len(piece)
            size -= len(piece)
            yield piece

    def has_more(self, within_s: float) -> bool:
        """Whether the peer said something, or left, or `interrupt` was called, within this time."""
        if self._start != self._end or self.interrupted:
            return True
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        poller = select.poll()  # `select` takes no file descriptor above 1023
        poller.register(self._socket, select.POLLIN)
        return bool(poller.poll(within_s * 1000.0))

    def send(self, data: bytes) -> None:
        """Send all of `data`. Raises PeerGone or TimedOut."""
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise TimedOut("the peer does not read what it is sent") from error
        except OSError as error:
            raise PeerGone(str(error)) from error

    def interrupt(self) -> None:
        """Make the reading thread stop at its next read, at once when it is waiting."""
        self.interrupted = True
        with suppress(OSError):
            # Not TLS's own `shutdown`: after that what is sent goes out in plain text.
            socket.socket.shutdown(self._socket, socket.SHUT_RD)

    def hang_up(self, last_words: bytes) -> None:
        """Send `last_words` and nothing after them; `close` must follow."""
        with suppress(OSError):
            if last_words:
                self._socket.settimeout(LINGER_S)
                self._socket.sendall(last_words)
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Give the peer a moment to close first: closing with unread bytes makes the kernel send RST, and the peer
        could lose our last words.
        """
        ends = time.monotonic() + LINGER_S
        drained = 0
        with suppress(OSError):
            self._socket.settimeout(LINGER_S)
            while time.monotonic() < ends and drained < LINGER_BYTES:
                count = self._socket.recv_into(self._view)
                if not count:
                    break
                drained += count
        with suppress(OSError):
            self._socket.close()

    def _compact(self) -> None:
        rest = bytes(self._view[self._start : self._end])
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _fill(self) -> None:
        """Receive at least one byte. Raises PeerGone or TimedOut."""
        if self._start == self._end:
            self._start = self._end = 0
        if self.interrupted:  # also when bytes keep coming
            raise PeerGone("this node is stopping")
        try:
            count = self._socket.recv_into(self._view[self._end :])
        except TimeoutError as error:
            raise TimedOut(f"nothing came for {self._timeout_s:g} s") from error
        except OSError as error:
            raise PeerGone(type(error).__name__) from error
        if not count:
            raise PeerGone("closed")
        self._end += count
        self.bytes_received += count
        self._check_progress(count)

    def _check_progress(self, count: int) -> None:
        now = time.monotonic()
        if self._deadline is not None and now > self._deadline:
            raise TimedOut("the peer took too long")
        self._window_bytes += count
        if self._window_began and now - self._window_began > self._timeout_s:
            if self._window_bytes < MIN_BYTES_PER_WINDOW:
                raise TimedOut(f"{self._window_bytes} bytes in {self._timeout_s:g} s is too slow")
            self._window_began, self._window_bytes = now, 0
