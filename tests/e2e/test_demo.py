"""`python -m worker.demo`, as `make demo` calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from tests.dicom_factory import ct_series
from tests.e2e.node import REPO

pytestmark = pytest.mark.e2e


def demo(*arguments: object, out: Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command = [sys.executable, "-m", "worker.demo", *(str(a) for a in arguments), "--out", str(out)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=280)


def test_the_simulated_head_goes_through_the_whole_node(tmp_path: Path) -> None:
    """Without arguments: a simulated head with a bleed, its result beside the truth, all files in OUT."""
    done = demo(out=tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {
        "study_instance_uid", "series_instance_uid", "series_reason", "exam_probability", "hemorrhage_ml",
        "slice_scores", "bundle", "seconds", "simulated_truth_ml",
    } <= set(summary)  # fmt: skip
    assert "simulated truth" in done.stdout
    assert "chosen" in done.stdout
    seg, sr = (pydicom.dcmread(tmp_path / "out" / f"{name}.dcm") for name in ("seg", "sr"))
    assert {str(seg.StudyInstanceUID), str(sr.StudyInstanceUID)} == {summary["study_instance_uid"]}
    assert (tmp_path / "out" / "overlay.png").read_bytes().startswith(b"\x89PNG")
    sliced = {str(r.ReferencedSOPInstanceUID) for r in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert sliced <= set(summary["slice_scores"])


def test_a_folder_without_dicom_is_named_as_it_is(tmp_path: Path) -> None:
    """Brackets are no markup."""
    folder = tmp_path / "[old] heads"
    folder.mkdir()
    done = demo("--study", folder, out=tmp_path / "out")
    assert (done.returncode, done.stdout) == (3, f"not analysed: NO_IMAGES: {folder} holds no DICOM file\n")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rejected"] == "NO_IMAGES"


def test_a_study_with_a_gap_ends_with_exit_3_and_an_sr(tmp_path: Path) -> None:
    """The reason is in the summary and on the screen; there is no SEG, also not that of an earlier run."""
    ct_series(tmp_path / "study", slices=24)
    files = sorted((tmp_path / "study").iterdir())
    files[11].unlink()
    files[3].write_bytes(files[3].read_bytes()[132:])  # as old archives leave it, without preamble
    (tmp_path / "study" / "README.txt").write_text("not DICOM")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "seg.dcm").write_text("of an earlier run")
    done = demo("--study", tmp_path / "study", out=tmp_path / "out")
    assert done.returncode == 3, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["rejected"] == "GAP_IN_SLICES"
    assert summary["reason"]
    assert "GAP_IN_SLICES" in done.stdout
    assert "1 files were not DICOM" in done.stdout
    assert pydicom.dcmread(tmp_path / "out" / "sr.dcm").Modality == "SR"
    assert not (tmp_path / "out" / "seg.dcm").exists()


def test_a_folder_without_dicom_is_rejected_and_two_studies_are_wrong_usage(tmp_path: Path) -> None:
    """No node is started for either."""
    (tmp_path / "empty").mkdir()
    assert demo("--study", tmp_path / "empty", out=tmp_path / "out").returncode == 3
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rejected"] == "NO_IMAGES"
    for name in ("one", "two"):
        ct_series(tmp_path / "both" / name, slices=2)
    assert demo("--study", tmp_path / "both", out=tmp_path / "out").returncode == 2
    assert demo("--study", tmp_path / "nowhere", out=tmp_path / "out").returncode == 2
