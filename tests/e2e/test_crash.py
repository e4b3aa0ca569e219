"""Parts of the node are killed at random while studies arrive; at the end nothing is lost and nothing is doubled."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.dicom_factory import ct_series
from tests.e2e.node import Node
from tests.peers import storescu, wait_until

if TYPE_CHECKING:
    from tests.peers import Orthanc

KILLS = int(os.environ.get("CRASH_TEST_KILLS", "100"))
SEED = int(os.environ.get("CRASH_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
STUDIES = 12
PARTS = ("listener", "worker", "sweeper")


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.peer("dcmtk", "orthanc")
def test_nothing_is_lost_or_doubled_when_parts_are_killed(orthanc: Orthanc, tmp_path: Path) -> None:
    """100 SIGKILLs on listener, worker and sweeper: received = processed + rejected, one SEG and one SR per study.

    Every fourth study has a gap in its slices: it must end rejected, with its SR. CRASH_TEST_SEED repeats a run.
    """
    sys.stdout.write(f"CRASH_TEST_SEED={SEED} CRASH_TEST_KILLS={KILLS}\n")
    chance = random.Random(SEED)
    studies = {_make_study(tmp_path / f"study-{n}", n): tmp_path / f"study-{n}" for n in range(STUDIES)}
    patient = {"worker": {"threads": 1, "max_worker_deaths": 1000, "max_attempts": 1000, "lease_s": 4.0}}
    destinations = {"pacs": (orthanc.ae_title, orthanc.dicom_port)}
    with Node(tmp_path / "node", destinations=destinations, sections=patient) as node:
        done = threading.Event()
        sender = threading.Thread(target=_send_all, args=(node, list(studies.values()), done), daemon=True)
        sender.start()
        killed = _kill_at_random(node, chance)
        wait_until(done.is_set, what="every study was acknowledged whole", timeout_s=300)
        wait_until(lambda: _settled(node), what="every study has ended and was delivered", timeout_s=300)
        ledger = node.json("status")
        shown = {uid: node.study(uid) for uid in studies}
    assert sum(killed.values()) == KILLS
    assert all(killed[part] > 0 for part in PARTS), killed
    assert ledger["balances"]
    counts = ledger["studies"]
    assert counts["received"] == counts["processed"] + counts["rejected"] == STUDIES
    assert ledger["instances"]["held"] == sum(len(list(folder.iterdir())) for folder in studies.values())
    for uid, folder in studies.items():
        rejected = (folder.parent / f"{folder.name}.rejected").exists()
        held = sorted(str(ds.Modality) for ds in orthanc.fetch(uid))
        assert held == (["SR"] if rejected else ["SEG", "SR"]), (uid, held, shown[uid]["jobs"])


def _make_study(folder: Path, number: int) -> str:
    """A small study; every fourth one lacks a slice. Returns its Study Instance UID."""
    series = ct_series(folder, slices=24, seed=number, bleed_radius_mm=12.0 * (number % 2))
    if number % 4 == 3:
        sorted(folder.iterdir())[11].unlink()
        (folder.parent / f"{folder.name}.rejected").touch()
    return str(series[0].StudyInstanceUID)


def _send_all(node: Node, folders: list[Path], done: threading.Event) -> None:
    """A PACS that sends a study again until every instance was acknowledged."""
    for folder in folders:
        while storescu([folder], node.port, called=node.ae_title, check=False).returncode != 0:
            time.sleep(0.2)
        time.sleep(0.5)
    done.set()


def _kill_at_random(node: Node, chance: random.Random) -> dict[str, int]:
    """SIGKILL one running part at a time, after waits that let work begin. How often each was killed."""
    killed = dict.fromkeys(PARTS, 0)
    while sum(killed.values()) < KILLS:
        time.sleep(chance.choice([0.05, 0.2, 0.5, 1.0, 2.0]))
        part = chance.choice(PARTS)
        running = node.parts(part)
        if not running:
            continue
        try:
            chance.choice(running).kill()
        except psutil.NoSuchProcess:
            continue
        killed[part] += 1
    return killed


def _settled(node: Node) -> bool:
    """True when nothing is received, queued, running or waiting to be delivered."""
    ledger = node.ledger()
    studies, deliveries = ledger["studies"], ledger["deliveries"]
    return not any(studies[name] for name in ("receiving", "queued", "running")) and deliveries["pending"] == 0
