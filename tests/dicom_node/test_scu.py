"""Sending to real peers: what was taken, what to try again, what never; and why, in words for an administrator."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_node import scu
from dicom_node.config_peers import DestinationConfig, TlsConfig
from dicom_node.config_sections import NodeConfig
from dicom_node.errors import DestinationRefused, DestinationUnavailable
from dicom_node.transport import Answer, Outgoing, outgoing
from tests.dicom_factory import ct_series, write
from tests.dicom_node.house import House
from tests.peers import HOST, Orthanc, StoreScp, free_port

# pynetdicom drops the socket of a connection that failed without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
CT = "1.2.840.10008.5.1.4.1.1.2"
NODE = NodeConfig()


def at(port: int, ae_title: str = "STORESCP", **options: object) -> DestinationConfig:
    """A destination on this machine."""
    values: dict[str, object] = {"name": "pacs", "ae_title": ae_title, "host": HOST, "port": port, "timeout_s": 5.0}
    return DestinationConfig.model_validate(values | options)


def send(destination: DestinationConfig, paths: list[Path]) -> list[Answer]:
    """The answers, in order."""
    answers: list[Answer] = []
    scu.send(destination, NODE, [outgoing(n, path) for n, path in enumerate(paths)], answers.append)
    return answers


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two CT slices as files."""
    return write(ct_series(slices=2, rows=4, columns=4), tmp_path / "ct")


@pytest.mark.peer("dcmtk")
def test_files_arrive_bit_by_bit(storescp: StoreScp, files: list[Path]) -> None:
    """Each file gets its answer."""
    answers = send(at(storescp.port), files)
    assert [(answer.key, answer.sent, answer.status) for answer in answers] == [
        (0, True, "0x0000"),
        (1, True, "0x0000"),
    ]
    assert len(storescp.files()) == 2
    assert scu.echo(at(storescp.port), NODE) == "0x0000"


@pytest.mark.peer("orthanc")
def test_orthanc_takes_results_twice(orthanc: Orthanc, small_house: House) -> None:
    """Sent twice after a crash: one object."""
    job = small_house.claimed()
    small_house.finish(job)
    paths = sorted((small_house.config.archive_dir / "results").glob("*.dcm"))
    for _ in range(2):
        assert [answer.sent for answer in send(at(orthanc.dicom_port, "ORTHANC"), paths)] == [True, True]
    assert len(orthanc.instances()) == 2


@pytest.mark.peer("dcmtk")
def test_a_full_pacs_is_tried_again(storescp: StoreScp, files: list[Path]) -> None:
    """0xA700 is what time can heal."""
    with storescp.out_of_space():
        answers = send(at(storescp.port), files)
    assert [(a.sent, a.retryable, a.status) for a in answers] == [(False, True, "0xA700")] * 2
    assert all(answer.sent for answer in send(at(storescp.port), files))


@pytest.mark.peer("dcmtk")
def test_a_class_that_the_pacs_does_not_take_is_refused_alone(files: list[Path], small_house: House) -> None:
    """The CT goes through; the SEG will never, and the hint says what to do."""
    job = small_house.claimed()
    small_house.finish(job)
    results = sorted((small_house.config.archive_dir / "results").glob("*.dcm"))
    with StoreScp(accepts=[CT]) as scp:
        answers = send(at(scp.port), [*files, *results])
        assert [a.sent for a in answers] == [True, True, False, False]
        assert [(a.retryable, a.status, a.form_refused) for a in answers[2:]] == [(False, "0x0122", True)] * 2
        assert {"Segmentation Storage" in a.error for a in answers[2:]} == {True, False}
        assert all("[[delivery.route]]" in a.error for a in answers[2:])
        assert [(a.status, a.form_refused) for a in send(at(scp.port), results)] == [("0x0122", True)] * 2


@pytest.mark.peer("dcmtk")
def test_a_rejected_association_is_tried_again_and_explained(files: list[Path]) -> None:
    """The PACS does not know us yet: that says nothing about the object. However fast it says no, it is heard."""
    with StoreScp(options=["--refuse"]) as scp:
        for _ in range(40):
            with pytest.raises(DestinationUnavailable, match="rejected the association"):
                send(at(scp.port), files)


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ({"require_calling_aet": ["OTHER"]}, "; does it know our AE title 'ICHNODE' and this address?"),
        ({"require_called_aet": True}, "; it has another AE title than 'STORESCP'"),
        ({"maximum_associations": 0}, ""),
    ],
    ids=["calling", "called", "limit"],
)
def test_a_rejection_says_what_to_look_at_by_its_reason(setting: dict[str, object], hint: str) -> None:
    """Not our AE title where the peer knows it and is full, or is called by a wrong one."""
    ae = AE(ae_title="PACS")
    ae.add_supported_context(Verification)
    for name, value in setting.items():
        setattr(ae, name if hint else f"_{name}", value)  # pynetdicom itself takes no limit below 1
    server = ae.start_server((HOST, 0), block=False)
    assert server is not None
    try:
        with pytest.raises(DestinationUnavailable) as caught:
            scu.echo(at(server.server_address[1]), NodeConfig())
    finally:
        server.shutdown()
    told = str(caught.value)
    assert told.partition("rejected the association: ")[2].partition(";")[1:] == (hint[:1], hint[1:])


def test_a_pacs_that_aborts_is_tried_again(files: list[Path]) -> None:
    """In the middle of the first file; both get an answer."""
    with StoreScp(options=["--abort-during"]) as scp:
        answers = send(at(scp.port, timeout_s=1.0), files)
    assert [(a.sent, a.retryable) for a in answers] == [(False, True)] * 2


def test_nobody_there_is_tried_again(files: list[Path]) -> None:
    """Connection refused."""
    with pytest.raises(DestinationUnavailable, match="no association with pacs"):
        send(at(free_port()), files)


def test_a_name_that_nobody_knows_is_tried_again(files: list[Path]) -> None:
    """DNS may come back; it must not raise what nobody catches."""
    with pytest.raises(DestinationUnavailable, match="no association"):
        send(at(104, host="no-such-host.invalid"), files)


def test_a_peer_that_never_answers_is_left_after_the_timeout(files: list[Path]) -> None:
    """It takes the connection and is silent."""
    with socket.create_server((HOST, 0)) as server, pytest.raises(DestinationUnavailable):
        send(at(server.getsockname()[1], timeout_s=0.5), files)


@contextmanager
def falls_silent(port: int, *, after_sent: int, after_answered: int) -> Iterator[int]:
    """A way to a peer on which, once it has accepted the association, only so many bytes get through. Its port."""
    over = threading.Event()

    def pump(source: socket.socket, target: socket.socket, limit: int) -> None:
        with suppress(OSError):
            target.sendall(source.recv(65536))  # the request for the association, and its acceptance
            while limit and (some := source.recv(min(limit, 65536))):
                target.sendall(some)
                limit -= len(some)
        over.wait()

    with socket.create_server((HOST, 0)) as server, socket.create_connection((HOST, port)) as peer:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                ways = (connection, peer, after_sent), (peer, connection, after_answered)
                for way in ways:
                    threading.Thread(target=pump, args=way, daemon=True).start()
                over.wait()
                connection.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize(("after_sent", "after_answered"), [(0, 0), (2**30, 10)])
def test_a_peer_that_falls_silent_in_the_middle_is_left_after_the_timeout(
    storescp: StoreScp, tmp_path: Path, after_sent: int, after_answered: int
) -> None:
    """It takes no more of the file, or sends half an answer: the process of a PACS hangs, its machine does not."""
    (path,) = write(ct_series(slices=1, rows=2048, columns=2048), tmp_path / "ct")
    answers: list[Answer] = []
    with falls_silent(storescp.port, after_sent=after_sent, after_answered=after_answered) as port:
        items = [outgoing(n, path) for n in range(2)]
        destination = at(port, timeout_s=1.0)
        sending = threading.Thread(target=lambda: scu.send(destination, NODE, items, answers.append), daemon=True)
        sending.start()
        sending.join(20.0)
        assert [(a.sent, a.retryable) for a in answers] == [(False, True)] * 2
        assert not sending.is_alive()


def test_tls_files_that_cannot_be_read_stop_nothing_else(files: list[Path], tmp_path: Path) -> None:
    """An expired mount or a typo is an error of this destination."""
    with pytest.raises(DestinationUnavailable, match="no association"):
        send(at(104, tls=TlsConfig(certificate=tmp_path / "none.crt")), files)
    (tmp_path / "bad.crt").write_text("no certificate")
    with pytest.raises(DestinationUnavailable):
        send(at(104, tls=TlsConfig(certificate=tmp_path / "bad.crt")), files)
    with pytest.raises(ssl.SSLError):
        scu.client_context(TlsConfig(certificate=tmp_path / "bad.crt"))


@pytest.mark.parametrize(
    ("status", "sent", "retryable", "hint"),
    [
        (0x0000, True, False, ""),
        (0xB000, True, False, ""),
        (0xB007, True, False, ""),
        (0x0107, True, False, ""),
        (0x0111, True, False, ""),
        (0xA700, False, True, ""),
        (0xA7FF, False, True, ""),
        (0x0110, False, True, ""),
        (0x0213, False, True, ""),
        (None, False, True, ""),
        (0x0122, False, False, "SOP class"),
        (0x0124, False, False, "AE title"),
        (0xA900, False, False, "does not match"),
        (0xA9FF, False, False, "does not match"),
        (0xC000, False, False, "cannot understand"),
        (0xC123, False, False, "cannot understand"),
    ],
)
def test_every_status_is_judged(status: int | None, sent: bool, retryable: bool, hint: str) -> None:
    """PS3.4 B.2.3 and PS3.7 annex C."""
    answer = scu.judge(7, status)
    text = None if status is None else f"0x{status:04X}"
    assert (answer.key, answer.sent, answer.retryable, answer.status) == (7, sent, retryable, text)
    assert hint in answer.error
    assert sent == (answer.error == "")


def test_a_status_travels(files: list[Path]) -> None:
    """From a real C-STORE-RSP to the answer."""
    ae = AE("PACS")
    ae.add_supported_context(CT)
    answers = iter([0x0111, 0xC123])
    server = ae.start_server((HOST, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: next(answers))])
    assert server is not None
    try:
        got = send(at(server.server_address[1], "PACS"), files)
    finally:
        server.shutdown()
    assert [(a.sent, a.status) for a in got] == [(True, "0x0111"), (False, "0xC123")]


def test_what_is_no_dicom_file_cannot_be_sent(tmp_path: Path) -> None:
    """Nor one without file meta information; the error names the file."""
    for name, data in {"empty": b"", "text": b"hello" * 100, "cut": b"\0" * 128 + b"DICM\2\0"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DestinationRefused, match=name):
            outgoing(1, tmp_path / name)


def test_more_classes_than_an_association_has_room_for_go_over_several() -> None:
    """PS3.8 9.3.2.2: 128 presentation contexts."""
    files = [Outgoing(n, Path("x"), f"1.2.{n // 2}", "1.2.840.10008.1.2.1") for n in range(600)]
    batches = list(scu._batches(files))
    assert [file.key for batch in batches for file in batch] == list(range(600))
    assert max(len({file.sop_class_uid for file in batch}) for batch in batches) == 128


def test_an_echo_without_verification_is_refused(tmp_path: Path) -> None:
    """A peer that takes CT only."""
    ae = AE("PACS")
    ae.add_supported_context(CT)
    server = ae.start_server((HOST, 0), block=False)
    assert server is not None
    try:
        with pytest.raises(DestinationRefused, match=Verification.name):
            scu.echo(at(server.server_address[1], "PACS"), NODE)
    finally:
        server.shutdown()
