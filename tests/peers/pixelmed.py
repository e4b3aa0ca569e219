"""PixelMed's DicomSRValidator: structured reports against their templates, by an independent implementation (Java).

Its exit status is always 0, so its words are read. It takes one template of PS3.16 for all measurement groups of a
document: groups of one kind have to be shown to it by themselves (`only_groups`).
"""

from __future__ import annotations

import copy
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.peers.dicom3tools import Verdict
from tests.peers.presence import need, program
from worker.results.report_tree import concept, walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom import Dataset

UNLIMITED = [f"-Djdk.xml.{name}=0" for name in ("xpathExprOpLimit", "xpathExprGrpLimit", "xpathTotalOpLimit")]
"""Without these Java 17 gives up on its large expressions (JAXP0801003)."""
WHOLE = ("Found Root Template TID_1500", "Root Template Validation Complete", "IOD validation complete")
"""What it says of every report that it has looked at from end to end."""
QUICK_START = ["-Xshare:auto", "-XX:TieredStopAtLevel=1"]


def validate_report(sr: Dataset) -> Verdict:
    """Checks a report against TID 1500; a validator that does not come to its end is an error too."""
    need("pixelmed")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sr.dcm")
        sr.save_as(path, enforce_file_format=True)
        classes = ["-cp", str(program("pixelmed.jar")), "com.pixelmed.validate.DicomSRValidator"]
        done = subprocess.run(
            [program("java"), *QUICK_START, *UNLIMITED, *classes, path],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
    lines = done.stdout.splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    errors += [f"not said: {words}" for words in WHOLE if words not in done.stdout]
    return Verdict(tuple(errors), tuple(line for line in lines if line.startswith("Warning")), done.stdout)


def only_groups(sr: Dataset, wanted: Callable[[Dataset], bool]) -> Dataset:
    """The same report with some of its measurement groups."""
    part = copy.deepcopy(sr)
    container = next(item for item in walk(part) if concept(item) == "126010")
    container.ContentSequence = [group for group in container.ContentSequence if wanted(group)]
    assert container.ContentSequence, "no group is left"
    return part
