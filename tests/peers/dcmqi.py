"""dcmqi's readers (C++ on DCMTK), a code base of its own: what it finds in a TID 1500 report."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.peers.presence import need, program

if TYPE_CHECKING:
    from pydicom import Dataset

REPORT = "sr.dcm"


def read_report(sr: Dataset) -> list[dict[str, Any]]:
    """The measurement groups in their order, as tid1500reader writes them; it must find nothing to complain of."""
    need("dcmqi")
    with tempfile.TemporaryDirectory() as folder:
        sr.save_as(Path(folder, REPORT), enforce_file_format=True)
        command = [str(program("tid1500reader")), "--inputDICOM", REPORT, "--outputMetadata", "sr.json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        assert "\nE:" not in done.stdout + done.stderr, done.stdout + done.stderr
        groups: list[dict[str, Any]] = json.loads(Path(folder, "sr.json").read_text(encoding="utf-8"))["Measurements"]
    return groups


def values(group: dict[str, Any]) -> dict[str, float]:
    """Meaning of the quantity -> its number."""
    return {one["quantity"]["CodeMeaning"]: float(one["value"]) for one in group["measurementItems"]}
