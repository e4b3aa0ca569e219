"""A corpus on its way to the network: what decoding and preprocessing cost, and the memory that many exams take.

    python bench/corpus.py [--slices 32] [--few 8] [--many 64]

Costs are those of one exam of 512 x 512 pixels on one core, in each transfer syntax that archives keep. Memory is the
peak of each command's process for a few exams and for many, small ones of equal voxels, without pages of mapped files:
those belong to the system, which takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from ml.bundle import load_bundle
from ml.data.series import read_volume
from ml.inference.predictor import Predictor
from ml.inference.preprocessing import prepare
from ml.phantom import draw_spec, simulate
from ml.phantom.dicom import write_series
from ml.phantom.exam import SimulatedExam, as_other_study
from ml.phantom.spec import Zone

SYNTAXES = {
    "Explicit VR Little Endian": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
REPEATS = 3
SMALL_MATRIX, SMALL_SLICES = 256, 24
MEASURED = """
import atexit, re
atexit.register(lambda: print(*re.findall(r"(?:VmHWM|RssFile):\\s+(\\d+) kB", open("/proc/self/status").read())))
from ml.cli import main
main()
"""
"""The command line of `ml`, which ends with the peak of its memory and what is mapped of files, KiB."""
Result = TypeVar("Result")


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--many", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        show_costs(_exam(options.slices, 512), Path(folder, "costs"))
        show_memory(Path(folder, "memory"), options.few, options.many)


def show_costs(exam: SimulatedExam, folder: Path) -> None:
    """Seconds of each part of the way, and as a share of what the network takes for the same exam."""
    predictor = Predictor(load_bundle("default"), device="cpu", threads=1)
    config = predictor.bundle.config.preprocessing
    predictor.warm_up()
    network_s, _ = _fastest(lambda: predictor.analyse(exam.volume))
    prepare_s, _ = _fastest(lambda: prepare(exam.volume, config))
    network_s -= prepare_s
    print(f"One exam of {len(exam.volume.hu)} slices on one core; the network takes {network_s:.2f} s for it")
    print(f"{'':28}{'s':>8}{'of the network':>16}")
    for name, syntax in SYNTAXES.items():
        files = write_series(exam, folder / syntax, transfer_syntax_uid=syntax)
        decode_s, volume = _fastest(lambda files=files: read_volume(files))  # type: ignore[misc]
        if not np.array_equal(volume.hu, read_volume(files).hu):
            raise AssertionError("decoding twice gave other voxels")
        print(f"{f'decode {name}':28}{decode_s:8.2f}{decode_s / network_s:15.0%}")
    print(f"{'to the network grid':28}{prepare_s:8.2f}{prepare_s / network_s:15.0%}")


def show_memory(folder: Path, few: int, many: int) -> None:
    """Peak memory of each step of self-training for both numbers of exams, and what an exam adds."""
    peaks = {count: _peaks(folder / str(count), count) for count in (few, many)}
    print(f"\nPeak memory in MiB, exams of {SMALL_SLICES} slices of {SMALL_MATRIX} x {SMALL_MATRIX}")
    print(f"{'':16}{f'{few} exams':>12}{f'{many} exams':>12}{'per exam':>12}")
    for step, small in peaks[few].items():
        large = peaks[many][step]
        print(f"{step:16}{small:12.0f}{large:12.0f}{(large - small) / (many - few):12.2f}")


def _peaks(folder: Path, exams: int) -> dict[str, float]:
    exam = _exam(SMALL_SLICES, SMALL_MATRIX)
    for number in range(exams):
        write_series(as_other_study(exam, number), folder / "dicom" / f"{number:05}")
    shards, scores = folder / "shards", folder / "scores"
    return {
        "prepare": _peak("prepare", "folder", folder / "dicom", "--out", shards, "--workers", "0"),
        "pseudo-label": _peak("pseudo-label", "default", "--unlabelled", shards, "--out", scores, "--device", "cpu"),
        "rank": _peak("rank", scores, "--unlabelled", shards, "--out", folder / "ranking"),
    }


def _peak(*command: str | Path) -> float:
    """MiB of `python -m ml <command>`."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[1],
    )
    if done.returncode:
        raise SystemExit(f"python -m ml {command[0]} ended with {done.returncode}: {done.stderr}")
    peak, mapped = (int(word) / 1024 for word in done.stdout.split()[-2:])
    return peak - mapped


def _exam(slices: int, matrix: int) -> SimulatedExam:
    spec = draw_spec(7, institution="A", bleed=True)
    scanner = replace(spec.scanner, zones=(Zone(slices, 5.0, 5.0),), tilt_degrees=0.0)
    return simulate(replace(spec, scanner=scanner), matrix=matrix)


def _fastest(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of the quickest of a few times, and what came of it."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


if __name__ == "__main__":
    main()
