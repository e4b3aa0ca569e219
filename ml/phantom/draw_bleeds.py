"""Drawing bleeds at random.

Volumes and HU per lesion: quantiles of the 1,873 lesions of 192 BHSD scans, computed from the table
BHSD_hemorrhage_characteristics.csv that InSilicoICH (FDA, CC0) comes with.
"""

from __future__ import annotations

import numpy as np

from ml.labels import Subtype
from ml.phantom.spec import Bleed, Point

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


def draw_direction(rng: np.random.Generator, *, y: tuple[float, float], z: tuple[float, float], side: float) -> Point:
    """Towards a place of the calvaria on one `side` (1 left, -1 right): mm from the middle of the head."""
    return (float(side * rng.uniform(40, 68)), float(rng.uniform(*y)), float(rng.uniform(*z)))


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
        centre = draw_direction(rng, y=(-50, 50), z=(-20, 50), side=side)
        return Bleed(subtype, "convexity", centre, volume, hu, uneven, float(rng.uniform(3.0, 6.0)), 0.0, seed)
    site = str(rng.choice(["convexity", "falx", "tentorium"], p=[0.6, 0.24, 0.16]))
    if site == "convexity":
        centre = draw_direction(rng, y=(-50, 55), z=(-5, 55), side=side)
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
