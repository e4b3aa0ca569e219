"""Drawing the scanner and how the patient lies in it, for each institution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ml.phantom.spec import ScannerSpec, Zone

Range = tuple[float, float]


@dataclass(frozen=True)
class Institution:
    """The ranges an institution's scans are drawn from."""

    makers: tuple[tuple[str, str, str, str], ...]
    """(manufacturer, model, soft kernel, bone kernel)."""
    thickness_mm: tuple[float, ...]
    blur_mm: Range
    edge_gain: Range
    halo: Range
    halo_mm: Range
    noise_hu: Range
    grain_mm: Range
    fov_mm: Range
    tilt: tuple[float, Range]
    """Share of tilted scans and their range in degrees."""
    hu_offset: Range
    hardening: Range
    artefact_share: float
    headrests: tuple[str, ...]
    circular_share: float


GE = ("GE MEDICAL SYSTEMS", "LightSpeed VCT", "STANDARD", "BONEPLUS")
SIEMENS = ("SIEMENS", "SOMATOM Definition AS", "H31s", "H60s")
PHILIPS = ("Philips", "Brilliance 64", "UB", "YB")
TOSHIBA = ("TOSHIBA", "Aquilion", "FC26", "FC30")

PEDIATRIC = "pediatric"
"""An institution that scans children."""
INSTITUTIONS: dict[str, Institution] = {
    "A": Institution(
        makers=(GE,), thickness_mm=(5.0, 5.0, 4.0, 2.5), blur_mm=(0.8, 1.1), edge_gain=(0.0, 0.15), noise_hu=(2.6, 4.2),
        halo=(0.02, 0.07), halo_mm=(2.0, 3.2), grain_mm=(1.1, 1.45), fov_mm=(220.0, 250.0), tilt=(0.5, (5.0, 22.0)),
        hu_offset=(-1.5, 1.0),
        hardening=(0.5, 1.2), artefact_share=0.06, headrests=("cradle",), circular_share=0.8,
    ),
    "B": Institution(
        makers=(SIEMENS, PHILIPS), thickness_mm=(3.0, 5.0, 2.0, 1.0), blur_mm=(0.6, 0.9), edge_gain=(0.25, 0.6),
        halo=(0.0, 0.04), halo_mm=(1.5, 2.5), noise_hu=(4.0, 7.5), grain_mm=(0.75, 1.0), fov_mm=(200.0, 280.0),
        tilt=(0.1, (3.0, 12.0)), hu_offset=(0.5, 5.0),
        hardening=(0.8, 2.0), artefact_share=0.15, headrests=("cradle", "flat"), circular_share=0.2,
    ),
    "any": Institution(
        makers=(GE, SIEMENS, PHILIPS, TOSHIBA),
        thickness_mm=(*6 * (5.0,), 2.0, 4.0, 4.8, 3.0, 3.0, 6.0, 7.0, 2.5, 1.2, 0.6), blur_mm=(0.6, 1.7),
        edge_gain=(0.0, 0.7), halo=(0.0, 0.12), halo_mm=(1.2, 4.0), noise_hu=(1.3, 8.0), grain_mm=(0.75, 1.8),
        fov_mm=(195.0, 300.0),
        tilt=(0.45, (3.0, 25.0)), hu_offset=(-4.0, 6.0), hardening=(0.2, 2.2), artefact_share=0.12,
        headrests=("cradle", "cradle", "flat", "none"), circular_share=0.5,
    ),
}  # fmt: skip
INSTITUTIONS[PEDIATRIC] = replace(
    INSTITUTIONS["any"], thickness_mm=(5.0, 5.0, 4.0, 3.0, 3.0, 2.5, 2.0, 1.2), noise_hu=(2.0, 9.0), artefact_share=0.25
)


def _zones(rng: np.random.Generator, thickness: float, *, length_mm: float) -> tuple[Zone, ...]:
    """One run of slices, or thin through the posterior fossa and thick above (sequential scans)."""
    step = thickness * float(rng.choice([1.0, 1.0, 1.0, 1.05, 0.9]))
    if 2.5 <= thickness <= 5 and rng.random() < 0.22:
        below = max(4, int(0.42 * length_mm / step))
        upper = float(rng.choice([1.5, 1.75, 2.0])) * thickness
        upper = min(upper, 10.0)
        above = max(4, int(np.ceil((length_mm - below * step) / upper)))
        return (Zone(below, thickness, step), Zone(above, upper, upper))
    return (Zone(max(8, int(np.ceil(length_mm / step))), thickness, step),)


def _turn(rng: np.random.Generator) -> float:
    """Of a head that moves: every other one turns."""
    return float(rng.uniform(0.3, 3.0)) if rng.random() < 0.5 else 0.0


def draw_scanner(rng: np.random.Generator, *, institution: str, size: float = 1.0) -> ScannerSpec:
    """A scan of `institution` of a head that is `size` times as large as an adult's."""
    kind = INSTITUTIONS[institution]
    maker, model, soft, bone = kind.makers[int(rng.integers(len(kind.makers)))]
    thickness = float(rng.choice(kind.thickness_mm))
    tilted, tilts = kind.tilt
    tilt = float(rng.uniform(*tilts)) if rng.random() < tilted else 0.0
    # a tilted gantry follows the skull base of a head that lies flat; untilted scans are of tipped heads
    tip = float(rng.normal(0.0, 5.0)) + (-0.6 * tilt if rng.random() < 0.3 else 0.0)
    start = float(np.clip(rng.normal(-72.0, 9.0), -98.0, -48.0)) * size
    stop = float(np.clip(rng.normal(86.0, 6.0), 66.0, 98.0)) * size
    fov = float(rng.uniform(*kind.fov_mm)) * size
    thin = float(np.sqrt(5.0 / thickness))
    artefact = bool(rng.random() < kind.artefact_share)
    seed = int(rng.integers(2**31))
    return ScannerSpec(
        seed=seed,
        institution=institution,
        manufacturer=maker,
        model=model,
        kernel=soft,
        bone_kernel=bone,
        kvp=float(rng.choice([120, 120, 120, 140, 100])),
        exposure_mas=float(np.round(rng.uniform(120, 400))),
        zones=_zones(rng, thickness, length_mm=stop - start),
        tilt_degrees=float(np.round(tilt * 2) / 2),
        fov_mm=float(np.round(fov)),
        centre_offset_mm=(float(rng.normal(0, 5.0)), float(rng.normal(0, 7.0))),
        start_mm=start,
        rotation_degrees=(
            tip,
            float(rng.normal(0, 3.5)),
            float(rng.normal(0, 5.0) * (3.0 if rng.random() < 0.12 else 1.0)),
        ),
        blur_mm=float(rng.uniform(*kind.blur_mm)),
        edge_gain=float(rng.uniform(*kind.edge_gain)),
        noise_hu=float(np.clip(rng.uniform(*kind.noise_hu) * thin**0.8, 1.0, 16.0)),
        noise_grain_mm=float(rng.uniform(*kind.grain_mm)),
        hu_offset=float(rng.uniform(*kind.hu_offset)),
        hu_gain=float(np.clip(rng.normal(1.0, 0.015), 0.95, 1.05)),
        hardening=float(rng.uniform(*kind.hardening)),
        motion_mm=float(rng.uniform(0.3, 2.2)) if artefact else 0.0,
        turn_degrees=_turn(np.random.default_rng([seed, 17])) if artefact else 0.0,
        cupping_hu=float(rng.normal(0.0, 1.5)),
        ring_hu=float(rng.uniform(0.5, 2.5)) if rng.random() < 0.5 * kind.artefact_share else 0.0,
        headrest=str(rng.choice(kind.headrests)),
        circular_field=bool(rng.random() < kind.circular_share),
        halo=float(rng.uniform(*kind.halo)),
        halo_mm=float(rng.uniform(*kind.halo_mm)),
    )
