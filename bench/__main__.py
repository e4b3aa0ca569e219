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
    "the default bundle on two real heads, as they are and with blood painted in": "real_heads.py",
    "one study of 32 slices: seconds by stage, and what the node adds": "stages.py",
}


def main() -> int:
    """Run those that were named, or all. The number that failed."""
    wanted = sys.argv[1:]
    failed = 0
    for title, script in BENCHMARKS.items():
        if wanted and not any(word in script for word in wanted):
            continue
        print(f"\n== {title} ({script})", flush=True)
        failed += subprocess.call([sys.executable, str(Path(__file__).parent / script)]) != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
