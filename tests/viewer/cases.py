"""The studies that are looked at: one simulated head with two large bleeds, as scanners and archives vary it.

The bleeds are of a size that no network should miss: an intracerebral one on the patient's left, a subdural one on the
right. Nothing about them is symmetric, so whatever is turned, mirrored or shifted on the way shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from ml.data.series import read_volume
from ml.labels import Subtype
from ml.phantom import ExamSpec, SimulatedExam, draw_spec, simulate
from ml.phantom.dicom import write_series
from ml.phantom.exam import as_other_study
from ml.phantom.spec import Bleed, Zone
from ml.volume import Volume

if TYPE_CHECKING:
    from pathlib import Path

    from ml.volume import MaskArray

SLICES, STEP_MM, START_MM, TILT_DEGREES = 24, 5.0, -50.0, 18.0
LEFT_CLOT = Bleed(Subtype.IPH, "parenchyma", (30.0, -4.0, 12.0), 45.0, 64.0, 0.1, 1.3, 4.0, 7)
RIGHT_LAYER = Bleed(Subtype.SDH, "convexity", (-60.0, -10.0, 30.0), 40.0, 62.0, 0.1, 8.0, 0.0, 8)
ANALYSED = ["axial", "tilted gantry", "JPEG-LS", "JPEG 2000", "reversed instance order", "non-square pixels"]
"""Cases that the node reads."""
REJECTED = "missing slice"
"""The case that it rejects; a SEG on it can only come from the truth."""
CONTROL = "negative controls"
"""The study on which the wrong SEGs lie."""


@dataclass(frozen=True, eq=False)
class Study:
    """The files of one case, caudal first, and where the blood is."""

    files: list[Path]
    volume: Volume
    """Read from the files, as the worker does; for a missing slice, simulated."""
    truth: MaskArray
    """(z, y, x) on `volume`."""

    @property
    def uid(self) -> str:
        """Study Instance UID."""
        return str(dcmread(self.files[0], stop_before_pixels=True).StudyInstanceUID)


def head(*, tilt_degrees: float = 0.0) -> ExamSpec:
    """The patient, and the scanner at this gantry tilt."""
    spec = draw_spec(41, institution="A", bleed=False)
    zones = (Zone(SLICES, STEP_MM, STEP_MM),)
    scanner = replace(spec.scanner, zones=zones, tilt_degrees=tilt_degrees, start_mm=START_MM, circular_field=False)
    return replace(spec, head=replace(spec.head, bleeds=(LEFT_CLOT, RIGHT_LAYER)), scanner=scanner)


def write_studies(folder: Path) -> dict[str, Study]:
    """Every case, by its name."""
    axial = simulate(head(), matrix=128)
    tilted = simulate(head(tilt_degrees=TILT_DEGREES), matrix=128)
    studies = {
        "axial": write_study(as_other_study(axial, 1), folder / "axial"),
        "tilted gantry": write_study(as_other_study(tilted, 2), folder / "tilted"),
        "JPEG-LS": write_study(as_other_study(axial, 3), folder / "jpeg-ls", transfer_syntax_uid=JPEGLSLossless),
        "JPEG 2000": write_study(as_other_study(axial, 4), folder / "jpeg-2000", transfer_syntax_uid=JPEG2000Lossless),
        "reversed instance order": write_study(as_other_study(axial, 5), folder / "reversed"),
        "non-square pixels": write_study(_every_second_column(as_other_study(axial, 6)), folder / "non-square"),
        REJECTED: _without_a_slice(as_other_study(axial, 7), folder / "missing"),
        CONTROL: write_study(as_other_study(axial, 8), folder / "control"),
    }
    _reverse_instance_numbers(studies["reversed instance order"].files)
    return studies


def _every_second_column(exam: SimulatedExam) -> SimulatedExam:
    """Pixels twice as wide as high, and half as many columns as rows."""
    geometry = exam.volume.geometry
    height_mm, width_mm = geometry.pixel_spacing_mm
    volume = Volume(exam.volume.hu[:, :, ::2], replace(geometry, pixel_spacing_mm=(height_mm, 2 * width_mm)))
    return replace(exam, volume=volume, labels=exam.labels[:, :, ::2])


def _without_a_slice(exam: SimulatedExam, folder: Path) -> Study:
    """The slice with most blood is lost; the file is gone."""
    whole = write_study(exam, folder)
    lost = int(np.argmax(exam.truth.sum(axis=(1, 2))))
    whole.files.pop(lost).unlink()
    kept = [z for z in range(len(exam.truth)) if z != lost]
    geometry = exam.volume.geometry
    rest = replace(
        geometry,
        positions_lps=geometry.positions_lps[kept],
        sop_instance_uids=tuple(geometry.sop_instance_uids[z] for z in kept),
    )
    return Study(whole.files, Volume(exam.volume.hu[kept], rest), exam.truth[kept])


def write_study(exam: SimulatedExam, folder: Path, *, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> Study:
    """One case in its own folder."""
    files = write_series(exam, folder, transfer_syntax_uid=transfer_syntax_uid)
    return Study(files, read_volume(files), exam.truth)


def _reverse_instance_numbers(files: list[Path]) -> None:
    """The first of the series is the most cranial slice."""
    for number, path in enumerate(reversed(files), start=1):
        ds = dcmread(path)
        ds.InstanceNumber = number
        ds.save_as(path)
