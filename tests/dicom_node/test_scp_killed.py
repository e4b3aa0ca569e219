"""What was acknowledged survives SIGKILL of the listener at any moment."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from pathlib import Path

import sqlalchemy as sa

from dicom_node.archive import FolderArchive
from dicom_node.db import make_engine
from dicom_node.reconcile import reconcile
from dicom_node.tables import Association, Instance
from tests.dicom_node.listening import config_for
from tests.dicom_node.raw_peer import RawPeer, ct_dataset
from tests.peers import Process, free_port, wait_until
from tests.peers.process import listens

KILLS = 10
SENDERS = 3
SCRIPT = """
import sys, threading
from pathlib import Path
from dicom_node import schema
from dicom_node.archive import FolderArchive
from dicom_node.config import load_config
from dicom_node.db import make_engine
from dicom_node.scp import Listener
config = load_config(Path(sys.argv[1]))
engine = make_engine(config.database)
schema.make_ready(engine)
Listener(config, engine, FolderArchive(config.archive_dir), listener_id=sys.argv[2]).start()
threading.Event().wait()
"""


class Sender(threading.Thread):
    """Sends new instances until told to stop; an instance without an answer is sent again, as a modality does."""

    def __init__(self, number: int, port: int) -> None:
        super().__init__(daemon=True)
        self.number, self.port = number, port
        self.stop = threading.Event()
        self.acknowledged: dict[str, str] = {}
        """SOP Instance UID -> SHA-256 of the dataset."""

    def run(self) -> None:
        """Send."""
        while not self.stop.is_set():
            try:
                with RawPeer(self.port) as peer:
                    peer.associate()
                    while not self.stop.is_set():
                        self._send_next(peer)
            except (OSError, EOFError):
                self.stop.wait(0.01)

    def _send_next(self, peer: RawPeer) -> None:
        uid = f"1.2.{self.number}.{len(self.acknowledged) + 1}"
        pixels = random.Random(uid).randbytes(60_000)
        dataset = ct_dataset(uid, study=f"1.2.{self.number}", pixels=pixels)
        if peer.store(dataset, uid, pdv_bytes=30_000) == 0:
            self.acknowledged[uid] = hashlib.sha256(dataset).hexdigest()


def test_nothing_acknowledged_is_lost_when_the_listener_is_killed(tmp_path: Path) -> None:
    """Ten kills at random moments under three senders: each acknowledged instance has its row and its bytes."""
    port = free_port()
    (tmp_path / "config.toml").write_text(f'[node]\ndata_dir = "{tmp_path}"\n[listener]\nport = {port}\n')
    senders = [Sender(number, port) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for number in range(KILLS):
        with _listener(tmp_path, number) as listener:
            wait_until(lambda: listens(port), what="the listener listens", process=listener)
            enough = _acknowledged(senders) + 1 + random.randint(0, 30)
            _wait_for(senders, enough, listener)
            listener.kill()
    for sender in senders:
        sender.stop.set()
        sender.join(30)
    acknowledged = {uid: sha256 for sender in senders for uid, sha256 in sender.acknowledged.items()}
    assert len(acknowledged) > KILLS
    _check(tmp_path, acknowledged)


def _acknowledged(senders: list[Sender]) -> int:
    return sum(len(sender.acknowledged) for sender in senders)


def _wait_for(senders: list[Sender], enough: int, listener: Process) -> None:
    wait_until(lambda: _acknowledged(senders) >= enough, what="more is acknowledged", process=listener)


def _listener(folder: Path, number: int) -> Process:
    return Process(
        [sys.executable, "-c", SCRIPT, folder / "config.toml", f"killed/{number}"],
        name=f"listener {number}",
        folder=folder,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def _check(folder: Path, acknowledged: dict[str, str]) -> None:
    """Rows and bytes of all that was acknowledged; what is left over is cleared away by the next start."""
    config = config_for(folder)
    engine = make_engine(config.database)
    with engine.connect() as connection:
        rows = {row.sop_instance_uid: row for row in connection.execute(sa.select(Instance.__table__))}
        open_associations = connection.scalar(
            sa.select(sa.func.count()).where(Association.closed_at.is_(None)).select_from(Association)
        )
    for uid, sha256 in acknowledged.items():
        assert rows[uid].sha256 == sha256
        data = (config.archive_dir / rows[uid].path).read_bytes()
        dataset = data[144 + int.from_bytes(data[140:144], "little") :]
        assert hashlib.sha256(dataset).hexdigest() == sha256
    assert open_associations is not None
    assert open_associations <= SENDERS
    archive = FolderArchive(config.archive_dir)
    reconcile(engine, archive, older_than_s=0)
    assert sorted(archive.committed(older_than_s=0)) == sorted(row.path for row in rows.values())
    engine.dispose()
