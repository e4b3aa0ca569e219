"""What bad input, bad peers and bad days get from the listener: a right answer, and the service goes on."""

from __future__ import annotations

import os
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from dicom_node.tables import Association, Instance
from tests.dicom_node.listening import Listening, listening
from tests.dicom_node.raw_peer import CT, EXPLICIT, IMPLICIT, RawPeer, command_pdu, ct_dataset, pdv
from tests.peers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

USER, PROVIDER = 0, 2
MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    """A listener with defaults."""
    with listening(tmp_path / "node") as one:
        yield one


def assert_goes_on(node: Listening) -> None:
    """Nothing half received is left, and the next sender is served."""
    node.settled()
    assert node.files("incoming") == []
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(ct_dataset("1.99"), "1.99") == 0x0000
        assert peer.release() == 6


@pytest.mark.parametrize(
    "first_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
        b"\x04\0\0\0\0\x06\0\0\0\x02\x01\x03",
        b"\x01\0\0\0\0\x10" + b"\xff" * 16,
        b"\x01\0\xff\xff\xff\xff",
        bytes(range(256)) * 8,
    ],
    ids=["HTTP", "P-DATA first", "garbage in A-ASSOCIATE-RQ", "absurd length", "garbage"],
)
def test_what_is_no_association_request_is_aborted(node: Listening, first_bytes: bytes) -> None:
    """PS3.8 Table 9-10, Sta2: A-ABORT from the service user, and the connection is closed."""
    with RawPeer(node.port) as peer:
        peer.send(first_bytes)
        kind, body = peer.pdu()
        assert (kind, body[2]) == (7, USER)
        with pytest.raises(EOFError):
            peer.pdu()
    assert_goes_on(node)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x99\0\0\0\0\x04\0\0\0\0", 1),
        (b"\x02\0\0\0\0\x04\0\0\0\0", 2),
        (b"\x06\0\0\0\0\x04\0\0\0\0", 2),
        (b"\x05\0\0\0\0\x08" + bytes(8), 6),
        (b"\x04\0\0\0\0\x02\0\0", 6),
        (struct.pack(">BBLLBB", 4, 0, 10, 9999, 1, 3) + bytes(4), 6),
        (struct.pack(">BBLLBB", 4, 0, 6, 0, 1, 3), 6),
        (pdv(b"12345678", context=77, control=3), 6),
        (pdv(b"garbage!garbage!", control=3), 6),
        (pdv(b"data without a command", control=2), 5),
        (command_pdu(0x0001, sop_class=CT, uid="1.5") * 2, 5),
        (command_pdu(0x8001, sop_class=CT, uid="1.5", has_dataset=False), 5),
    ],
    ids=[
        "unknown PDU", "A-ASSOCIATE-AC", "A-RELEASE-RP", "long A-RELEASE-RQ", "short P-DATA", "value longer than PDU",
        "value without header", "unknown context", "garbage command", "dataset first", "two commands", "a response",
    ],
)  # fmt: skip
def test_what_has_no_place_in_an_association_is_aborted(node: Listening, sent: bytes, reason: int) -> None:
    """A-ABORT from the service provider with the reason of PS3.8 Table 9-26."""
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(sent)
        kind, body = peer.pdu()
        assert (kind, body[2], body[3]) == (7, PROVIDER, reason)
    assert_goes_on(node)


def _close(peer: RawPeer) -> None:
    peer.socket.close()


def _abort(peer: RawPeer) -> None:
    peer.send(b"\x07\0\0\0\0\x04\0\0\0\0")


def _reset(peer: RawPeer) -> None:
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()


# An A-ABORT inside a P-DATA-TF would be taken for data.
@pytest.mark.parametrize(
    ("end", "whole_pieces"), [(_close, True), (_close, False), (_reset, True), (_reset, False), (_abort, True)]
)
def test_an_association_that_breaks_inside_a_dataset(
    node: Listening, end: Callable[[RawPeer], None], whole_pieces: bool
) -> None:
    """Nothing is kept of an instance that did not come to its end; what came before it is."""
    with RawPeer(node.port) as peer:
        peer.associate()
        assert peer.store(ct_dataset("1.4"), "1.4") == 0
        peer.send(command_pdu(0x0001, sop_class=CT, uid="1.5"))
        peer.dataset(ct_dataset("1.5", pixels=bytes(100_000)), whole=False)
        if not whole_pieces:
            peer.send(pdv(bytes(5000), control=0)[:100])
        end(peer)
        node.settled()
    assert_goes_on(node)
    assert sorted(node.rows(Instance.sop_instance_uid)) == [("1.4",), ("1.99",)]
    assert len(node.files("instances")) == 2


def test_a_killed_sender(node: Listening, tmp_path: Path) -> None:
    """SIGKILL of a sending process in the middle of an instance."""
    script = (
        "import sys\nfrom tests.dicom_node.raw_peer import *\np = RawPeer(int(sys.argv[1])); p.associate()\n"
        "p.send(command_pdu(1, sop_class=CT, uid='1.5'))\n"
        "p.dataset(bytes(300000), whole=False)\nprint('sent', flush=True)\np.pdu()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(node.port)], stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        assert sender.stdout.readline() == b"sent\n"
        sender.kill()
    assert_goes_on(node)


def test_a_silent_connection_is_closed(tmp_path: Path) -> None:
    """Without an A-ASSOCIATE-RQ the negotiation timeout (ARTIM) ends it."""
    with listening(tmp_path, "negotiation_timeout_s = 0.2") as node, RawPeer(node.port) as peer:
        assert peer.pdu()[0] == 7
        assert_goes_on(node)


def test_a_request_that_drips_is_closed(tmp_path: Path) -> None:
    """The negotiation timeout counts for the request as a whole, not for each byte."""
    with listening(tmp_path, "negotiation_timeout_s = 0.3") as node, RawPeer(node.port) as peer:
        peer.send(struct.pack(">BBL", 1, 0, 500))
        _drip(peer)
        assert_goes_on(node)


@pytest.mark.parametrize("start", [b"", command_pdu(0x0001, sop_class=CT, uid="1.5")], ids=["idle", "in a message"])
def test_a_silent_association_is_aborted(tmp_path: Path, start: bytes) -> None:
    """Idle or stuck in the middle of a message."""
    with listening(tmp_path, "idle_timeout_s = 0.3") as node, RawPeer(node.port) as peer:
        peer.associate()
        peer.send(start)
        kind, body = peer.pdu()
        assert (kind, body[2]) == (7, PROVIDER)
        assert_goes_on(node)


def test_a_dataset_that_drips_is_aborted(tmp_path: Path) -> None:
    """A byte now and then is no progress."""
    with listening(tmp_path, "idle_timeout_s = 0.3") as node, RawPeer(node.port) as peer:
        peer.associate()
        peer.send(command_pdu(0x0001, sop_class=CT, uid="1.5") + pdv(bytes(60000), control=0)[:100])
        _drip(peer)
        assert_goes_on(node)


def _drip(peer: RawPeer) -> None:
    """A byte every 20 ms until the peer has had enough (at most a minute)."""
    peer.socket.settimeout(0.02)
    for _ in range(3000):
        try:
            peer.send(b"\0")
            if peer.socket.recv(1) in (b"", b"\x07"):
                return
        except TimeoutError:
            continue
        except OSError:
            return
    pytest.fail("the listener is still listening to drops")


TRUNCATED = ct_dataset("1.5", pixels=bytes(1000))[:-10]


@pytest.mark.parametrize(
    ("dataset", "status"),
    [
        (b"\xff" * 5000, 0xC000),
        (b"", 0xC000),
        (bytes(5000), 0xC000),
        (TRUNCATED, 0xC000),
        (ct_dataset("1.5")[:30], 0xC000),
        (ct_dataset("1.5", study=""), 0xC000),
        (ct_dataset("1.5", series=""), 0xC000),
        (ct_dataset("1.5", study="../../etc/passwd"), 0xC000),
        (ct_dataset("1.5", series="1.2/../../3"), 0xC000),
        (ct_dataset("1.5", study="9" * 66), 0xC000),
        (ct_dataset("1.5", sop_class=MR), 0xA900),
        (ct_dataset("1.6"), 0xA900),
    ],
    ids=[
        "garbage", "empty", "zeros", "cut off in the pixels", "cut off in the header", "no study", "no series",
        "path as study", "path as series", "long study", "other SOP class", "other SOP instance",
    ],
)  # fmt: skip
def test_statuses(node: Listening, dataset: bytes, status: int) -> None:
    """A dataset that cannot be kept gets its status, leaves nothing behind, and the association goes on."""
    with RawPeer(node.port) as peer:
        peer.associate()
        assert peer.store(dataset, "1.5") == status
        assert node.files("instances") == node.files("incoming") == []
        assert peer.store(ct_dataset("1.7"), "1.7") == 0x0000
        assert peer.release() == 6
    node.settled()
    assert node.rows(Association.__table__.c["stored_count", "refused_count"]) == [(1, 1)]


@pytest.mark.parametrize("uid", ["../../../tmp/x", "..", ".", "1.2/3", "1\\2", "", "7" * 65, "1.2.\u00e4"])
def test_a_sop_instance_uid_that_is_none(node: Listening, uid: str) -> None:
    """Whatever stands in place of the UID never becomes part of a path."""
    with RawPeer(node.port) as peer:
        peer.associate()
        assert peer.store(ct_dataset(uid), uid) in (0xC000, 0xA900)
        assert node.files("instances") == node.files("incoming") == []


def test_another_sop_class_than_that_of_the_context(node: Listening) -> None:
    """0x0122, PS3.7 C.5.6."""
    with RawPeer(node.port) as peer:
        peer.associate()
        assert peer.store(ct_dataset("1.5", sop_class=MR), "1.5", sop_class=MR) == 0x0122


def test_a_service_that_is_not_offered(node: Listening) -> None:
    """C-FIND gets 0x0211 and the association goes on."""
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(command_pdu(0x0020, sop_class=CT, uid="") + pdv(b"\0" * 8, control=2))
        assert peer.status() == 0x0211
        assert peer.store(ct_dataset("1.5"), "1.5") == 0


def test_an_object_that_is_too_large(tmp_path: Path) -> None:
    """Read to its end, not kept, 0xA700; the next one is."""
    with listening(tmp_path, "max_object_bytes = 10000") as node, RawPeer(node.port) as peer:
        peer.associate()
        assert peer.store(ct_dataset("1.5", pixels=bytes(12_000)), "1.5") == 0xA700
        assert peer.release() == 6
        assert_goes_on(node)


def test_below_the_watermark(tmp_path: Path) -> None:
    """Space that runs out while an association is open: 0xA700 before the disk is full, 0x0000 when there is room."""
    with listening(tmp_path) as node, RawPeer(node.port) as peer:
        peer.associate()
        free = node.archive.free_bytes
        node.archive.free_bytes = lambda: 1  # type: ignore[method-assign]
        assert peer.store(ct_dataset("1.5"), "1.5") == 0xA700
        node.archive.free_bytes = free  # type: ignore[method-assign]
        assert peer.store(ct_dataset("1.5"), "1.5") == 0x0000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """ENOSPC in the middle of a dataset is 0xA700, leaves nothing, and ends when there is room again."""
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "archive").symlink_to(small_disk)
    large = ct_dataset("1.5", pixels=os.urandom(700_000))
    with listening(tmp_path / "node", "min_free_bytes = 0") as node, RawPeer(node.port) as peer:
        peer.associate()
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(500_000))
        assert peer.store(large, "1.5") == 0xA700
        assert node.files("incoming") == node.files("instances") == []
        ballast.unlink()
        assert peer.store(large, "1.5") == 0x0000
        assert node.dataset_bytes("1.5") == large


def test_a_locked_database(tmp_path: Path) -> None:
    """0xA700 while somebody else holds the lock; sent again later it is stored; the end of it all is noted late."""
    with listening(tmp_path, rest="[database]\nlock_timeout_s = 0.2") as node, RawPeer(node.port) as peer:
        peer.associate()
        assert peer.store(ct_dataset("1.4"), "1.4") == 0
        other = sqlite3.connect(tmp_path / "node.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        assert peer.store(ct_dataset("1.5"), "1.5") == 0xA700
        other.execute("ROLLBACK")
        assert peer.store(ct_dataset("1.5"), "1.5") == 0
        other.execute("BEGIN EXCLUSIVE")
        assert peer.release() == 6
        other.execute("ROLLBACK")
        other.close()
        node.settled()
        assert node.rows(Association.how_ended) == [("released",)]


def test_no_thread_for_a_connection(node: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the system's limit of threads that one connection is closed; the acceptor lives, and serves the next."""
    real, limit = threading.Thread.start, iter([RuntimeError("can't start new thread")])

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("association"):
            for reached in limit:
                raise reached
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with RawPeer(node.port) as peer, pytest.raises((EOFError, ConnectionError)):
        peer.associate()
    assert_goes_on(node)


def test_nothing_of_the_patient_is_logged(node: Listening) -> None:
    """Neither for what is stored nor for what is refused."""
    with capture_logs() as logs, RawPeer(node.port) as peer:
        peer.associate((CT, EXPLICIT), (CT, IMPLICIT))
        peer.store(ct_dataset("1.5"), "1.5")
        peer.store(ct_dataset("1.6"), "1.7")
        peer.store(TRUNCATED, "1.5")
        peer.release()
        wait_until(lambda: any(line["event"] == "association ended" for line in logs), what="the end is logged")
    assert [line["status"] for line in logs if line["event"] == "store refused"] == ["0xA900", "0xC000"]
    assert "SECRET" not in str(logs).upper()
