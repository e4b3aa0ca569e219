"""Lures: places in bleed-free exams that the network of the moment takes for blood. The next round trains on them.

A random patch of a bleed-free exam is easy nearly always; what fails is rare (partial volume at the vertex and the
foramen magnum, dense sinuses, calcified falx). A round of training begins with a look at every bleed-free slice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ml.config import Preprocessing
from ml.data.shards import ExamShard
from ml.files import write_atomically
from ml.inference.preprocessing import to_channels
from ml.training.recipe import Machine
from ml.training.workers import dead_workers_named

BATCH = 8
FAINT = 0.05
"""Pixels of a lower probability do not count: there are very many of them."""
CLASS_PIXELS = 20.0
"""A slice that the classification branch is sure of weighs as much as so many sure pixels."""
LEAST_WEIGHT = 0.5


@dataclass(frozen=True)
class Lure:
    """One slice of a bleed-free exam, and the place in it that looks most like blood."""

    exam: str
    """Name of the exam's folder."""
    index: int
    """Row of the exam's `neighbours`."""
    v: int
    u: int
    weight: float
    """How much of it looks like blood: pixels, each by its probability."""


class _Images(Dataset[Tensor]):
    """Item `i` holds the network's images of exam `i`, one for each analysed slice."""

    def __init__(self, exams: Sequence[ExamShard], config: Preprocessing) -> None:
        self.exams, self.config = exams, config

    def __len__(self) -> int:
        return len(self.exams)

    def __getitem__(self, number: int) -> Tensor:
        """(n, C, v, u)."""
        exam = self.exams[number]
        return torch.from_numpy(to_channels(exam.hu[exam.neighbours].astype(np.float32), self.config))


def find_lures(
    network: nn.Module,
    exams: Sequence[ExamShard],
    config: Preprocessing,
    *,
    machine: Machine,
    progress: Callable[[], None] | None = None,
) -> list[Lure]:
    """Every slice of the bleed-free `exams` that looks a little like blood to `network`; leaves its mode as it was.

    The network must be on the machine's device.

    Raises:
        TrainingError: a loader worker died or hung.
    """
    training = network.training
    network.eval()
    found: list[Lure] = []
    device = torch.device(machine.device)
    workers = machine.loader_workers
    loader = DataLoader(
        _Images(exams, config),
        batch_size=None,
        num_workers=workers,
        timeout=machine.loader_timeout_s if workers else 0,
    )
    with (
        dead_workers_named(),
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=machine.precision == "bfloat16"),
    ):
        for exam, images in zip(exams, loader, strict=True):
            row = 0
            for part in images.split(BATCH):
                logits = network(part.to(device).contiguous(memory_format=torch.channels_last))
                prob = logits.pixels.float().sigmoid().cpu().numpy()
                classes = logits.classes.float().sigmoid().cpu().numpy()
                found += [_lure(exam.folder.name, row + n, prob[n], float(classes[n])) for n in range(len(part))]
                row += len(part)
            if progress is not None:
                progress()
    network.train(training)
    return [lure for lure in found if lure.weight >= LEAST_WEIGHT]


def _lure(exam: str, index: int, prob_vu: npt.NDArray[np.float32], classed: float) -> Lure:
    v, u = np.unravel_index(int(prob_vu.argmax()), prob_vu.shape)
    weight = float(prob_vu[prob_vu > FAINT].sum()) + CLASS_PIXELS * classed
    return Lure(exam, index, int(v), int(u), round(weight, 3))


def save_lures(path: Path, lures: Sequence[Lure]) -> None:
    """As JSON, whole or not at all."""
    write_atomically(path, json.dumps([asdict(lure) for lure in lures]).encode())


def load_lures(path: Path) -> list[Lure]:
    """What `save_lures` wrote."""
    return [Lure(**one) for one in json.loads(path.read_text())]
