"""How patches come from the processes that make them to the one that trains.

A tensor that changes processes costs the one that receives it a connection of its own, about 0.3 ms; a GPU trains the
compact network on a whole step in 3 ms. So several steps travel as one row of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ml.training.intensity import CALM, change_intensity
from ml.training.recipe import Machine
from ml.training.sampler import Batch, Step

TOGETHER = 4
"""Steps that travel together."""
ALIGNED_BYTES = 64
"""Where a tensor may begin within the row."""

Form = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of a tensor."""


@dataclass(frozen=True)
class Packed:
    """Tensors of some steps, one behind the other."""

    row: Tensor
    """(bytes,) uint8."""
    forms: list[list[list[Form]]]
    """Of every tensor of every batch of every step."""

    def pin_memory(self) -> Packed:
        """Called by DataLoader."""
        return Packed(self.row.pin_memory(), self.forms)


def load_steps(steps: Dataset[Step], first: int, last: int, machine: Machine) -> Generator[Step]:
    """The steps from `first` up to `last`, made by the machine's loader processes; within `dead_workers_named`."""
    workers, pinned = machine.loader_workers, machine.device != "cpu"
    if not pinned:
        steps = _Applied(steps)
    own = torch.Generator()  # a loader draws a seed for its processes: not from what a network may draw from
    if not workers:
        yield from DataLoader(Subset(steps, range(first, last)), batch_size=None, pin_memory=pinned, generator=own)
        return
    loader = DataLoader(
        _Groups(steps, first, last),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=1,
        timeout=machine.loader_timeout_s,
        pin_memory=pinned,
        generator=own,
    )
    for packed in loader:
        yield from unpack(packed)


class _Applied(Dataset[Step]):
    """Steps whose intensity is applied already: by the loader's processes, not by the one that trains."""

    def __init__(self, steps: Dataset[Step]) -> None:
        self.steps = steps

    def __getitem__(self, number: int) -> Step:
        return tuple(_applied(batch) for batch in self.steps[number])


def _applied(batch: Batch) -> Batch:
    hu = change_intensity(batch.hu, batch.intensity).to(batch.hu.dtype)
    return batch._replace(hu=hu, intensity=torch.tensor([CALM]).expand_as(batch.intensity))


class _Groups(Dataset[Packed]):
    """Item `i` holds TOGETHER steps, the last one what is left."""

    def __init__(self, steps: Dataset[Step], first: int, last: int) -> None:
        self.steps, self.first, self.last = steps, first, last

    def __len__(self) -> int:
        return math.ceil((self.last - self.first) / TOGETHER)

    def __getitem__(self, number: int) -> Packed:
        first = self.first + number * TOGETHER
        return pack([self.steps[step] for step in range(first, min(first + TOGETHER, self.last))])


def pack(steps: list[Step]) -> Packed:
    """The opposite of `unpack`."""
    tensors = [tensor for step in steps for batch in step for tensor in batch]
    row = torch.empty(sum(_room(tensor.nbytes) for tensor in tensors), dtype=torch.uint8)
    start = 0
    for tensor in tensors:
        row[start : start + tensor.nbytes].view(tensor.dtype).copy_(tensor.flatten())
        start += _room(tensor.nbytes)
    return Packed(row, [[[(tuple(one.shape), one.dtype) for one in batch] for batch in step] for step in steps])


def unpack(packed: Packed) -> Iterator[Step]:
    """The steps, without a copy."""
    start = 0

    def take(form: Form) -> Tensor:
        nonlocal start
        shape, dtype = form
        first, start = start, start + _room(math.prod(shape) * dtype.itemsize)
        return packed.row[first : first + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)

    for step in packed.forms:
        yield tuple(Batch(*map(take, batch)) for batch in step)


def _room(count: int) -> int:
    return -(-count // ALIGNED_BYTES) * ALIGNED_BYTES
