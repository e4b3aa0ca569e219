"""Drawing patients and their bleeds at random, wider than nature (domain randomisation) but around measured figures.

Volumes and HU per lesion: quantiles of the 1,873 lesions of 192 BHSD scans, computed from the table
BHSD_hemorrhage_characteristics.csv that InSilicoICH (FDA, CC0) comes with.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ml.labels import Subtype
from ml.phantom.draw_child import child_brain, child_calcifications, child_skull, draw_child
from ml.phantom.draw_scanner import PEDIATRIC, draw_scanner
from ml.phantom.spec import (
    Bleed,
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
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
VOLUME_ML: dict[Subtype, tuple[float, ...]] = {
    Subtype.EDH: (0.06, 0.1, 0.5, 3.9, 11.2, 36.8, 80.0),
    Subtype.IPH: (0.03, 0.05, 0.22, 1.24, 7.5, 55.8, 90.0),
    Subtype.IVH: (0.03, 0.05, 0.16, 0.54, 2.0, 12.7, 30.0),
    Subtype.SAH: (0.02, 0.03, 0.08, 0.18, 0.47, 2.6, 8.0),
    Subtype.SDH: (0.04, 0.06, 0.16, 0.54, 2.5, 42.2, 90.0),
}
"""Quantiles of the volume of one lesion."""
CLOT_HU: dict[Subtype, tuple[float, ...]] = {
    Subtype.EDH: (38, 44, 51, 57, 62, 68, 76),
    Subtype.IPH: (38, 42, 47, 53, 59, 66, 76),
    Subtype.IVH: (38, 42, 48, 54, 61, 70, 78),
    Subtype.SAH: (40, 45, 51, 56, 62, 70, 76),
    Subtype.SDH: (38, 41, 47, 52, 59, 69, 78),
}
"""Quantiles of a clot's own HU: the measured means per lesion plus what partial volume takes."""
FREQUENCY = {Subtype.EDH: 0.12, Subtype.IPH: 0.55, Subtype.IVH: 0.36, Subtype.SAH: 0.45, Subtype.SDH: 0.40}
"""Chance that a positive exam has each type (BHSD scans with it / 192, EDH and SDH somewhat raised)."""


def _quantile(rng: np.random.Generator, table: tuple[float, ...], *, log: bool, low: float = 0.0) -> float:
    """A value drawn from a table of quantiles, above its quantile `low`."""
    values = np.log(table) if log else np.asarray(table)
    drawn = float(np.interp(rng.uniform(low, 1.0), QUANTILES, values))
    return float(np.exp(drawn)) if log else drawn


def _direction(rng: np.random.Generator, *, y: tuple[float, float], z: tuple[float, float], side: float) -> Point:
    return (float(side * rng.uniform(40, 68)), float(rng.uniform(*y)), float(rng.uniform(*z)))


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


def _parenchymal(rng: np.random.Generator, seed: int, *, traumatic: bool, low: float) -> Bleed:
    side = float(rng.choice([-1.0, 1.0]))
    if traumatic:
        sites = [(26.0, -62.0, -8.0), (42.0, -22.0, -26.0), (50.0, 5.0, -22.0), (20.0, -70.0, 8.0), (45.0, 20.0, 30.0)]
    else:
        sites = [
            (26.0, -4.0, 3.0), (26.0, -4.0, 3.0), (13.0, 7.0, 8.0), (38.0, -40.0, 25.0), (42.0, 10.0, 35.0),
            (45.0, 30.0, -5.0), (22.0, 62.0, 10.0), (24.0, 52.0, -42.0), (2.0, 12.0, -32.0), (30.0, 40.0, 30.0),
        ]  # fmt: skip
    x, y, z = sites[int(rng.integers(len(sites)))]
    centre = (float(side * x + rng.normal(0, 5)), float(y + rng.normal(0, 6)), float(z + rng.normal(0, 6)))
    volume = _quantile(rng, VOLUME_ML[Subtype.IPH], log=True, low=low)
    if z < -25:
        volume = min(volume, 18.0)
    if abs(x) < 10:
        volume = min(volume, 6.0)
    hu = _quantile(rng, CLOT_HU[Subtype.IPH], log=False)
    edema = float(rng.uniform(0, 9)) * (rng.random() < 0.7)
    uneven = float(rng.uniform(0, 1) ** 1.5)
    return Bleed(Subtype.IPH, "parenchyma", centre, volume, hu, uneven, float(rng.uniform(1.0, 1.7)), edema, seed)


def _extra_axial(rng: np.random.Generator, seed: int, subtype: Subtype, *, low: float) -> Bleed:
    side = float(rng.choice([-1.0, 1.0]))
    volume = _quantile(rng, VOLUME_ML[subtype], log=True, low=low)
    hu = _quantile(rng, CLOT_HU[subtype], log=False)
    uneven = float(rng.uniform(0, 1) ** 2)
    if subtype is Subtype.EDH:
        centre = _direction(rng, y=(-50, 50), z=(-20, 50), side=side)
        return Bleed(subtype, "convexity", centre, volume, hu, uneven, float(rng.uniform(3.0, 6.0)), 0.0, seed)
    site = str(rng.choice(["convexity", "falx", "tentorium"], p=[0.6, 0.24, 0.16]))
    if site == "convexity":
        centre = _direction(rng, y=(-50, 55), z=(-5, 55), side=side)
        if volume < 3.0:
            # a film thinner than a voxel is not seen: small ones are short
            return Bleed(subtype, site, centre, volume, hu, uneven, float(rng.uniform(4.0, 8.0)), 0.0, seed)
    elif site == "falx":
        angle = float(rng.uniform(-0.7, 2.3))
        centre = (side, float(-66 * np.cos(angle)), float(5 + 58 * np.sin(angle)))
        volume = min(volume, 9.0)
    else:
        centre = (side * float(rng.uniform(12, 40)), float(rng.uniform(30, 65)), -8.0)
        volume = min(volume, 6.0)
    return Bleed(subtype, site, centre, volume, hu, uneven, float(rng.uniform(8.0, 15.0)), 0.0, seed)


def _fluid(rng: np.random.Generator, seed: int, subtype: Subtype, *, low: float) -> Bleed:
    side = float(rng.choice([-1.0, 1.0]))
    volume = _quantile(rng, VOLUME_ML[subtype], log=True, low=low)
    hu = _quantile(rng, CLOT_HU[subtype], log=False)
    uneven = float(rng.uniform(0, 0.5))
    if subtype is Subtype.IVH:
        site = "layered" if rng.random() < 0.7 else "cast"
        centre = (side * 12.0, float(rng.uniform(-30, 40)), 14.0)
        return Bleed(subtype, site, centre, volume, hu, uneven, 1.0, 0.0, seed)
    if rng.random() < 0.35:
        cisterns = [(0.0, -13.0, -20.0), (35.0, -8.0, -8.0), (45.0, 5.0, 0.0), (10.0, 18.0, -14.0), (0.0, -40.0, 0.0)]
        x, y, z = cisterns[int(rng.integers(len(cisterns)))]
        return Bleed(
            subtype, "cisternal", (side * x, y, z), volume, hu, uneven, float(rng.uniform(0.8, 1.6)), 0.0, seed
        )
    angle, up = rng.uniform(0, np.pi), rng.uniform(-0.25, 1.3)
    centre = (
        float(side * 62 * np.sin(angle) * np.cos(up)),
        float(4 - 78 * np.cos(angle) * np.cos(up)),
        float(68 * np.sin(up)),
    )
    return Bleed(subtype, "sulcal", centre, volume, hu, uneven, float(rng.uniform(0.7, 1.5)), 0.0, seed)


def draw_bleeds(rng: np.random.Generator, subtypes: tuple[str, ...] | None) -> tuple[Bleed, ...]:
    """At least one bleed; of the named types only, where they are named."""
    if subtypes is None:
        chosen = [kind for kind in Subtype if rng.random() < FREQUENCY[kind]]
        chosen = chosen or [Subtype(int(rng.choice([2, 2, 2, 4, 4, 5, 5, 3, 1])))]
    else:
        chosen = [Subtype[name.upper()] for name in subtypes]
    traumatic = bool(rng.random() < 0.5)
    # bleeds of one exam are large together; the first of each type is its main one
    severity = float(rng.uniform(0.0, 0.55))
    bleeds: list[Bleed] = []
    for kind in chosen:
        extra = {
            Subtype.EDH: 0.15,
            Subtype.IPH: 1.0 if traumatic else 0.25,
            Subtype.IVH: 0.4,
            Subtype.SAH: 3.0,
            Subtype.SDH: 0.8,
        }
        for number in range(min(10, 1 + int(rng.poisson(extra[kind])))):
            low = severity if number == 0 else 0.0
            seed = int(rng.integers(2**31))
            if kind is Subtype.IPH:
                bleeds.append(_parenchymal(rng, seed, traumatic=traumatic, low=low))
            elif kind in (Subtype.EDH, Subtype.SDH):
                bleeds.append(_extra_axial(rng, seed, kind, low=low))
            else:
                bleeds.append(_fluid(rng, seed, kind, low=low))
    return tuple(bleeds)


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
    centre = _direction(rng, y=(-45, 40), z=(0, 50), side=side)
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
            _direction(rng, y=(-55, 20), z=(5, 50), side=side),
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
            _direction(rng, y=(-60, 65), z=(-15, 60), side=float(rng.choice([-1.0, 1.0]))),
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
