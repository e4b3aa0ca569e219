"""Drawing patients at random, wider than nature (domain randomisation) but around measured figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ml.phantom.draw_bleeds import draw_bleeds, draw_direction
from ml.phantom.draw_child import child_brain, child_calcifications, child_skull, draw_child
from ml.phantom.draw_scanner import PEDIATRIC, draw_scanner
from ml.phantom.spec import (
    Blow,
    BrainSpec,
    Calcification,
    Collection,
    ExamSpec,
    HeadSpec,
    Hypodensity,
    Mass,
    Point,
    SkullSpec,
    Surgery,
)

PREVALENCE = {"any": 0.45, "A": 0.41, "B": 0.30, PEDIATRIC: 0.30}
"""Share of exams with a bleed; 0.408 is RSNA's."""


def draw_skull(rng: np.random.Generator) -> SkullSpec:
    """A bony box: adult sizes with a wide spread."""
    size = float(np.clip(rng.normal(1.0, 0.04), 0.9, 1.09))
    return SkullSpec(
        semi_axes_mm=(
            float(rng.normal(67.0, 2.6)) * size,
            float(rng.normal(83.0, 3.2)) * size,
            float(rng.normal(75.0, 2.8)) * size,
        ),
        roundness=float(rng.uniform(2.1, 2.6)),
        thickness_mm=float(np.clip(rng.normal(6.8, 1.4), 3.5, 11.5)),
        diploe_hu=float(rng.uniform(350, 900)),
        table_hu=float(rng.uniform(1000, 1700)),
        scalp_mm=float(np.clip(rng.normal(5.5, 1.6), 2.5, 11.0)),
        base_height_mm=float(rng.normal(0.0, 2.5)),
        ridge_mm=float(rng.uniform(8.0, 16.0)),
        sinus_size=float(rng.uniform(0.55, 1.2)),
        sinus_fluid=float(rng.uniform(0, 1) ** 3),
        mastoid_air=float(rng.uniform(0.1, 1.0)),
        cavity_irregular_mm=float(rng.uniform(0.8, 2.2)),
    )


def draw_brain(rng: np.random.Generator) -> BrainSpec:
    """A brain of some age: `age` in 0..1 widens sulci and ventricles together."""
    age = float(rng.beta(1.6, 1.6))
    white = float(rng.uniform(23.0, 31.0))
    gray = white + float(np.clip(rng.normal(7.5, 1.6), 3.5, 11.0))
    sinus = float(np.clip(rng.normal(54.0, 7.0), 40.0, 78.0))
    hydrocephalus = 1.6 if rng.random() < 0.05 else 1.0
    return BrainSpec(
        gray_hu=gray,
        white_hu=white,
        csf_hu=float(rng.uniform(2.0, 11.0)),
        cerebellum_hu=white + 0.7 * (gray - white) + float(rng.normal(0, 0.8)),
        sulcus_mm=float(0.08 + 1.1 * age**1.3 + 0.15 * rng.random()),
        surface_csf_mm=float(0.3 + 2.4 * age**2 * rng.uniform(0.4, 1.3)),
        gyrus_mm=float(rng.uniform(8.5, 13.0)),
        ventricle_scale=float((0.45 + 1.15 * age) * np.exp(rng.normal(0, 0.22)) * hydrocephalus),
        ventricle_asymmetry=float(rng.normal(0, 0.10)),
        cistern_scale=float(np.clip(0.6 + 0.8 * age + rng.normal(0, 0.15), 0.4, 1.7)),
        falx_mm=float(rng.uniform(0.7, 2.2)),
        falx_hu=float(np.clip(rng.normal(52.0, 8.0), 38.0, 80.0)),
        tentorium_mm=float(rng.uniform(0.6, 2.0)),
        tentorium_hu=float(np.clip(rng.normal(50.0, 8.0), 38.0, 75.0)),
        sinus_hu=sinus,
        artery_hu=float(np.clip(sinus + rng.normal(-6.0, 5.0), 35.0, 75.0)),
        artery_scale=float(rng.uniform(0.6, 1.35)),
        leukoaraiosis_hu=float(9.0 * age * rng.random()),
        warp_mm=float(rng.uniform(1.8, 4.2)),
    )


def draw_calcifications(rng: np.random.Generator) -> tuple[Calcification, ...]:
    """Pineal, choroid plexus, falx, tentorium, basal ganglia, carotid walls, dura."""
    spots: list[Calcification] = []

    def add(chance: float, centre: Point, semi: Point, hu: tuple[float, float]) -> None:
        if rng.random() < chance:
            moved = tuple(float(part + rng.normal(0, 1.2)) for part in centre)
            size = float(np.exp(rng.normal(0, 0.35)))
            grown = (semi[0] * size, semi[1] * size, semi[2] * size)
            spots.append(Calcification((moved[0], moved[1], moved[2]), grown, float(rng.uniform(*hu))))

    add(0.65, (0, 26, 1), (2.0, 2.6, 2.2), (90, 500))
    for side in (-1, 1):
        choroid = 0.55
        add(choroid, (side * 24, 33, 13), (2.2, 4.0, 4.0), (80, 600))
        add(0.2, (side * 16, 18, 19), (1.2, 4.0, 1.5), (60, 250))
        add(0.10, (side * 20, -5, 1), (3.0, 5.0, 3.0), (50, 200))
        add(0.05, (side * 22, 55, -45), (4.0, 4.0, 3.0), (50, 250))
        add(0.30, (side * 9, -14, -26), (1.6, 2.4, 2.6), (150, 700))
        add(0.12, (side * 11, 22, -60), (1.2, 1.2, 2.5), (150, 600))
        add(0.12, (side * 22, 10, -18), (0.9, 6.0, 0.9), (100, 500))
    for _ in range(int(rng.poisson(0.8))):
        angle = rng.uniform(-0.9, 2.6)
        centre = (0.0, float(-62 * np.cos(angle)), float(10 + 52 * np.sin(angle)))
        spots.append(
            Calcification(
                centre,
                (float(rng.uniform(0.8, 2.0)), float(rng.uniform(2, 9)), float(rng.uniform(2, 8))),
                float(rng.uniform(100, 700)),
            )
        )
    if rng.random() < 0.06:
        centre = (float(rng.uniform(-45, 45)), float(rng.uniform(-45, 60)), float(rng.uniform(-10, 50)))
        size = float(rng.uniform(1.0, 4.0))
        spots.append(Calcification(centre, (size, size, size), float(rng.uniform(80, 600))))
    return tuple(spots)


def _spot(rng: np.random.Generator) -> Point:
    side = float(rng.choice([-1.0, 1.0]))
    return (side * float(rng.uniform(15, 55)), float(rng.uniform(-55, 65)), float(rng.uniform(-15, 50)))


def draw_hypodensities(rng: np.random.Generator) -> tuple[Hypodensity, ...]:
    """Old and fresh infarcts, lacunes, cysts."""
    spots = []
    for _ in range(int(rng.poisson(0.5))):
        if rng.random() < 0.5:
            centre = (
                float(rng.choice([-1, 1]) * rng.uniform(10, 30)),
                float(rng.uniform(-20, 18)),
                float(rng.uniform(-3, 20)),
            )
            semi = tuple(float(part) for part in rng.uniform(2, 5, 3))
        else:
            centre = _spot(rng)
            semi = tuple(float(part) for part in rng.uniform(8, 26, 3))
        spots.append(
            Hypodensity(centre, (semi[0], semi[1], semi[2]), float(rng.uniform(7, 24)), float(rng.uniform(3, 9)))
        )
    return tuple(spots)


def draw_surgery(rng: np.random.Generator, *, chance: float) -> Surgery:
    """What an operation left, in a share `chance` of patients."""
    if rng.random() >= chance:
        return Surgery()
    side = float(rng.choice([-1.0, 1.0]))
    centre = draw_direction(rng, y=(-45, 40), z=(0, 50), side=side)
    kind = rng.random()
    flap = kind < 0.55
    holes: tuple[Point, ...] = ()
    drain = None
    if kind >= 0.35:
        entry = (side * 27.0, -55.0, 62.0)
        holes = (entry,) if rng.random() < 0.7 else (entry, (side * 55.0, 35.0, 45.0))
        if rng.random() < 0.7:
            outside = (entry[0] * 1.45, entry[1] * 1.45, entry[2] * 1.4)
            drain = (outside, (side * 4.0, float(rng.uniform(-18, -4)), 6.0))
    metal: list[Calcification] = []
    if rng.random() < 0.35:
        at = (side * float(rng.uniform(0, 14)), float(rng.uniform(-22, -4)), float(rng.uniform(-24, -12)))
        size = float(rng.uniform(1.0, 5.0))
        metal.append(Calcification(at, (size, size * 1.2, size), 3500.0 if rng.random() < 0.5 else 9000.0))
    return Surgery(
        craniotomy=centre if flap else None,
        flap_degrees=float(rng.uniform(14, 38)),
        flap_missing=bool(flap and rng.random() < 0.2),
        burr_holes=holes,
        air_ml=float(np.exp(rng.normal(1.0, 1.2))) if rng.random() < 0.5 else 0.0,
        drain=drain,
        drain_hu=float(rng.uniform(90, 500)),
        metal=tuple(metal),
    )


def _collections(rng: np.random.Generator) -> tuple[Collection, ...]:
    if rng.random() >= 0.10:
        return ()
    sides = (-1.0, 1.0) if rng.random() < 0.35 else (float(rng.choice([-1.0, 1.0])),)
    return tuple(
        Collection(
            draw_direction(rng, y=(-55, 20), z=(5, 50), side=side),
            float(rng.uniform(3, 16)),
            float(rng.uniform(35, 75)),
            float(rng.uniform(5, 24)),
        )
        for side in sides
    )


def draw_mass(rng: np.random.Generator) -> Mass:
    """A solid tumour, at most a little denser than grey matter: the faintest clots are no brighter."""
    size = float(rng.uniform(4, 15))
    return Mass(_spot(rng), (size, size * 1.1, size * 0.9), float(rng.uniform(34, 46)), float(rng.uniform(0, 8)))


def _masses(rng: np.random.Generator) -> tuple[Mass, ...]:
    return (draw_mass(rng),) if rng.random() < 0.03 else ()


def _blows(seed: int, *, bleeding: bool) -> tuple[Blow, ...]:
    """Swellings of the scalp, many with a crack below; a stream of their own, so that the rest of a seed stays."""
    rng = np.random.default_rng([seed, 12])
    if rng.random() >= (0.45 if bleeding else 0.25):
        return ()
    return tuple(
        Blow(
            draw_direction(rng, y=(-60, 65), z=(-15, 60), side=float(rng.choice([-1.0, 1.0]))),
            float(rng.uniform(3, 14)),
            float(rng.uniform(18, 45)),
            float(rng.uniform(40, 78)),
            float(rng.uniform(0.3, 1.1)) if rng.random() < 0.4 else 0.0,
            int(rng.integers(2**31)),
        )
        for _ in range(1 + int(rng.random() < 0.2))
    )


def draw_spec(
    seed: int, *, institution: str = "any", bleed: bool | None = None, subtypes: tuple[str, ...] | None = None
) -> ExamSpec:
    """A patient in a scanner, from a seed alone.

    `institution`: "A", "B", "any" (the wide draw) or "pediatric" (children, scanned nearly as widely). `bleed` None
    draws it at the institution's prevalence; True, or naming `subtypes` ("EDH", "IPH", "IVH", "SAH", "SDH"), forces
    bleeds; False forbids them.
    Raises ValueError for an institution that does not exist, KeyError for a subtype that does not.
    """
    if institution not in PREVALENCE:
        raise ValueError(f"no institution {institution!r}; there are {', '.join(PREVALENCE)}")
    rng = np.random.default_rng([seed, 11])
    positive = bool(rng.random() < PREVALENCE[institution])
    if bleed is not None or subtypes:
        positive = bool(subtypes) if bleed is None else bleed
    head = HeadSpec(
        seed=int(rng.integers(2**31)),
        skull=draw_skull(rng),
        brain=draw_brain(rng),
        calcifications=draw_calcifications(rng),
        bleeds=draw_bleeds(rng, subtypes) if positive else (),
        hypodensities=draw_hypodensities(rng),
        collections=_collections(rng),
        masses=_masses(rng),
        surgery=draw_surgery(rng, chance=0.22 if positive else 0.12),
        blows=_blows(seed, bleeding=positive),
    )
    if institution == PEDIATRIC:
        head = _of_child(seed, head)
    return ExamSpec(seed, institution, head, draw_scanner(rng, institution=institution, size=head.size))


def _of_child(seed: int, adult: HeadSpec) -> HeadSpec:
    """The patient as a child: a stream of its own, so that everything else is that of the seed."""
    rng = np.random.default_rng([seed, 16])
    child = draw_child(rng)
    return replace(
        adult,
        skull=child_skull(rng, adult.skull, child),
        brain=child_brain(rng, adult.brain, child),
        calcifications=child_calcifications(child, adult.calcifications),
        hypodensities=adult.hypodensities if rng.random() < 0.3 else (),
        size=child.size,
    )
