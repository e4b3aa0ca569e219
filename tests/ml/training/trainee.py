"""A training in a process of its own, for tests that kill it or start several: python trainee.py SHARDS OUT STEPS.

It prints the loss of every step and, at its end, writes OUT/weights.pt (the first of several processes).
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from ml.networks.patchfcn import PatchFcn
from ml.training.augmentation import Augmentation
from ml.training.distribution import process_group, rank, world_size
from ml.training.loop import train
from ml.training.recipe import COMPACT_RECIPE, Machine, Sampling, Span
from ml.training.sampler import PatchBatches
from ml.training.shards import open_shards
from ml.training.targets import LABELS, ImageLabels, Pool
from tests.ml.conftest import TINY_NETWORK, TINY_PREPROCESSING

RECIPE = replace(
    COMPACT_RECIPE, warm_up_steps=2, sampling=Sampling(batch=8, patch=32, positive=0.5, bleed_free=0.5), clip_norm=1.0
)


def run(shards: Path, out: Path, steps: int, *, progress: bool = False) -> dict[str, torch.Tensor]:
    """Train on crops of labelled exams beside whole images, a checkpoint every second step."""
    exams = open_shards(shards, range(4))
    torch.manual_seed(0)
    network = PatchFcn(TINY_NETWORK)
    batches = PatchBatches(
        [Pool(exams, LABELS), Pool(exams, ImageLabels(), whole=True)],
        TINY_PREPROCESSING,
        sampling=RECIPE.sampling,
        augmentation=Augmentation(),
        seed=3,
        steps=steps,
        part=(rank(), world_size()),
    )
    machine = Machine(checkpoint_steps=2, loader_workers=0, tensorboard=False)

    def tell(step: int, loss: float) -> None:
        if progress:
            sys.stdout.write(f"{step} {loss!r}\n")
            sys.stdout.flush()

    return train(network, batches, RECIPE, Span(steps), folder=out, machine=machine, progress=tell)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu"):
        weights = run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), progress=True)
        if rank() == 0:
            torch.save(weights, Path(sys.argv[2]) / "weights.pt")
