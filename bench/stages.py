"""One study of 32 slices of 512 x 512 through a whole node: seconds by stage, and what the node adds to them.

    python bench/stages.py [--repeats 3]

"added" is the time from the last C-STORE response to the SR stored in the PACS stand-in, less the job's own stages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.dicom_factory import ct_series
from tests.e2e.node import Node
from tests.peers import storescu
from worker.pacs_stand_in import PacsStandIn

SLICES = 32


def main() -> None:
    """Send one study after another and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    stages: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch, PacsStandIn(Path(scratch) / "pacs") as pacs:
        destinations = {"pacs": (pacs.ae_title, pacs.port)}
        worker: dict[str, dict[str, object]] = {"worker": {"threads": 0}, "completion": {"quiet_s": 60.0}}
        with Node(Path(scratch) / "node", destinations=destinations, sections=worker) as node:
            node.process.wait_for_line("worker ready")
            for number in range(repeats + 1):
                seconds = _one_study(node, pacs, Path(scratch) / f"study-{number}", number)
                for stage, taken in seconds.items():
                    stages.setdefault(stage, []).append(taken)
    for stage, times in stages.items():
        print(f"{stage:10} {median(times[1:]):7.3f} s   (first study of the process {times[0]:.3f} s)")


def _one_study(node: Node, pacs: PacsStandIn, folder: Path, seed: int) -> dict[str, float]:
    """Seconds by stage of one study; the first of a process also pays for what is loaded once."""
    series = ct_series(folder, slices=SLICES, rows=512, columns=512, seed=seed, bleed_radius_mm=15.0)
    before = len(pacs.received())
    started = time.perf_counter()
    storescu([folder], node.port, called=node.ae_title)
    sent = time.perf_counter()
    while len(pacs.received()) < before + 2:
        time.sleep(0.01)
    arrived = time.perf_counter()
    summary = node.wait_for_end(str(series[0].StudyInstanceUID))["jobs"][-1]["summary"]
    own = sum(summary["seconds"].values())
    return {"C-STORE": sent - started, **summary["seconds"], "job": own, "added": arrived - sent - own}


if __name__ == "__main__":
    main()
