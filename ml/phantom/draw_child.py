"""Drawing what is different in a child's head, from that of a newborn to that of an adolescent.

Sizes: median head circumference by age of WHO (to five years) and Nellhaus 1968 (later), as shares of an adult's 56 cm.
Calvaria and bone density grow with age, the diploe and the air cells come, sutures and fontanelle close. The younger a
brain, the more water it holds: InSilicoICH (FDA, CC0) has 24 HU for grey and 14 for white matter of infants, 35 and 27
for those of toddlers. Beside such a brain the blood of healthy venous sinuses looks bright.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ml.phantom.spec import BrainSpec, Calcification, SkullSpec

OLDEST = 16.0
"""Years."""
ADULT_CM = 56.0
CIRCUMFERENCE_CM = (
    (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 16.0),
    (35.0, 40.5, 43.5, 46.5, 49.0, 50.0, 51.0, 52.5, 54.0, 55.5),
)
"""Age in years, and the median at that age."""
FONTANELLE_CLOSED = 1.5
"""Years."""


@dataclass(frozen=True)
class Child:
    """Years, and the size of the head as a share of an adult's."""

    age: float
    size: float


def draw_child(rng: np.random.Generator) -> Child:
    """A child up to OLDEST: half of them under four years, when a head changes most."""
    age = OLDEST * float(rng.random()) ** 2
    usual = float(np.interp(age, *CIRCUMFERENCE_CM)) / ADULT_CM
    return Child(age, usual * float(np.clip(rng.normal(1.0, 0.03), 0.92, 1.08)))


def child_skull(rng: np.random.Generator, adult: SkullSpec, child: Child) -> SkullSpec:
    """The skull of a child, shaped like an `adult` one; its mm are those before all is scaled to the child's size."""
    age, size = child.age, child.size
    years = (0.0, 1.0, 3.0, 6.0, 10.0, OLDEST)
    thickness = float(np.interp(age, years, (1.8, 2.6, 3.5, 4.3, 5.0, 5.8)) * np.exp(rng.normal(0, 0.15)))
    table = float(np.interp(age, years, (600, 850, 1050, 1180, 1280, 1400)) * np.exp(rng.normal(0, 0.1)))
    spongy = table * float(np.interp(age, years, (0.9, 0.9, 0.8, 0.6, 0.5, 0.5)))
    cells = float(np.interp(age, years, (0.05, 0.2, 0.4, 0.7, 0.9, 1.0)))
    open_mm = float(np.interp(age, (0.0, 0.5, 1.0, 2.0), (2.0, 1.2, 0.7, 0.4)) * np.exp(rng.normal(0, 0.3)))
    gap = float(np.interp(age, (0.0, 0.5, FONTANELLE_CLOSED), (15.0, 13.0, 0.0))) * float(np.exp(rng.normal(0, 0.3)))
    return replace(
        adult,
        thickness_mm=thickness / size,
        table_hu=table,
        diploe_hu=spongy,
        scalp_mm=float(np.interp(age, years, (2.5, 3.0, 3.2, 3.5, 4.0, 5.0)) * np.exp(rng.normal(0, 0.2))) / size,
        ridge_mm=adult.ridge_mm * (0.6 + 0.4 * cells),
        sinus_size=adult.sinus_size * max(0.2, cells),
        mastoid_air=adult.mastoid_air * cells,
        suture_mm=open_mm / size,
        suture_hu=float(np.interp(age, (0.0, 1.0, 3.0, 6.0), (50.0, 90.0, 180.0, 250.0))),
        fontanelle_mm=gap / size if age < FONTANELLE_CLOSED else 0.0,
    )


def child_brain(rng: np.random.Generator, adult: BrainSpec, child: Child) -> BrainSpec:
    """The brain of a child: full, without the wear of years; around an infant's there may be much fluid."""
    age = child.age
    years = (0.0, 0.5, 1.0, 3.0)
    white = float(np.interp(age, years, (18.5, 21.0, 24.0, 27.0)) + rng.normal(0, 2.0))
    gray = white + float(np.clip(rng.normal(8.0, 1.5), 4.0, 11.5))
    wide = age < FONTANELLE_CLOSED and rng.random() < 0.4
    sinus = float(np.clip(rng.normal(np.interp(age, (0.0, 0.1, 0.3, 16.0), (62, 55, 47, 53)), 6.0), 38.0, 78.0))
    hydrocephalus = 2.0 if rng.random() < 0.08 else 1.0
    return replace(
        adult,
        gray_hu=gray,
        white_hu=white,
        cerebellum_hu=white + 0.75 * (gray - white) + float(rng.normal(0, 0.8)),
        sulcus_mm=float(rng.uniform(0.05, 0.3)) + (float(rng.uniform(0.2, 0.6)) if wide else 0.0),
        surface_csf_mm=float(rng.uniform(1.5, 5.0)) if wide else float(rng.uniform(0.2, 1.0)),
        ventricle_scale=float(rng.uniform(0.35, 0.75)) * hydrocephalus,
        cistern_scale=float(rng.uniform(0.5, 1.1)),
        falx_mm=float(rng.uniform(0.6, 1.6)),
        sinus_hu=sinus,
        artery_hu=float(np.clip(sinus + rng.normal(-6.0, 5.0), 33.0, 75.0)),
        leukoaraiosis_hu=float(rng.uniform(0.0, 5.0)) if age < FONTANELLE_CLOSED else 0.0,
    )


def child_calcifications(child: Child, adult: tuple[Calcification, ...]) -> tuple[Calcification, ...]:
    """Those of an adult that a child of that age has: hardly any before school, most in adolescents."""
    return adult[: round(len(adult) * float(np.interp(child.age, (5.0, 12.0, OLDEST), (0.0, 0.25, 0.6))))]
