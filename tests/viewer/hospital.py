"""All cases in one PACS, analysed by one node, looked at by one reader."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.e2e.node import Node
from tests.peers import Chromium, Ohif, Orthanc, dcmsend
from tests.viewer.cases import ANALYSED, CONTROL, REJECTED, Study, write_studies
from tests.viewer.session import Overlay, Reader
from tests.viewer.truth import write_truth

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom import Dataset

PICTURES = Path(__file__).parents[2] / "build" / "viewer"
TRUTH, REVERSED, MIRRORED = "simulated truth", "slices reversed", "mirrored"
"""Series descriptions of the SEGs that come from the simulator."""


@dataclass(frozen=True, eq=False)
class Hospital:
    """What there is to look at, and what has been seen."""

    studies: dict[str, Study]
    jobs: dict[str, dict[str, Any]]
    """Case -> the job as the node shows it."""
    segs: dict[str, dict[str, Dataset]]
    """Case -> series description -> SEG, as the PACS gives it."""
    reader: Reader
    seen: dict[str, dict[str, Overlay]] = field(default_factory=dict)

    def look(self, case: str) -> dict[str, Overlay]:
        """Series description -> what the viewer overlays. Each study is opened once; a picture of each SEG is kept."""
        if case not in self.seen:
            study = self.studies[case]
            self.reader.open_study(study.uid)
            found = {}
            for name, seg in self.segs[case].items():
                found[name] = overlay = self.reader.open_segmentation(seg, slices=len(study.files))
                fullest = max(overlay.labels, key=lambda uid: np.count_nonzero(overlay.labels[uid]))
                self.reader.take_picture(_picture(case, name), sop_instance_uid=fullest)
            self.seen[case] = found
        return self.seen[case]


@contextmanager
def open_hospital(folder: Path) -> Iterator[Hospital]:
    """Studies and results are where they belong; the viewer is open."""
    studies = write_studies(folder / "studies")
    with Orthanc() as pacs:
        for study in studies.values():
            dcmsend(study.files, pacs.dicom_port)
        jobs = _analyse({case: studies[case] for case in [*ANALYSED, REJECTED]}, pacs, folder / "node")
        for number, seg in enumerate(_segs_of_the_simulator(studies)):
            seg.save_as(folder / f"{number}.dcm", enforce_file_format=True)
            pacs.upload(folder / f"{number}.dcm")
        segs = {
            case: {str(seg.SeriesDescription): seg for seg in pacs.fetch(study.uid, modality="SEG")}
            for case, study in studies.items()
        }
        with Ohif(pacs.url) as viewer, Chromium() as browser:
            yield Hospital(studies, jobs, segs, Reader(browser, viewer))


def _analyse(studies: dict[str, Study], pacs: Orthanc, folder: Path) -> dict[str, dict[str, Any]]:
    with Node(folder, destinations={"pacs": (pacs.ae_title, pacs.dicom_port)}) as node:
        for study in studies.values():
            dcmsend(study.files, node.port, called=node.ae_title)
        return {case: node.wait_for_end(study.uid, timeout_s=300)["jobs"][-1] for case, study in studies.items()}


def _segs_of_the_simulator(studies: dict[str, Study]) -> Iterator[Dataset]:
    for case in [*ANALYSED, REJECTED]:
        yield write_truth(studies[case], studies[case].truth, name=TRUTH)
    control = studies[CONTROL]
    yield write_truth(control, control.truth, name=TRUTH)
    yield write_truth(control, control.truth[::-1], name=REVERSED)
    yield write_truth(control, control.truth[:, :, ::-1], name=MIRRORED)


def _picture(case: str, name: str) -> Path:
    return PICTURES / (re.sub(r"[^a-z0-9]+", "-", f"{case} {name}".lower()) + ".png")
