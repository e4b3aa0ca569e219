"""STOW-RS to real servers: what was taken, what to try again, what never; and the same outbox as for C-STORE."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pydicom
import pytest

from dicom_node import stow
from dicom_node.config_peers import DestinationConfig, TlsConfig
from dicom_node.config_sections import NodeConfig
from dicom_node.db import now
from dicom_node.deliverer import deliver_due
from dicom_node.errors import DestinationRefused, DestinationUnavailable
from dicom_node.states import DeliveryState
from dicom_node.tables import Delivery
from dicom_node.transport import Answer, Outgoing, outgoing
from tests.dicom_factory import ct_series, write
from tests.dicom_node.certificates import make_certificates
from tests.dicom_node.house import House
from tests.dicom_node.web_server import cut, failed, slow, status, stored, web_server
from tests.peers import Orthanc, free_port

NODE = NodeConfig()
TIMES = "[delivery]\nretry_first_s = 0.01\nretry_longest_s = 0.02\n"
FORMS = '[[results.profile]]\nname = "new"\nseg = ["seg-labelmap", "seg-binary"]\n'


def at(url: str, **options: object) -> DestinationConfig:
    """A destination."""
    return DestinationConfig.model_validate({"name": "cloud", "url": url, "timeout_s": 5.0} | options)


def section(url: str, **options: str) -> str:
    """The same as a section of config.toml."""
    lines = "".join(f'{key} = "{value}"\n' for key, value in options.items())
    return f'[[delivery.destination]]\nname = "cloud"\nurl = "{url}"\ntimeout_s = 5.0\n{lines}'


def send(destination: DestinationConfig, paths: list[Path]) -> list[Answer]:
    """The answers, in order."""
    answers: list[Answer] = []
    stow.send(destination, NODE, [outgoing(n, path) for n, path in enumerate(paths)], answers.append)
    return answers


def deliver(house: House) -> int:
    """One round of the outbox, whatever was to be waited for."""
    house.change(Delivery, not_before=None)
    return deliver_due(house.database, house.config, house.config.archive_dir)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two CT slices as files."""
    return write(ct_series(slices=2, rows=4, columns=4), tmp_path / "ct")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a server and a client."""
    return make_certificates(tmp_path_factory.mktemp("certificates"), "server", "client")


@pytest.mark.peer("orthanc")
def test_orthanc_takes_results_by_stow_and_refuses_what_it_must(
    orthanc: Orthanc, make_small_house: Callable[..., House]
) -> None:
    """Into the outbox and out of it, as by C-STORE; twice is once."""
    house = make_small_house(TIMES + section(orthanc.dicomweb_url))
    house.finish(house.claimed())
    (destination,) = house.config.delivery.destination
    assert stow.echo(destination, NODE) == "HTTP 200"
    assert deliver(house) == 2
    assert [(d.state, d.last_status) for d in house.all(Delivery)] == [(DeliveryState.SENT, "HTTP 200")] * 2
    assert sorted(one.modality for one in orthanc.series()) == ["SEG", "SR"]
    paths = sorted((house.config.archive_dir / "results").glob("*.dcm"))
    assert all(answer.sent for answer in send(destination, paths))
    assert len(orthanc.instances()) == 2
    broken = house.folder / "broken.dcm"
    broken.write_bytes(b"no DICOM at all")
    answers: list[Answer] = []
    stow.send(destination, NODE, [Outgoing(5, broken, "1.2", "1.2.840.10008.1.2.1")], answers.append)
    assert [(a.key, a.sent, a.retryable) for a in answers] == [(5, False, False)], answers
    with pytest.raises(DestinationRefused, match=r"HTTP 404; there is no STOW-RS at `url`"):
        stow.echo(at(f"{orthanc.url}/nowhere"), NODE)


def test_a_file_arrives_bit_by_bit_in_a_request_of_its_own(files: list[Path]) -> None:
    """As PS3.18 wants it."""
    with web_server(stored) as server:
        answers = send(at(server.url + "/"), files)
        assert [(a.key, a.sent, a.status) for a in answers] == [(0, True, "HTTP 200"), (1, True, "HTTP 200")]
        assert [(r.method, r.path) for r in server.requests] == [("POST", "/dicom-web/studies")] * 2
        for request, path in zip(server.requests, files, strict=True):
            assert path.read_bytes() in request.body
            assert request.headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
            assert b"\r\nContent-Type: application/dicom\r\n" in request.body


@pytest.mark.parametrize(
    ("reply", "sent", "retryable", "form_refused", "said"),
    [
        (stored, True, False, False, "HTTP 200"),
        (status(200), False, True, False, "HTTP 200"),
        (lambda _: (200, {}, b"<xml/>"), False, True, False, "HTTP 200"),
        (lambda _: (200, {}, b'{"00081199": {"vr": "SQ"}}'), False, True, False, "HTTP 200"),
        (status(202), False, True, False, "HTTP 202"),
        (failed(0xA700), False, True, False, "0xA700"),
        (failed(0xA700, 202), False, True, False, "0xA700"),
        (failed(0x0110, 200), False, True, False, "0x0110"),
        (failed(0x0122), False, False, True, "0x0122"),
        (failed(0x0122, 200), False, False, True, "0x0122"),
        (failed(0xC122), False, False, True, "0xC122"),
        (failed(0x0124), False, False, False, "0x0124"),
        (failed(0x0111), True, False, False, "HTTP 409"),
        (status(409), False, False, True, "HTTP 409"),
        (status(415), False, False, True, "HTTP 415"),
        (status(400), False, False, False, "HTTP 400"),
        (status(401), False, False, False, "HTTP 401"),
        (status(404), False, False, False, "HTTP 404"),
        (status(307, Location="http://elsewhere.invalid/"), False, False, False, "HTTP 307"),
        (status(408), False, True, False, "HTTP 408"),
        (status(429), False, True, False, "HTTP 429"),
        (status(500), False, True, False, "HTTP 500"),
        (status(503), False, True, False, "HTTP 503"),
    ],
)
def test_every_response_is_judged(
    files: list[Path], reply: object, sent: bool, retryable: bool, form_refused: bool, said: str
) -> None:
    """PS3.18 table 10.5.3-1 and section I.2.2."""
    with web_server(reply) as server:  # type: ignore[arg-type]
        (answer,) = send(at(server.url), files[:1])
    assert (answer.sent, answer.retryable, answer.form_refused, answer.status) == (sent, retryable, form_refused, said)
    assert sent == (answer.error == "")


def test_one_instance_that_fails_does_not_keep_the_others_away(files: list[Path]) -> None:
    """Each request is answered for itself."""
    with web_server(failed(0xA900), stored) as server:
        answers = send(at(server.url), files)
    assert [(a.sent, a.form_refused) for a in answers] == [(False, True), (True, False)]
    assert "failure reason 0xA900; the PACS says that the object does not match its SOP class" in answers[0].error


def test_the_server_says_when_to_come_back(files: list[Path]) -> None:
    """In seconds or as a date; not for ever."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    waits = []
    for text in ("17", date, "999999999", "soon"):
        with web_server(status(503, Retry_After=text)) as server:
            (answer,) = send(at(server.url), files[:1])
            waits.append(answer.wait_s)
    assert waits[0] == 17.0
    assert waits[1] is not None
    assert 80 < waits[1] <= 90
    assert waits[2:] == [stow.LONGEST_WAIT_S, None]


def test_a_busy_server_gets_its_pause_and_then_everything(make_small_house: Callable[..., House]) -> None:
    """503 with Retry-After, then 200."""
    with web_server(status(503, Retry_After="120"), stored) as server:
        house = make_small_house(TIMES + section(server.url))
        house.finish(house.claimed())
        deliver(house)
        waiting, sent = house.all(Delivery)
        assert (waiting.state, sent.state) == (DeliveryState.PENDING, DeliveryState.SENT)
        assert waiting.not_before > now() + timedelta(seconds=100)
        deliver(house)
        assert [d.state for d in house.all(Delivery)] == [DeliveryState.SENT] * 2
        assert len(server.requests) == 3


def test_a_cut_connection_loses_nothing_and_keeps_the_rest_for_later(files: list[Path]) -> None:
    """The rest is not thrown at a server that is going down."""
    with web_server(cut, stored) as server:
        answers = send(at(server.url), files)
        assert [(a.sent, a.retryable) for a in answers] == [(False, True)] * 2
        assert "no answer from cloud (http" in answers[0].error
        assert len(server.requests) == 1
        assert all(answer.sent for answer in send(at(server.url), files))


def test_a_slow_line_is_given_the_time_that_it_needs(tmp_path: Path) -> None:
    """The timeout is for a server that is silent: one that takes byte after byte is not."""
    paths = write(ct_series(slices=1, rows=2048, columns=2048), tmp_path / "ct")
    with web_server(stored, pause_s=0.1) as server:
        started = time.monotonic()
        (answer,) = send(at(server.url, timeout_s=2.5), paths)
    assert answer.sent, answer
    assert time.monotonic() - started > 2.5
    assert server.requests[0].dataset == pydicom.dcmread(paths[0])


def test_a_slow_server_is_left_after_the_timeout(files: list[Path]) -> None:
    """It may have stored it: the UID is the same the next time."""
    with web_server(slow(1.5)) as server:
        (answer,) = send(at(server.url, timeout_s=0.3), files[:1])
    assert (answer.sent, answer.retryable) == (False, True)
    assert "did not answer in 0.3 s" in answer.error


def test_nobody_there_is_tried_again(files: list[Path]) -> None:
    """Connection refused, and a name that nobody knows."""
    for url in (f"http://127.0.0.1:{free_port()}", "http://no-such-host.invalid"):
        assert [(a.sent, a.retryable) for a in send(at(url), files)] == [(False, True)] * 2
        with pytest.raises(DestinationUnavailable, match="no answer from cloud"):
            stow.echo(at(url), NODE)


def test_a_refused_class_gets_the_next_form(make_small_house: Callable[..., House]) -> None:
    """As by C-STORE: in one commit, and the report follows its segmentation."""

    def no_label_map(request: object) -> object:
        known = request.dataset.SOPClassUID != "1.2.840.10008.5.1.4.1.1.66.7"  # type: ignore[attr-defined]
        return (stored if known else failed(0x0122))(request)  # type: ignore[arg-type]

    with web_server(no_label_map) as server:  # type: ignore[arg-type]
        house = make_small_house(TIMES + section(server.url, profile="new") + FORMS)
        house.finish(house.claimed())
        deliver(house)
        deliver(house)
        assert deliver(house) == 0
        with house.database.reading() as session:
            sent = [d.result.variant for d in session.query(Delivery).filter_by(state=DeliveryState.SENT)]
        assert sent == ["seg-binary, series 9001", "sr-3d of seg-binary, series 9001"]
        assert [r.dataset.Modality for r in server.requests] == ["SEG", "SEG", "SR"]


def test_credentials_are_shown_to_the_server_and_to_nobody_else(files: list[Path]) -> None:
    """Basic and bearer."""
    with web_server(status(401)) as server:
        (answer,) = send(at(server.url, username="node", password="s3cret"), files[:1])
        assert "`username` and `password`" in answer.error
        with pytest.raises(DestinationRefused) as refused:
            stow.echo(at(server.url, token="t0ken"), NODE)
        basic, bearer = (request.headers["Authorization"] for request in server.requests)
    assert basic == "Basic " + base64.b64encode(b"node:s3cret").decode()
    assert bearer == "Bearer t0ken"
    assert "s3cret" not in answer.error
    assert "t0ken" not in str(refused.value)


def test_tls_trusts_the_named_authority_and_shows_a_certificate(files: list[Path], certificates: Path) -> None:
    """A server of another authority, and one that we show nothing to, get no result."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    ca = certificates / "ca.pem"
    own = {"certificate": certificates / "client.pem", "private_key": certificates / "client.key"}
    with web_server(stored, tls=context) as server:
        assert send(at(server.url, tls=TlsConfig(ca_certificates=ca, **own)), files[:1])[0].sent
        assert len(server.requests) == 1
        for tls in (
            TlsConfig(ca_certificates=ca),
            TlsConfig(ca_certificates=certificates / "stranger.pem", **own),
            TlsConfig(**own),
            TlsConfig(ca_certificates=certificates / "none.pem"),
        ):
            (answer,) = send(at(server.url, tls=tls), files[:1])
            assert (answer.sent, answer.retryable) == (False, True)
        assert len(server.requests) == 1
