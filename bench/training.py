"""Training and pseudo-labelling: patches and slices per second, as ratios measured in one run.

    python bench/training.py [--threads 2] [--rounds 3] [--devices cpu cuda] [--networks compact paper]

- a step of `ml.training.loop` by COMPACT_RECIPE, eager, against a plain loop over the same network written plainly
- the same loop fed by the loader, against ready-made random tensors: the share of the step rate that is kept. On a
  CPU the loader's process takes its time from the network's, so the 95 % that training asks for are a GPU's figure
- slices per second that a teacher labels, with scores written to disk

With a GPU: in bfloat16, with a loader process for every core but two, and the paper's network by PAPER_RECIPE too.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple, cast

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch.utils.data import Dataset

from bench.engines import write_exam as write_scan
from bench.plain import PlainDrn, train_plainly
from ml.bundle import load_bundle
from ml.config import COMPACT_PREPROCESSING, PAPER_PREPROCESSING, Preprocessing
from ml.data.exams import LabelledExam, patient_key
from ml.data.series import read_volume
from ml.data.shards import ExamShard, open_exam, open_folder, write_exam
from ml.inference.engines import make_engine
from ml.labels import Subtype
from ml.networks.patchfcn import COMPACT, PAPER, PatchFcn, PatchFcnConfig
from ml.self_training.labelling import score_exam
from ml.self_training.scores import ScoreStore
from ml.training.augmentation import draw_intensity
from ml.training.intensity import CALM
from ml.training.loader import load_steps
from ml.training.loop import train
from ml.training.recipe import COMPACT_RECIPE, PAPER_RECIPE, Machine, Recipe, Span
from ml.training.sampler import Batch, PatchBatches, Step, to_images
from ml.training.targets import LABELS, Pool
from ml.volume import Volume

WARM_UP = {"cpu": 2, "cuda": 120}
STEPS = {"cpu": 6, "cuda": 360}
"""Steps of a run that are not counted, and all of them: on a GPU enough that what the loader made ahead is used up."""
LOADED = "this loop, loader"
EXAMS = 2
"""One with blood and one without. Patches cost the same whatever they show."""


class Training(NamedTuple):
    """What is trained, and how."""

    name: str
    network: PatchFcnConfig
    config: Preprocessing
    recipe: Recipe


COMPACT_NAME = "compact"
TRAININGS = (
    Training(COMPACT_NAME, COMPACT, COMPACT_PREPROCESSING, COMPACT_RECIPE),
    Training("paper", PAPER, PAPER_PREPROCESSING, PAPER_RECIPE),
)


class ReadyMade(Dataset[Step]):
    """One step of random tensors, again and again: what a loader that costs nothing would give."""

    def __init__(self, training: Training, steps: int, device: str) -> None:
        sampling, random = training.recipe.sampling, torch.Generator().manual_seed(0)
        shape = (sampling.batch, sampling.patch, sampling.patch)
        hu = (torch.rand(shape[0], 3, *shape[1:], generator=random) * 120 - 10).half()
        pixels = (torch.rand(shape, generator=random) < 0.02).to(torch.uint8)
        draws = [draw_intensity(training.recipe.augmentation, np.random.default_rng(n)) for n in range(shape[0])]
        done = device == "cpu"  # by the loader (ml.training.loader)
        self.batch = Batch(hu, torch.tensor([CALM] * len(draws) if done else draws), pixels, torch.ones(shape[0]))
        self.steps, self.config = steps, training.config

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Step:
        return (self.batch,)


def main() -> None:
    """Everything, one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    parser.add_argument("--networks", nargs="+", default=[one.name for one in TRAININGS])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="training-") as name:
        folder = Path(name)
        (folder / "scan").mkdir()
        volume = read_volume(write_scan(folder / "scan"))
        for device in options.devices:
            chosen = [one for one in TRAININGS if one.name in options.networks]
            for training in chosen if device == "cuda" else TRAININGS[:1]:
                exams = _make_exams(folder / training.name, volume, training.config)
                bench_steps(folder, exams, training, device=device, rounds=options.rounds)
            if COMPACT_NAME in options.networks:
                bench_labelling(folder, open_folder(folder / COMPACT_NAME), device=device, rounds=options.rounds)
    if not torch.cuda.is_available():
        print("there is no GPU here: nothing was measured on one")


def _make_exams(folder: Path, volume: Volume, config: Preprocessing) -> list[ExamShard]:
    """32 slices each: the first with a ball of blood, the second without."""
    rows, columns = np.mgrid[:512, :512] - 256
    exams = []
    for number in range(EXAMS):
        labels = np.zeros(volume.hu.shape, dtype=np.uint8)
        if number == 0:
            labels[10:16, np.hypot(rows, columns - 60) < 40] = Subtype.IPH
        name = f"{number:06}"
        exam = LabelledExam("bench", name, patient_key("bench", name), volume, labels)
        write_exam(folder / name, exam, config)
        exams.append(open_exam(folder / name))
    return exams


def bench_steps(folder: Path, exams: list[ExamShard], training: Training, *, device: str, rounds: int) -> None:
    """Plain loop, this loop, and this loop with its loader, by turns; medians of the rounds' ratios."""
    rates: dict[str, list[float]] = {
        name: [] for name in ("plain loop", "one by one", "this loop", LOADED, "loader alone")
    }
    patches = training.recipe.sampling.batch
    count = STEPS[device]
    batches = PatchBatches(
        [Pool(exams, LABELS)],
        training.config,
        sampling=training.recipe.sampling,
        augmentation=training.recipe.augmentation,
        seed=0,
        steps=count,
    )
    ready = ReadyMade(training, count, device)
    workers = max(1, (os.cpu_count() or 1) - 2)
    for number in range(rounds):
        torch.manual_seed(number)
        if training.network is COMPACT:
            (batch,) = ready[0]
            images = to_images(batch, training.config)
            steps = itertools.repeat((images, batch.pixels, batch.classes), count)
            rates["plain loop"].append(_rate(train_plainly(PlainDrn(COMPACT), steps, device=device), device, patches))
        run = folder / f"{device}-{training.name}-{number}"
        if device == "cuda":
            rate = _loop_rate(run / "one", ready, training, device=device, workers=0, recorded=False)
            rates["one by one"].append(rate)
        rates["this loop"].append(_loop_rate(run / "ready", ready, training, device=device, workers=0))
        rates[LOADED].append(_loop_rate(run / "loader", batches, training, device=device, workers=workers))
        rates["loader alone"].append(_loader_rate(batches, device=device, workers=workers, patches=patches))
    for name, against in (
        ("this loop", "plain loop"),
        ("this loop", "one by one"),
        (LOADED, "this loop"),
        ("loader alone", "this loop"),
    ):
        if rates[against]:
            ratio = median(one / other for one, other in zip(rates[name], rates[against], strict=True))
            print(
                f"{device:5} {training.name:8} {name:20} {median(rates[name]):8.1f} patches/s {ratio:6.2f} x {against} "
                f"({median(rates[against]):.1f})",
                flush=True,
            )


def _loop_rate(
    folder: Path, steps: Dataset[Step], training: Training, *, device: str, workers: int, recorded: bool = True
) -> float:
    """Patches per second of `ml.training.loop.train`: averaged weights, clipping and journal included."""
    moments: list[float] = []
    train(
        PatchFcn(training.network),
        cast("PatchBatches", steps),
        training.recipe,
        Span(STEPS[device]),
        folder=folder,
        machine=Machine(
            device=device,
            precision="float32" if device == "cpu" else "bfloat16",
            loader_workers=workers,
            checkpoint_steps=STEPS[device],
            recorded=recorded,
            tensorboard=False,
        ),
        progress=lambda *_: moments.append(time.perf_counter()),
    )
    return _rate(moments, device, training.recipe.sampling.batch)


def _loader_rate(batches: PatchBatches, *, device: str, workers: int, patches: int) -> float:
    """Patches per second that the loader's processes make while nobody trains: above the loop's, they never lag.

    Also prints what a step takes of the process that receives it.
    """
    machine = Machine(device=device, loader_workers=workers)
    moments = [(time.perf_counter(), time.process_time()) for _ in load_steps(batches, 0, len(batches), machine)]
    received = [processor for _, processor in moments[WARM_UP[device] - 1 :]]
    took_ms = (received[-1] - received[0]) / (len(received) - 1) * 1000
    print(f"{device:5} {took_ms:.2f} ms of processor time to receive a step of {patches} patches", flush=True)
    return _rate([moment for moment, _ in moments], device, patches)


def _rate(moments: list[float], device: str, patches: int) -> float:
    """Patches per second from the end of the warm-up; the last step also writes a checkpoint and is left out."""
    counted = moments[WARM_UP[device] - 1 : -1]
    return patches * (len(counted) - 1) / (counted[-1] - counted[0])


def bench_labelling(folder: Path, exams: list[ExamShard], *, device: str, rounds: int) -> None:
    """Slices per second of the default bundle as a teacher."""
    teacher = load_bundle("default")
    run = make_engine(teacher.make_network(), "auto", device=device)
    store = ScoreStore(folder / f"scores-{device}")
    store.folder.mkdir()
    chosen = min(exams, key=lambda exam: abs(len(exam.neighbours) - 32))
    score_exam(run, teacher, chosen, store)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        score_exam(run, teacher, chosen, store)
        times.append(time.perf_counter() - start)
    kept = np.median(times)
    print(
        f"{device:5} {'pseudo-labelling':20} {len(chosen.neighbours) / kept:8.1f} slices/s   ({run.name})", flush=True
    )


if __name__ == "__main__":
    main()
