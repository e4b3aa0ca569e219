"""A simulated exam: a drawn spec, and the volume with its truth made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml.phantom.draw import draw_spec
from ml.phantom.head import build_head
from ml.phantom.physics import apply_physics
from ml.phantom.scanner import add_headrest, plan, slice_head, table_positions
from ml.phantom.spec import ExamSpec
from ml.volume import MaskArray, Volume

__all__ = ["ExamSpec", "SimulatedExam", "as_other_study", "draw_spec", "simulate", "uid"]

UID_ROOT = "2.25."


def uid(spec: ExamSpec, *parts: object) -> str:
    """A UID that depends on the spec's seed and `parts` alone, derived like a UUID (PS3.5 B.2)."""
    words = np.random.SeedSequence([spec.seed, *(b for part in parts for b in str(part).encode())]).generate_state(4)
    number = 0
    for word in words:
        number = (number << 32) | int(word)
    return UID_ROOT + str(number)


@dataclass(frozen=True, eq=False)
class SimulatedExam:
    """Volume in HU, label per voxel (0 none, 1 EDH, 2 IPH, 3 IVH, 4 SAH, 5 SDH), and the spec behind them."""

    volume: Volume
    labels: npt.NDArray[np.uint8]
    spec: ExamSpec

    @property
    def truth(self) -> MaskArray:
        """(z, y, x) where there is visible fresh blood."""
        return np.asarray(self.labels > 0)

    @property
    def hemorrhage_ml(self) -> float:
        """mL of visible fresh blood."""
        return self.volume.volume_ml(self.truth)


def simulate(spec: ExamSpec, *, matrix: int = 512) -> SimulatedExam:
    """Make the exam that `spec` describes; the same spec and matrix give the same voxels.

    A smaller `matrix` (a multiple of 128) is the same head, slices and field of view on larger pixels, with its own
    noise.
    Raises ValueError for another matrix.
    """
    if matrix < 128 or matrix % 128:
        raise ValueError(f"matrix {matrix} is not a multiple of 128")
    count = len(table_positions(spec.scanner)[0])
    uids = tuple(uid(spec, "instance", number) for number in range(count))
    geometry = plan(spec.scanner, matrix=matrix, uids=uids, frame_uid=uid(spec, "frame"))
    head = build_head(spec.head)
    sliced = slice_head(head, spec.scanner, geometry, matrix=matrix)
    add_headrest(sliced.hu, spec.scanner, geometry)
    hu, bony = apply_physics(sliced, spec.scanner, matrix=matrix)
    return SimulatedExam(Volume(hu, geometry), np.where(bony, np.uint8(0), sliced.label), spec)


def as_other_study(exam: SimulatedExam, seed: int) -> SimulatedExam:
    """The same voxels as a study of another patient: every UID and identifier comes from the seed."""
    spec = replace(exam.spec, seed=seed)
    geometry = replace(
        exam.volume.geometry,
        sop_instance_uids=tuple(uid(spec, "instance", number) for number in range(len(exam.volume.hu))),
        frame_of_reference_uid=uid(spec, "frame"),
    )
    return replace(exam, spec=spec, volume=Volume(exam.volume.hu, geometry))
