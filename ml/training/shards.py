"""Simulated exams as shards (`ml.data.shards`), made by worker processes and kept between runs.

A run that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ml.config import Preprocessing
from ml.data.exams import LabelledExam, patient_key
from ml.data.parallel import map_in_processes
from ml.data.shards import SIMULATED, ExamShard, is_written, open_exam, write_exam
from ml.errors import TrainingError
from ml.labels import Subtype
from ml.phantom import PEDIATRIC, ExamSpec, draw_mass, draw_spec, draw_surgery, simulate
from ml.phantom.motion import draw_unrest

LAYERS_FROM = 500_000
"""Training seeds from here on are exams with a layer of blood under the skull."""
LAYER_ML = (2.0, 70.0)
"""Volume of such a layer: evenly drawn on a logarithmic scale."""
MASSES_FROM = 600_000
"""Training seeds from here on are exams with solid tumours."""
CRANIECTOMIES_FROM = 700_000
"""Training seeds from here on are exams in which a bone flap is missing."""
CHILDREN_FROM = 800_000
"""Training seeds from here on are exams of children."""
MOVING_FROM = 900_000
"""Training seeds from here on are exams of patients who move."""


def open_shards(folder: Path, seeds: Iterable[int]) -> list[ExamShard]:
    """The exams of the given seeds, in that order; every one must be there."""
    return [open_exam(folder / _name(seed)) for seed in seeds]


def make_shards(
    folder: Path, seeds: Sequence[int], config: Preprocessing, *, workers: int, matrix: int
) -> Iterator[int]:
    """Simulate the exams that are not there yet, yielding each seed when it is on disk.

    An error in a worker process is raised here, at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not is_written(folder / _name(seed), config)]
    yield from sorted({*seeds} - {*missing})
    make = partial(make_shard, folder, config=config, matrix=matrix)
    yield from map_in_processes(make, missing, workers=workers, name=_name)


def training_spec(seed: int) -> ExamSpec:
    """What the exam of a training seed is.

    Five kinds are drawn more often than they naturally are. Seeds from LAYERS_FROM on have a subdural or epidural
    layer that one can see: half of the natural subdural layers are under 0.6 mL. Those from MASSES_FROM on have one to
    three solid tumours, which nature gives to one exam in thirty, and two in three of them no blood. Those from
    CRANIECTOMIES_FROM on lack a bone flap, as one exam in sixty does, and every other one has blood: what lies in the
    gap looks like a layer of it. Those from CHILDREN_FROM on are of children, every other one with blood. In those from
    MOVING_FROM on the head moves and turns: bands under the skull look like a layer of blood; every other one has some.
    """
    kinds = {
        MOVING_FROM: _moving,
        CHILDREN_FROM: _of_child,
        CRANIECTOMIES_FROM: _with_craniectomy,
        MASSES_FROM: _with_masses,
        LAYERS_FROM: _with_layer,
        0: draw_spec,
    }
    return next(draw for first, draw in kinds.items() if seed >= first)(seed)


def _of_child(seed: int) -> ExamSpec:
    return draw_spec(seed, institution=PEDIATRIC, bleed=seed % 2 == 0)


def _moving(seed: int) -> ExamSpec:
    spec = draw_spec(seed, bleed=seed % 2 == 0)
    rng = np.random.default_rng([seed, 16])
    motion_mm, turn_degrees = draw_unrest(rng)
    return replace(spec, scanner=replace(spec.scanner, motion_mm=motion_mm, turn_degrees=turn_degrees))


def _with_craniectomy(seed: int) -> ExamSpec:
    spec = draw_spec(seed, bleed=seed % 2 == 0)
    rng = np.random.default_rng([seed, 15])
    surgery = draw_surgery(rng, chance=1.0)
    while surgery.craniotomy is None:
        surgery = draw_surgery(rng, chance=1.0)
    return replace(spec, head=replace(spec.head, surgery=replace(surgery, flap_missing=True)))


def _with_masses(seed: int) -> ExamSpec:
    spec = draw_spec(seed, bleed=seed % 3 == 0)
    rng = np.random.default_rng([seed, 14])
    masses = tuple(draw_mass(rng) for _ in range(int(rng.integers(1, 4))))
    return replace(spec, head=replace(spec.head, masses=masses))


def _with_layer(seed: int) -> ExamSpec:
    kind = Subtype.SDH if seed % 3 else Subtype.EDH
    spec = draw_spec(seed, subtypes=(kind.name,))
    rng = np.random.default_rng([seed, 13])
    first = next(one for one in spec.head.bleeds if one.subtype is kind)
    side, low, high = float(rng.choice([-1.0, 1.0])), *np.log(LAYER_ML)
    layer = replace(
        first,
        site="convexity",
        centre=(side * float(rng.uniform(40, 68)), float(rng.uniform(-50, 55)), float(rng.uniform(-5, 50))),
        volume_ml=float(np.exp(rng.uniform(low, high))),
        spread=float(rng.uniform(3.0, 6.0) if kind is Subtype.EDH else rng.uniform(7.0, 15.0)),
    )
    others = tuple(one for one in spec.head.bleeds if one is not first)
    return replace(spec, head=replace(spec.head, bleeds=(layer, *others)))


def make_shard(folder: Path, seed: int, config: Preprocessing, matrix: int) -> int:
    """Simulate one exam and write it; returns its seed.

    Raises:
        TrainingError: it could not be written.
    """
    exam = simulate(training_spec(seed), matrix=matrix)
    name = _name(seed)
    labelled = LabelledExam(SIMULATED, name, patient_key(SIMULATED, name), exam.volume, exam.labels)
    try:
        write_exam(folder / name, labelled, config)
    except OSError as error:
        raise TrainingError(
            f"exam {name} cannot be written ({error.strerror}); what is finished stays: free space and run the same "
            "command again"
        ) from error
    return seed


def _name(seed: int) -> str:
    return f"{seed:06}"
