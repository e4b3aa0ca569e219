"""A real HTTP server that answers STOW-RS as it is told to, and keeps what it was sent."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pydicom

from tests.peers import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""
STEP_BYTES = 262_144


@dataclass
class Received:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def dataset(self) -> pydicom.Dataset:
        """The instance of its one part."""
        _, _, after = self.body.partition(b"\r\n\r\n")
        content, _, _ = after.rpartition(b"\r\n--")
        return pydicom.dcmread(BytesIO(content))


@dataclass
class WebServer:
    """Answers one reply after the other, the last one for ever."""

    replies: list[Callable[[Received], Reply | None]]
    """None: the connection is cut instead."""
    url: str = ""
    requests: list[Received] = field(default_factory=list)

    def reply(self, request: Received) -> Reply | None:
        """What this request is answered."""
        self.requests.append(request)
        chosen = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return chosen(request)


def stored(request: Received) -> Reply:
    """HTTP 200, and the instance named as stored (PS3.18 section 10.5.3)."""
    return 200, {}, _told("00081199", request, {})


def failed(reason: int, status: int = 409) -> Callable[[Received], Reply]:
    """The instance named as failed."""
    return lambda request: (status, {}, _told("00081198", request, {"00081197": {"vr": "US", "Value": [reason]}}))


def status(code: int, **headers: str) -> Callable[[Received], Reply]:
    """A bare status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _request: (code, named, b"")


def cut(_request: Received) -> None:
    """The connection is cut after the request."""


def slow(seconds: float) -> Callable[[Received], Reply]:
    """Stored, but late."""

    def answer(request: Received) -> Reply:
        time.sleep(seconds)
        return stored(request)

    return answer


def _told(tag: str, request: Received, more: dict[str, Any]) -> bytes:
    uid = {"00081155": {"vr": "UI", "Value": [str(request.dataset.SOPInstanceUID)]}}
    return json.dumps({tag: {"vr": "SQ", "Value": [uid | more]}}).encode()


@contextmanager
def web_server(
    *replies: Callable[[Received], Reply | None], tls: ssl.SSLContext | None = None, pause_s: float = 0.0
) -> Iterator[WebServer]:
    """A server on loopback; it pauses before each `STEP_BYTES` that it reads, as at the end of a slow line."""
    served = WebServer(list(replies))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            left = int(self.headers.get("Content-Length", 0))
            body = b""
            while left > len(body):
                time.sleep(pause_s)
                body += self.rfile.read(min(STEP_BYTES, left - len(body)))
            reply = served.reply(Received(self.command, self.path, dict(self.headers), body))
            if reply is None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            code, headers, content = reply
            try:
                self.send_response(code)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # the client has left: that is what the test is about
                self.close_connection = True

        do_GET = do_POST  # noqa: N815  (the name that http.server calls)

        def log_message(self, *_: object) -> None:
            """Nothing to say."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STEP_BYTES)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that does not trust us says no more
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    served.url = f"http{'s' if tls else ''}://{HOST}:{server.server_address[1]}/dicom-web"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
