"""OHIF as its npm package ships it, served beside a PACS's DICOMweb under one origin, so that no CORS is in play."""

from __future__ import annotations

import http.client
import json
import mimetypes
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from tests.peers.presence import need, program
from tests.peers.process import HOST

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURATION = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "showStudyList": False,
    "maxNumberOfWebWorkers": 2,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "pacs",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "pacs",
            "configuration": {
                "friendlyName": "PACS",
                "name": "pacs",
                "wadoUriRoot": "/wado",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "omitQuotationForMultipartRequest": True,
            },
        }
    ],
}
"""Its app-config.js. `omitQuotationForMultipartRequest`: Orthanc's DICOMweb 1.7 wants the media type without quotes."""
PASSED = ("Accept", "Host", "Content-Type")
KEPT = ("Content-Type", "Content-Encoding")


class Ohif:
    """A web server on loopback: the viewer, and what lies under /dicom-web passed on to the PACS."""

    def __init__(self, pacs_url: str) -> None:
        """`pacs_url`: where the PACS serves /dicom-web, e.g. `Orthanc.url`."""
        need("ohif")
        pacs, dist = urlsplit(pacs_url).netloc, program("@ohif/app") / "dist"
        handler = type("Handler", (_Handler,), {"pacs": pacs, "dist": dist})
        self._server = _Server((HOST, 0), handler)
        self.url = f"http://{HOST}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="ohif", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Nothing: a browser drops connections when it leaves a page."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pacs: str
    dist: Path

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/dicom-web"):
            self._pass_on()
        elif path == "/app-config.js":
            self._answer(f"window.config = {json.dumps(CONFIGURATION)};".encode(), "text/javascript")
        else:
            file = (self.dist / path.lstrip("/")).resolve()
            if not file.is_file() or self.dist not in file.parents:
                file = self.dist / "index.html"  # the viewer's own routes
            self._answer(file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream")

    def _answer(self, body: bytes, content_type: str) -> None:
        self._send(200, {"Content-Type": content_type}, body)

    def _pass_on(self) -> None:
        connection = http.client.HTTPConnection(self.pacs, timeout=60)
        try:
            headers = {name: self.headers[name] for name in PASSED if name in self.headers}
            connection.request("GET", self.path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except OSError:
            self._send(502, {"Content-Type": "text/plain"}, b"the PACS does not answer")
            return
        finally:
            connection.close()
        self._send(answer.status, {name: answer.headers[name] for name in KEPT if name in answer.headers}, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True  # the page was left meanwhile

    def log_message(self, *_: object) -> None:
        """Nothing: the page's own errors say more."""
