"""`make bench`: every benchmark in turn.

Ratios of one run; absolute times depend on the machine and on what else it does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = {
    "receiving: 960 CT slices of 512 KB, durable, against storescp and Orthanc": "ingest.py",
    "inference: engines against eager PyTorch": "engines.py",
    "training: a step against a plain loop, the loader, pseudo-labels": "training.py",
    "a corpus: decoding and preprocessing an exam, memory against the number of exams": "corpus.py",
    "whole images against a sliding window: cost, AUC and DSC": "inference.py",
    "the default bundle on real heads, as they are, moving, and with blood painted in": "real_heads.py",
    "how hard the simulated exams are: a plain HU threshold on those of the card": "threshold.py",
    "one study of 32 slices: seconds by stage, and what the node adds": "stages.py",
}
WRONG_USAGE = 2


def main() -> int:
    """Run those that were named by a part of their name, or all. 1 when one failed, 2 when there is none to run."""
    wanted = sys.argv[1:] or [""]
    unknown = [word for word in wanted if not any(word in script for script in BENCHMARKS.values())]
    if unknown:
        there_are = ", ".join(BENCHMARKS.values())
        print(f"no benchmark is called {', '.join(unknown)}; there are {there_are}", file=sys.stderr)
        return WRONG_USAGE
    failed = 0
    for title, script in BENCHMARKS.items():
        if not any(word in script for word in wanted):
            continue
        print(f"\n== {title} ({script})", flush=True)
        failed += subprocess.call([sys.executable, str(Path(__file__).parent / script)]) != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
