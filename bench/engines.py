"""Engines against eager PyTorch, decoding and a whole exam, as ratios measured in one run.

    python bench/engines.py [--threads 2] [--repeats 3]

Absolute times depend on the machine and on what else it does; ratios of one run do less so.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from ml.bundle import load_bundle
from ml.data.series import read_volume
from ml.inference.engines import EngineName, make_engine
from ml.inference.predictor import Predictor
from ml.networks.patchfcn import COMPACT, PAPER, PatchFcn, PatchFcnConfig
from ml.volume import Volume

ENGINES: tuple[EngineName, ...] = ("torch", "torch-channels-last", "openvino")
SLICES = 32


def best_of(repeats: int, work: Callable[[], object]) -> float:
    """Shortest time of one call, seconds, after one call to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def bench_engines(name: str, config: PatchFcnConfig, size: int, *, threads: int, repeats: int) -> None:
    """Seconds per slice of every engine, its speed against eager, and its distance in probability."""
    torch.manual_seed(0)
    network = PatchFcn(config).eval()
    torch.nn.init.zeros_(network.get_parameter("pixel_score.bias"))
    images = np.random.default_rng(0).uniform(-1, 1, (1, config.trunk.in_channels, size, size)).astype(np.float32)
    reference = make_engine(network, "torch", device="cpu")(images).prob
    eager_s = 0.0
    for engine_name in ENGINES:
        engine = make_engine(network, engine_name, device="cpu", threads=threads)
        taken_s = best_of(repeats, lambda engine=engine: engine(images))  # type: ignore[misc]
        eager_s = eager_s or taken_s
        apart = float(np.abs(engine(images).prob - reference).max())
        print(f"{name:24} {engine_name:20} {taken_s:8.3f} s/slice {eager_s / taken_s:6.2f} x eager   {apart:.1e} apart")


def write_exam(folder: Path) -> list[Path]:
    """32 CT images of 512 x 512: a skull around noisy brain."""
    rows, columns = np.mgrid[:512, :512] - 256
    radius = np.hypot(rows / 1.2, columns)
    rng = np.random.default_rng(0)
    paths = []
    for z in range(SLICES):
        hu = np.where(radius < 160, 900, -1000)
        hu = np.where(radius < 148, 35 + rng.normal(0, 4, radius.shape), hu)
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{z + 1}")
        ds.SeriesInstanceUID, ds.Modality = "2.25.1000", "CT"
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 5 * z], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.RescaleSlope, ds.RescaleIntercept = [0.47, 0.47], 1, -1024
        ds.Rows = ds.Columns = 512
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.PixelData = (hu + 1024).astype(np.uint16).tobytes()
        paths.append(folder / f"{z:03}.dcm")
        pydicom.dcmwrite(paths[-1], ds, enforce_file_format=True)
    return paths


def bench_exam(volume: Volume, *, threads: int, repeats: int) -> None:
    """The default bundle on a whole exam, preprocessing and measures included."""
    eager_s = 0.0
    for engine_name in ENGINES:
        predictor = Predictor(load_bundle("default"), device="cpu", engine=engine_name, threads=threads)
        taken_s = best_of(repeats, lambda predictor=predictor: predictor.predict(volume))  # type: ignore[misc]
        eager_s = eager_s or taken_s
        print(f"{'exam of 32 slices':24} {engine_name:20} {taken_s:8.3f} s/exam  {eager_s / taken_s:6.2f} x eager")


def main() -> None:
    """Everything, one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench_engines("compact 256x256", COMPACT, 256, threads=options.threads, repeats=options.repeats)
    bench_engines("DRN-D-38 512x512", PAPER, 512, threads=options.threads, repeats=options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_exam(Path(folder))
        decode_s = best_of(options.repeats, lambda: read_volume(paths))
        print(f"{'decode, 32 slices':24} {'':20} {decode_s:8.3f} s/exam")
        bench_exam(read_volume(paths), threads=options.threads, repeats=options.repeats)


if __name__ == "__main__":
    main()
