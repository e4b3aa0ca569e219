"""How fast CT slices are received: this node (durable before it answers), DCMTK's storescp (not durable) and Orthanc.

960 slices of 512 KB by DCMTK's storescu over one and over four associations, in rounds, so that each receiver meets the
same disk and the same neighbours; medians and ratios at the end. A line for the disk alone tells what durability costs
whatever the program: write, fsync, rename, fsync of the folder, one file after the other. Orthanc syncs the file alone.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from tests.dicom_factory import ct_series
from tests.peers import Orthanc, Process, StoreScp, free_port, wait_until
from tests.peers.presence import absent, program
from tests.peers.process import listens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

ASSOCIATIONS = 4
SLICES = 240
"""In each of the four studies."""
ROUNDS = 3
PDU_BYTES = 131072
LISTENER = "import sys; from dicom_node.service import run_listener; from dicom_node.config import load_config; "
LISTENER += "from pathlib import Path; run_listener(load_config(Path(sys.argv[1])))"


def main() -> int:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = arguments.parse_args().rounds
    if absent("dcmtk"):
        print("DCMTK is not installed: make peers")
        return 1
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="ingest-") as name:
        folders = _make_studies(Path(name))
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            rates["disk alone", 1].append(_disk_rate(Path(name)))
            for receiver, run in _receivers(Path(name)).items():
                for associations in (1, ASSOCIATIONS):
                    with run() as port:
                        rates[receiver, associations].append(_send(folders, port, associations))
    _report(rates)
    return 0


def _receivers(folder: Path) -> dict[str, Callable[[], AbstractContextManager[int]]]:
    """Name -> what starts it empty and gives its port."""
    receivers: dict[str, Callable[[], AbstractContextManager[int]]] = {
        "this node": lambda: _node(folder, processes=1),
        "this node, 2 processes": lambda: _node(folder, processes=2),
        "storescp": _storescp,
    }
    if not absent("orthanc"):
        receivers["Orthanc"] = _orthanc
    return receivers


@contextmanager
def _node(folder: Path, *, processes: int) -> Iterator[int]:
    """The listener as `dicom-node serve --role listener` runs it, so many processes on one port."""
    home, port = folder / "node", free_port()
    home.mkdir()
    config = home / "config.toml"
    listener = (
        f"port = {port}\ncheck_called_ae_title = false\nacceptor_processes = {processes}\nmax_pdu_bytes = {PDU_BYTES}"
    )
    config.write_text(f'[node]\ndata_dir = "{home}"\n[listener]\n{listener}\n')
    command = [sys.executable, "-c", LISTENER, str(config)]
    started = []
    try:
        for number in range(processes):
            process = Process(command, name=f"listener {number}", folder=home)
            started.append(process.start())
            wait_until(lambda: listens(port), what="it listens", process=process)
        if processes > 1:
            time.sleep(2)  # the second one shares the port: nothing tells from outside that it is ready
        yield port
    finally:
        for process in started:
            process.stop()
        shutil.rmtree(home)


@contextmanager
def _storescp() -> Iterator[int]:
    with StoreScp(options=("-pdu", str(PDU_BYTES), "--fork")) as receiver:
        yield receiver.port
        shutil.rmtree(receiver.folder)


@contextmanager
def _orthanc() -> Iterator[int]:
    with Orthanc(options={"MaximumPduLength": PDU_BYTES, "DicomCheckCalledAet": False}) as receiver:
        yield receiver.dicom_port
        receiver.wipe()


def _make_studies(folder: Path) -> list[Path]:
    """Four studies with pixels that do not compress."""
    folders = []
    for number in range(ASSOCIATIONS):
        rng = np.random.default_rng(number)
        folders.append(folder / f"study{number}")
        ct_series(
            folders[-1],
            slices=SLICES,
            rows=512,
            columns=512,
            spacing_mm=0.625,
            pixels=lambda _, rng=rng: rng.integers(-1000, 1000, (512, 512)),  # type: ignore[misc]
        )
    return folders


def _send(folders: list[Path], port: int, associations: int) -> float:
    """Slices per second over so many associations at once."""
    parts = [folders] if associations == 1 else [[one] for one in folders]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    common = [str(program("storescu")), "--max-send-pdu", str(PDU_BYTES), "+sd", "127.0.0.1", str(port)]
    began = time.monotonic()
    senders = [
        subprocess.Popen([*common, *map(str, part)], env=environment, stdout=subprocess.DEVNULL) for part in parts
    ]
    failed = [sender.wait() for sender in senders]
    assert not any(failed), "a sender failed"
    return ASSOCIATIONS * SLICES / (time.monotonic() - began)


def _disk_rate(folder: Path) -> float:
    """Files of 512 KB per second, each durable before the next."""
    target, data = folder / "disk", random.Random(0).randbytes(526_000)
    target.mkdir()
    fd = os.open(target, os.O_RDONLY)
    began, count = time.monotonic(), 200
    for number in range(count):
        with (target / "part").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        (target / "part").rename(target / str(number))
        os.fsync(fd)
    rate = count / (time.monotonic() - began)
    os.close(fd)
    shutil.rmtree(target)
    return rate


def _report(rates: dict[tuple[str, int], list[float]]) -> None:
    reference = {n: statistics.median(rates["Orthanc", n]) for n in (1, ASSOCIATIONS) if ("Orthanc", n) in rates}
    print(f"\n{'slices per second':32}{'associations':>14}{'median':>9}{'worst':>8}{'best':>8}{'x Orthanc':>11}")
    for (receiver, associations), values in rates.items():
        median = statistics.median(values)
        ratio = f"{median / reference[associations]:10.2f}" if associations in reference else ""
        print(f"{receiver:32}{associations:>14}{median:9.0f}{min(values):8.0f}{max(values):8.0f} {ratio}")


if __name__ == "__main__":
    sys.exit(main())
