"""DICOM TLS: both sides show a certificate, nothing is said without one."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dicom_node.config_peers import TlsConfig
from dicom_node.errors import ConfigError
from dicom_node.scp import server_context
from dicom_node.tables import Association, Instance
from tests.dicom_factory import ct_series
from tests.dicom_node.certificates import make_certificates
from tests.dicom_node.listening import Listening, listening
from tests.dicom_node.raw_peer import TIMEOUT_S, RawPeer, ct_dataset
from tests.peers import storescu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, certificates `node` and `modality` that it signed, and a `stranger` that signed itself."""
    return make_certificates(tmp_path_factory.mktemp("certificates"), "node", "modality")


@pytest.fixture
def node(tmp_path: Path, certificates: Path) -> Iterator[Listening]:
    """A listener that speaks TLS alone."""
    tls = "\n".join(
        f'{key} = "{certificates / name}"'
        for key, name in {"certificate": "node.pem", "private_key": "node.key", "ca_certificates": "ca.pem"}.items()
    )
    settings = f"check_called_ae_title = false\nnegotiation_timeout_s = 1.0\n[listener.tls]\n{tls}"
    with listening(tmp_path / "node", settings) as one:
        yield one


def client(certificates: Path, name: str | None, *, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A sender's side that shows the certificate of that name."""
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.check_hostname = False
    if name:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    if newest:
        context.maximum_version = newest
    return context


class TlsPeer(RawPeer):
    """A raw peer inside TLS."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self.socket = context.wrap_socket(self.socket)
        self.socket.settimeout(TIMEOUT_S)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
def test_a_known_certificate(node: Listening, certificates: Path, newest: ssl.TLSVersion) -> None:
    """Stores over TLS 1.2 and 1.3, in pieces larger than a TLS record."""
    dataset = ct_dataset("1.5", pixels=bytes(range(256)) * 2000)
    with TlsPeer(node.port, client(certificates, "modality", newest=newest)) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(dataset, "1.5", pdv_bytes=100_000) == 0
        assert peer.release() == 6
    assert node.dataset_bytes("1.5") == dataset
    node.settled()
    assert node.rows(Association.how_ended) == [("released",)]


def test_our_own_send_speaks_tls_to_our_own_listener(node: Listening, tmp_path: Path) -> None:
    """`dicom-node send FOLDER`, with the certificate of the configuration that both read."""
    tls = "\n".join(f'{key} = "{path}"' for key, path in node.config.listener.tls)
    config = tmp_path / "config.toml"
    config.write_text(f'[node]\ndata_dir = "data"\n[listener]\nport = {node.port}\n[listener.tls]\n{tls}\n')
    ct_series(tmp_path / "ct", slices=2, rows=4, columns=4)
    command = [sys.executable, "-m", "dicom_node", "--config", str(config), "send", str(tmp_path / "ct")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "2 of 2 files were taken" in done.stdout) == (0, True), done.stderr
    assert node.count(Instance) == 2


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
def test_stopping_is_said_inside_tls(node: Listening, certificates: Path, newest: ssl.TLSVersion) -> None:
    """The A-ABORT of a listener that stops is encrypted like all before it, so that the peer can read it."""
    with TlsPeer(node.port, client(certificates, "modality", newest=newest)) as peer:
        assert peer.associate()[0] == 2
        node.listener.stop(0)
        kind, body = peer.pdu()
        assert (kind, body[2]) == (7, 2)


@pytest.mark.parametrize("name", [None, "stranger"])
def test_no_certificate_or_that_of_a_stranger(node: Listening, certificates: Path, name: str | None) -> None:
    """The handshake fails; the next peer with a good one is served."""
    # TLS 1.3 tells the client at its first read only.
    with (
        pytest.raises((ssl.SSLError, ConnectionError, EOFError)),
        TlsPeer(node.port, client(certificates, name)) as peer,
    ):
        peer.associate()
    with TlsPeer(node.port, client(certificates, "modality")) as peer:
        assert peer.associate()[0] == 2


def test_a_sender_without_tls(node: Listening) -> None:
    """Gets no DICOM."""
    with RawPeer(node.port) as peer, pytest.raises((EOFError, ConnectionError, ValueError, AssertionError)):  # noqa: PT012
        kind, _ = peer.associate()
        assert kind == 2


def test_a_handshake_that_never_comes_holds_up_nobody(node: Listening, certificates: Path) -> None:
    """Silent connections wait in their own threads and are closed at the negotiation timeout."""
    silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(5)]
    with TlsPeer(node.port, client(certificates, "modality")) as peer:
        assert peer.associate()[0] == 2
        peer.release()
    node.settled()
    for one in silent:
        one.close()


@pytest.mark.peer("dcmtk")
def test_dcmtk_sends_over_tls(node: Listening, certificates: Path, tmp_path: Path) -> None:
    """DCMTK's TLS with its default profile."""
    ct_series(tmp_path / "sent", slices=2)
    keys = (certificates / "modality.key", certificates / "modality.pem")
    options = ("+tls", *map(str, keys), "+cf", str(certificates / "ca.pem"))
    storescu([tmp_path / "sent"], node.port, options=options)
    assert node.count(Instance) == 2


def test_half_a_configuration_is_refused(certificates: Path) -> None:
    """A certificate without a CA would mean TLS that trusts anybody."""
    with pytest.raises(ConfigError):
        server_context(TlsConfig(certificate=certificates / "node.pem", private_key=certificates / "node.key"))
    with pytest.raises(ConfigError):
        server_context(TlsConfig(certificate=certificates / "no.pem", ca_certificates=certificates / "ca.pem"))
