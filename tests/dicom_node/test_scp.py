"""The listener with real senders: what they send is kept byte by byte, and who may send is checked."""

from __future__ import annotations

import fcntl
import threading
import time
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
import sqlalchemy as sa
from pydicom import uid
from pynetdicom import AE

from dicom_node import listener_locks, scp
from dicom_node.archive import StoredFile
from dicom_node.read_facts import facts_of_file
from dicom_node.tables import Association, Instance, Study
from tests.dicom_factory import ct_series
from tests.dicom_node.listening import listening
from tests.dicom_node.raw_peer import CT, EXPLICIT, IMPLICIT, VERIFICATION, RawPeer, command_pdu, ct_dataset
from tests.peers import dcmsend, echoscu, storescu, wait_until

if TYPE_CHECKING:
    from pathlib import Path

COMPRESSED = [
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.RLELossless,
]
ANY_CALLED = "check_called_ae_title = false"


@pytest.mark.peer("dcmtk")
def test_echo(tmp_path: Path) -> None:
    """DCMTK's echoscu gets its answer; an echo leaves no row."""
    with listening(tmp_path, ANY_CALLED) as node:
        echoscu(node.port)
        node.settled()
        assert node.count(Association) == 0


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, *COMPRESSED], ids=str)
def test_dcmtk_sends_every_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    """What DCMTK sends is stored in the syntax it was sent in, with the same pixels."""
    ct_series(tmp_path / "sent", slices=2, transfer_syntax=syntax)
    offered = f'transfer_syntaxes = ["{syntax}"]\n{ANY_CALLED}'
    with listening(tmp_path / "node", offered) as node:
        dcmsend([tmp_path / "sent"], node.port)
        assert node.count(Instance) == 2
        for path in (tmp_path / "sent").iterdir():
            sent = pydicom.dcmread(path)
            ((kept_path,),) = node.rows(Instance.path, Instance.sop_instance_uid == sent.SOPInstanceUID)
            kept = pydicom.dcmread(node.archive.path(kept_path))
            assert kept.file_meta.TransferSyntaxUID == syntax
            assert kept == sent


@pytest.mark.parametrize("pdv_bytes", [126, 16000, 200_000])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, *COMPRESSED], ids=str)
def test_the_dataset_is_kept_byte_by_byte(tmp_path: Path, syntax: str, pdv_bytes: int) -> None:
    """The file's dataset is what came over the wire, however it was cut into PDUs."""
    ct_series(tmp_path / "sent", slices=1, transfer_syntax=syntax)
    (path,) = (tmp_path / "sent").iterdir()
    facts = facts_of_file(path)
    assert facts is not None
    data = path.read_bytes()
    dataset = data[144 + int.from_bytes(data[140:144], "little") :]
    offered = f'transfer_syntaxes = ["{syntax}"]'
    with listening(tmp_path / "node", offered) as node, RawPeer(node.port) as peer:
        assert peer.associate((CT, syntax))[0] == 2
        assert peer.store(dataset, facts.sop_instance_uid, pdv_bytes=pdv_bytes) == 0x0000
        assert node.dataset_bytes(facts.sop_instance_uid) == dataset
        assert peer.release() == 6


@pytest.mark.peer("dcmtk")
def test_storescu_sends_a_study_in_one_association(tmp_path: Path) -> None:
    """Rows name the association, its end and the study that it touched; the hook is told."""
    sent = ct_series(tmp_path / "sent", slices=5)
    with listening(tmp_path / "node", ANY_CALLED) as node:
        storescu([tmp_path / "sent"], node.port, calling="CT1")
        node.settled()
        ((association,),) = [(row,) for row in node.rows(Association.__table__)]
        assert (association.calling_ae_title, association.stored_count, association.refused_count) == ("CT1", 5, 0)
        assert (association.how_ended, association.closed_at is not None) == ("released", True)
        ((study_id, study_uid, state),) = node.rows(Study.__table__.c["id", "study_instance_uid", "state"])
        assert (study_uid, state) == (sent[0].StudyInstanceUID, "RECEIVING")
        assert node.closed == [(association.id, frozenset({study_id}))]


def test_ae_titles_that_end_with_nul_are_those_before_it(tmp_path: Path) -> None:
    """As some modalities send them and DCMTK takes them, though PS3.5 pads with blanks."""
    peer_only = 'allow_loopback = false\n[[listener.peer]]\nae_title = "CT1"\n'
    with listening(tmp_path, peer_only) as node, RawPeer(node.port) as peer:
        kind, _ = peer.associate((CT, EXPLICIT), calling="CT1" + "\0" * 13, called="ICHNODE\0garbage")
        assert kind == 2
        assert peer.store(ct_dataset("1.2.3"), "1.2.3") == 0x0000
        ((title,),) = node.rows(Association.calling_ae_title)
        assert title == "CT1"


def test_pynetdicom_sends(tmp_path: Path) -> None:
    """C-ECHO and C-STORE of pynetdicom's SCU in one association."""
    (sent,) = ct_series(slices=1)
    scu = AE("PYNETDICOM")
    scu.add_requested_context(VERIFICATION)
    scu.add_requested_context(CT, [EXPLICIT])
    with listening(tmp_path) as node:
        assoc = scu.associate("127.0.0.1", node.port, ae_title="ICHNODE")
        assert assoc.is_established
        assert assoc.send_c_echo().Status == 0x0000
        assert assoc.send_c_store(sent).Status == 0x0000
        assoc.release()
        assert assoc.is_released
        assert node.count(Instance) == 1


def test_an_association_is_open_in_its_row_until_it_ends(tmp_path: Path) -> None:
    """Completion can see that a study may still grow."""
    with listening(tmp_path) as node, RawPeer(node.port) as peer:
        peer.associate()
        peer.store(ct_dataset("1.5"), "1.5")
        ((closed_at,),) = node.rows(Association.closed_at)
        assert closed_at is None
        peer.release()
        wait_until(lambda: node.rows(Association.closed_at) != [(None,)], what="the row is closed")


def test_a_dead_listeners_associations_are_closed_by_the_next_one(tmp_path: Path) -> None:
    """An open row of a listener whose lock nobody holds is closed at start; a living listener's stays."""
    with listening(tmp_path, listener_id="alive") as node, RawPeer(node.port) as peer:
        peer.associate()
        peer.store(ct_dataset("1.5"), "1.5")
        (tmp_path / "listeners" / "dead.lock").touch()
        opened = node.rows(Association.opened_at)[0][0]
        with node.engine.begin() as connection:
            old: dict[str, Any] = {
                "listener_id": "dead",
                "calling_ae_title": "X",
                "called_ae_title": "Y",
                "peer_address": "Z",
            }
            old |= {"stored_count": 0, "refused_count": 0}
            connection.execute(sa.insert(Association).values(opened_at=opened, **old))
        with listening(tmp_path, listener_id="next"):
            ended = dict(node.rows(Association.__table__.c["listener_id", "how_ended"]))
        assert ended == {"alive": None, "dead": "listener died"}
        assert not (tmp_path / "listeners" / "dead.lock").exists()


def test_a_listener_that_starts_is_not_taken_for_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one that looks around before the lock is held finds nothing."""
    found: list[str] = []
    real = fcntl.flock

    def lock(file: Any, operation: int) -> None:
        if operation == fcntl.LOCK_EX:
            found.extend(listener_locks.dead_listeners(tmp_path))
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    one = listener_locks.ListenerLock(tmp_path, "host.name/listener/1")
    assert found == listener_locks.dead_listeners(tmp_path) == []
    one.release(in_order=False)
    assert listener_locks.dead_listeners(tmp_path) == ["host.name/listener/1"]


def test_an_association_that_outlives_its_listener_is_closed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that hangs longer than the end waits: the process ends without noting that the association did."""
    hanging, disk_is_back = threading.Event(), threading.Event()
    monkeypatch.setattr(scp, "LAST_JOIN_S", 0.1)
    with listening(tmp_path, listener_id="slow") as node, RawPeer(node.port) as peer:
        peer.associate()
        assert peer.store(ct_dataset("1.5"), "1.5") == 0
        real = node.archive.commit

        def commit(*arguments: Any) -> StoredFile:
            hanging.set()
            disk_is_back.wait(60)
            return real(*arguments)

        monkeypatch.setattr(node.archive, "commit", commit)
        peer.send(command_pdu(0x0001, sop_class=CT, uid="1.6"))
        peer.dataset(ct_dataset("1.6"))
        assert hanging.wait(20)
        node.listener.stop(0)
        with listening(tmp_path, listener_id="next"):
            assert node.rows(Association.how_ended) == [("listener died",)]
        disk_is_back.set()
        node.settled()


def test_a_response_waits_for_the_row(tmp_path: Path) -> None:
    """The moment 0x0000 is read, file and row are there."""
    with listening(tmp_path) as node, RawPeer(node.port) as peer:
        peer.associate()
        for number in range(20):
            assert peer.store(ct_dataset(f"1.5.{number}"), f"1.5.{number}") == 0
            assert node.dataset_bytes(f"1.5.{number}") == ct_dataset(f"1.5.{number}")


def test_contexts_that_are_not_offered_are_refused_one_by_one(tmp_path: Path) -> None:
    """An unknown SOP class and an unknown transfer syntax do not spoil the context that is known."""
    with listening(tmp_path) as node, RawPeer(node.port) as peer:
        kind, body = peer.associate((CT, EXPLICIT), ("1.2.3.4.5", EXPLICIT), (CT, "1.2.840.10008.1.2.4.103"))
        assert kind == 2
        results = [body[at + 6] for at in range(len(body) - 6) if body[at] == 0x21 and body[at + 1] == 0][:3]
        assert results == [0, 3, 4]
        assert peer.store(ct_dataset("1.5"), "1.5") == 0


@pytest.mark.parametrize(
    ("listener", "associate", "answer"),
    [
        ("allow_loopback = false", {}, (1, 1, 3)),
        ('allow_loopback = false\n[[listener.peer]]\nae_title = "RAW"\naddresses = ["10.0.0.0/8"]', {}, (1, 1, 3)),
        ("", {"called": "OTHER"}, (1, 1, 7)),
        ("", {"version": 2}, (1, 2, 2)),
        ("", {"application": "1.2.3"}, (1, 1, 2)),
        ("min_free_bytes = 1000000000000000000", {}, (2, 3, 2)),
    ],
    ids=["unknown peer", "wrong address", "wrong called title", "version", "application context", "no space"],
)
def test_refusals(tmp_path: Path, listener: str, associate: dict[str, object], answer: tuple[int, int, int]) -> None:
    """Each refusal has its result, source and reason (PS3.8 Table 9-21), and is counted."""
    with listening(tmp_path, listener) as node, RawPeer(node.port) as peer:
        kind, body = peer.associate(**associate)  # type: ignore[arg-type]
        assert (kind, tuple(body[1:4])) == (3, answer)
        assert node.listener.admission.refusals.total() == 1


def test_a_listed_peer_may_send(tmp_path: Path) -> None:
    """Listed by title and network, when loopback is not open to all."""
    listed = 'allow_loopback = false\n[[listener.peer]]\nae_title = "RAW"\naddresses = ["127.0.0.0/8"]'
    with listening(tmp_path, listed) as node, RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2


def test_without_space_an_echo_is_still_answered(tmp_path: Path) -> None:
    """An administrator who looks for the fault must not be locked out."""
    with listening(tmp_path, "min_free_bytes = 1000000000000000000") as node, RawPeer(node.port) as peer:
        assert peer.associate((VERIFICATION, IMPLICIT))[0] == 2
        assert peer.echo() == 0


def test_limits_of_associations(tmp_path: Path) -> None:
    """A peer beyond its own limit is told so (transient, local limit exceeded) and may come again when one ended."""
    limit = 'allow_loopback = false\n[[listener.peer]]\nae_title = "RAW"\nmax_associations = 1'
    with listening(tmp_path, limit) as node, RawPeer(node.port) as first:
        assert first.associate()[0] == 2
        with RawPeer(node.port) as second:
            kind, body = second.associate()
            assert (kind, tuple(body[1:4])) == (3, (2, 3, 2))
        first.release()
        node.settled()
        with RawPeer(node.port) as third:
            assert third.associate()[0] == 2


def test_several_messages_before_the_first_answer_is_read(tmp_path: Path) -> None:
    """A sender that does not wait gets its answers in order."""
    with listening(tmp_path) as node, RawPeer(node.port) as peer:
        peer.associate((VERIFICATION, IMPLICIT))
        peer.send(command_pdu(0x0030, sop_class=VERIFICATION, uid="", has_dataset=False) * 3)
        assert [peer.status() for _ in range(3)] == [0, 0, 0]


def test_stopping_ends_idle_associations(tmp_path: Path) -> None:
    """After the grace an association is aborted by the service provider, and its row is closed."""
    with listening(tmp_path) as node, RawPeer(node.port) as peer:
        peer.associate()
        peer.store(ct_dataset("1.5"), "1.5")
        began = time.monotonic()
        node.listener.stop(0.2)
        assert time.monotonic() - began < 30
        kind, body = peer.pdu()
        assert (kind, body[2]) == (7, 2)
        assert node.rows(Association.how_ended) == [("listener stopping",)]
