"""Sending by STOW-RS (PS3.18 section 10.5): one instance in each request, so that each gets its own answer at once.

sent       HTTP 2xx, and the response names the instance as stored: 200 alone is not enough (Orthanc gives it to a part
           that it passes over)
later      nobody there, no answer, 408, 425, 429, 5xx (after the time that Retry-After asks for), a failure reason that
           time can heal, or 2xx without a word of the instance
never      any other 4xx or 3xx, or a failure reason about the object itself
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from dicom_node.config_peers import DestinationConfig
from dicom_node.config_sections import NodeConfig
from dicom_node.errors import DestinationRefused, DestinationUnavailable
from dicom_node.judgement import hexadecimal, hint, judge
from dicom_node.transport import Answer, Outgoing, always, later, never

DICOM_JSON = "application/dicom+json"
LARGEST_RESPONSE_BYTES = 4_194_304
"""The response to one instance is some hundred bytes; more is no answer to it."""
LONGEST_WAIT_S = 86_400.0
"""What Retry-After may ask for."""
MAY_HEAL = frozenset({408, 425, 429})
"""Time-out, too early, too many requests; 5xx may heal too."""
FORM_REFUSED = frozenset({409, 415})
"""Conflict: none of the instances was stored (PS3.18 table 10.5.3-1). Unsupported media type: not this syntax."""
STATUS_HINTS = {
    301: "; the server has moved: correct `url`",
    302: "; the server sends elsewhere: correct `url`",
    307: "; the server sends elsewhere: correct `url`",
    308: "; the server has moved: correct `url`",
    401: "; the server wants other credentials: `username` and `password`, or `token`",
    403: "; the server does not let these credentials store",
    404: "; there is no STOW-RS at `url`: it ends where `/studies` begins",
    405: "; there is no STOW-RS at `url`: it ends where `/studies` begins",
    413: "; the server takes no object of this size",
    415: "; the server does not take this SOP class or transfer syntax",
}
PROCESSING_FAILURE = 0x0110
"""Stands in for a reason that a response leaves out."""
REFERENCED_SOPS, FAILED_SOPS = "00081199", "00081198"
INSTANCE_UID, FAILURE_REASON = "00081155", "00081197"


def send(
    destination: DestinationConfig,
    node: NodeConfig,  # noqa: ARG001  (part of transport.Transport: who we are is in the credentials here)
    files: Sequence[Outgoing],
    on_answer: Callable[[Answer], None],
    *,
    wanted: Callable[[int], bool] = always,
) -> None:
    """Send files one by one (`transport.Transport.send`). When the server falls silent, the rest waits for its turn."""
    silent = ""
    with _session(destination) as session:
        for file in files:
            if not wanted(file.key):
                continue
            if silent:
                on_answer(later(file.key, None, "the server was lost before this file"))
                continue
            try:
                on_answer(_send_one(session, destination, file))
            except DestinationUnavailable as error:
                silent = str(error)
                on_answer(later(file.key, None, silent))


def echo(destination: DestinationConfig, node: NodeConfig) -> str:  # noqa: ARG001  (part of transport.Transport)
    """The HTTP status of a search for one study (QIDO-RS): harmless, and it needs the same URL and credentials.

    Raises DestinationUnavailable or DestinationRefused when it is no success.
    """
    with _session(destination) as session:
        status, headers, _ = _exchange(
            session, destination, "GET", params={"limit": "1"}, headers={"Accept": DICOM_JSON}
        )
    text = f"{name_of(destination)} answered HTTP {status}{STATUS_HINTS.get(status, '')}"
    if status in MAY_HEAL or status >= 500:
        wait_s = _asked_wait_s(headers)
        raise DestinationUnavailable(text + (f"; it asks for {wait_s:.0f} s of patience" if wait_s else ""))
    if not 200 <= status < 300:
        raise DestinationRefused(text)
    return f"HTTP {status}"


def _send_one(session: requests.Session, destination: DestinationConfig, file: Outgoing) -> Answer:
    """One request. Raises DestinationUnavailable when there was no answer to it."""
    try:
        content = file.path.read_bytes()
    except OSError as error:  # it was there a moment ago; a shared folder may come back
        return later(file.key, None, f"result file: {type(error).__name__}")
    boundary = secrets.token_hex(16)
    headers = {
        "Accept": DICOM_JSON,
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
    }
    status, answered, body = _exchange(
        session, destination, "POST", data=_multipart(content, boundary), headers=headers
    )
    return judge_response(file, status, answered, body)


def _multipart(content: bytes, boundary: str) -> BytesIO:
    """The one part of a request (PS3.18 section 8.6.1.2; RFC 2387), to be read bit by bit.

    Bytes would be sent in one go, and all of them within the destination's time-out, however slow the way there is.

    Its type is bare: Orthanc passes over a part whose type names the transfer syntax, which the file has anyway.
    """
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\nContent-Length: {len(content)}\r\n\r\n"
    return BytesIO(b"".join((head.encode(), content, f"\r\n--{boundary}--\r\n".encode())))


def judge_response(file: Outgoing, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What an HTTP response means for the one instance of its request."""
    code = f"HTTP {status}"
    text = f"STOW-RS answered {code}"
    if status in MAY_HEAL or status >= 500:
        return later(file.key, code, text, wait_s=_asked_wait_s(headers))
    stored, reasons = _named(body)
    for reason in reasons[:1]:
        answer = judge(file.key, reason, f"{text} with failure reason {hexadecimal(reason)}")
        return answer if not answer.sent else Answer(file.key, sent=True, retryable=False, status=code)
    if 200 <= status < 300 and stored:
        return Answer(file.key, sent=True, retryable=False, status=code)
    if 200 <= status < 300:
        return later(file.key, code, f"{text} and does not say what became of the instance")
    about_the_form = status in FORM_REFUSED
    known = STATUS_HINTS.get(status) or (hint(0x0122) if about_the_form else "")
    return never(file.key, code, text + known, form_refused=about_the_form)


def _named(body: bytes) -> tuple[bool, list[int]]:
    """Whether a response names an instance as stored, and the reasons of those that it names as failed."""
    try:
        told = json.loads(body)
        told = told[0] if isinstance(told, list) else told
        stored = [_value(item, INSTANCE_UID) for item in told.get(REFERENCED_SOPS, {}).get("Value", ())]
        failed = [_value(item, FAILURE_REASON) for item in told.get(FAILED_SOPS, {}).get("Value", ())]
        return any(stored), [int(reason or PROCESSING_FAILURE) for reason in failed]
    except (ValueError, TypeError, AttributeError, IndexError):  # no JSON, or not that of DICOM
        return False, []


def _value(item: Mapping[str, Any], tag: str) -> Any:
    """The first value of an element in the DICOM JSON model (PS3.18 F.2), or None."""
    return next(iter(item.get(tag, {}).get("Value", ())), None)


def _exchange(
    session: requests.Session, destination: DestinationConfig, method: str, **arguments: Any
) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of a response. Raises DestinationUnavailable when there is none in time."""
    try:
        with session.request(
            method,
            f"{destination.url.rstrip('/')}/studies",
            timeout=destination.timeout_s,
            allow_redirects=False,
            stream=True,
            **arguments,
        ) as response:
            deadline = time.monotonic() + destination.timeout_s
            return response.status_code, response.headers, b"".join(_limited(response, deadline))
    except requests.Timeout as error:
        raise DestinationUnavailable(f"{name_of(destination)} did not answer in {destination.timeout_s:g} s") from error
    except (OSError, requests.RequestException) as error:  # refused, cut, no TLS, a TLS file that cannot be read
        raise DestinationUnavailable(f"no answer from {name_of(destination)}: {_why(error)}") from error


def _limited(response: requests.Response, deadline: float) -> Iterator[bytes]:
    """The body, as long as it is short and comes in time. Raises requests.Timeout."""
    size = 0
    for chunk in response.iter_content(65_536):
        size += len(chunk)
        if size > LARGEST_RESPONSE_BYTES or time.monotonic() > deadline:
            raise requests.Timeout
        yield chunk


def _why(error: BaseException) -> str:
    """The kinds of error from the outermost to the cause; their texts may hold what the server said."""
    kinds = [type(error).__name__]
    while (cause := error.__cause__ or error.__context__) is not None and len(kinds) < 4:
        kinds.append(type(cause).__name__)
        error = cause
    return " from ".join(dict.fromkeys(kinds))


def _asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After (RFC 9110 section 10.2.3) in seconds, from a number or a date; None when there is none."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text), LONGEST_WAIT_S)
    try:
        asked = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = asked if asked.tzinfo else asked.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT_S)


class _Bearer(AuthBase):
    """A bearer token (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


@contextmanager
def _session(destination: DestinationConfig) -> Iterator[requests.Session]:
    """Connections to one destination with its credentials; nothing is taken from the environment on the way."""
    with requests.Session() as session:
        session.trust_env = False  # no proxy, no .netrc: config.toml says it all
        session.headers["User-Agent"] = "dicom-node"
        tls = destination.tls
        session.verify = str(tls.ca_certificates) if tls.ca_certificates else True
        if tls.certificate:
            session.cert = (str(tls.certificate), str(tls.private_key)) if tls.private_key else str(tls.certificate)
        if destination.token:
            session.auth = _Bearer(destination.token)
        elif destination.username:
            session.auth = HTTPBasicAuth(destination.username.encode(), destination.password.encode())
        yield session


def name_of(destination: DestinationConfig) -> str:
    """For people."""
    return f"{destination.name} ({destination.url})"
