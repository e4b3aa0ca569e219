"""Everything that is drawn for a simulated exam, so that an exam can be described and made again.

Coordinates are those of the head unless said otherwise: millimetres, x to the patient's left, y to the back,
z to the vertex, origin between the commissures (the plane z = 0 is close to the AC-PC plane).
"""

from __future__ import annotations

from dataclasses import dataclass

from ml.labels import Subtype

Point = tuple[float, float, float]


@dataclass(frozen=True)
class SkullSpec:
    """The bony box and what lies around it."""

    semi_axes_mm: Point
    """Half width, half length and height of the cavity above z = 0."""
    roundness: float
    """Exponent of the superellipsoid, 2 = ellipsoid."""
    thickness_mm: float
    diploe_hu: float
    table_hu: float
    scalp_mm: float
    base_height_mm: float
    """Shift of the skull base upwards."""
    ridge_mm: float
    """Height of the petrous ridge above the middle fossa."""
    sinus_size: float
    """Scale of the air sinuses (0.5 small, 1.3 large)."""
    sinus_fluid: float
    """0 = aerated, 1 = opaque paranasal sinuses."""
    mastoid_air: float
    """0 = sclerotic, 1 = well aerated mastoids."""
    cavity_irregular_mm: float
    suture_mm: float = 0.5
    """Half width of coronal, sagittal and lambdoid suture."""
    suture_hu: float = 250.0
    fontanelle_mm: float = 0.0
    """Half length of the anterior fontanelle; 0 = closed."""


@dataclass(frozen=True)
class BrainSpec:
    """Brain, its fluid spaces, vessels and dura."""

    gray_hu: float
    white_hu: float
    csf_hu: float
    cerebellum_hu: float
    sulcus_mm: float
    """Half width of an average sulcus at the surface (atrophy)."""
    surface_csf_mm: float
    """Width of the fluid between the inner table and the gyri."""
    gyrus_mm: float
    """Distance from sulcus to sulcus."""
    ventricle_scale: float
    ventricle_asymmetry: float
    cistern_scale: float
    falx_mm: float
    falx_hu: float
    tentorium_mm: float
    tentorium_hu: float
    sinus_hu: float
    """Blood in the venous sinuses."""
    artery_hu: float
    artery_scale: float
    leukoaraiosis_hu: float
    """How much darker the white matter at the ventricles is."""
    warp_mm: float


@dataclass(frozen=True)
class Calcification:
    """A calcified or ossified spot or plate: bright and not blood."""

    centre: Point
    semi_axes_mm: Point
    hu: float


@dataclass(frozen=True)
class Bleed:
    """One hemorrhage. `volume_ml` is aimed at; where there is too little room less is made."""

    subtype: Subtype
    site: str
    """parenchyma (IPH), layered, cast (IVH), sulcal, cisternal (SAH), convexity (EDH, SDH), falx, tentorium (SDH)."""
    centre: Point
    volume_ml: float
    hu: float
    """Mean HU of the clot itself, before partial volume."""
    heterogeneity: float
    """0 = even, 1 = mixed density."""
    spread: float
    """Width to depth of a layer, or elongation of a clot."""
    edema_mm: float
    seed: int


@dataclass(frozen=True)
class Hypodensity:
    """Old or fresh infarct, tumour oedema or resection cavity: dark, not labelled."""

    centre: Point
    semi_axes_mm: Point
    hu: float
    softness_mm: float


@dataclass(frozen=True)
class Collection:
    """Chronic subdural collection, hygroma or empyema: between CSF and brain, not labelled."""

    centre: Point
    depth_mm: float
    extent_degrees: float
    hu: float


@dataclass(frozen=True)
class Mass:
    """Bright tumour (meningioma, metastasis) or colloid cyst: smooth, not labelled."""

    centre: Point
    semi_axes_mm: Point
    hu: float
    edema_mm: float


@dataclass(frozen=True)
class Surgery:
    """What an operation left."""

    craniotomy: Point | None = None
    """Direction of the centre of the flap."""
    flap_degrees: float = 0.0
    flap_missing: bool = False
    burr_holes: tuple[Point, ...] = ()
    air_ml: float = 0.0
    """Gas in front, under the highest point of the inner table."""
    drain: tuple[Point, Point] | None = None
    """Entry and tip."""
    drain_hu: float = 200.0
    metal: tuple[Calcification, ...] = ()
    """Clips, coils, plates."""


@dataclass(frozen=True)
class Blow:
    """What a blow to the head left outside the brain: blood under the scalp, and perhaps a crack in the skull."""

    centre: Point
    """Direction of the middle of the swelling."""
    depth_mm: float
    extent_mm: float
    """Radius of the swelling along the skull."""
    hu: float
    crack_mm: float
    """Half width of the crack; 0 = none."""
    seed: int


@dataclass(frozen=True)
class HeadSpec:
    """The patient."""

    seed: int
    skull: SkullSpec
    brain: BrainSpec
    calcifications: tuple[Calcification, ...]
    bleeds: tuple[Bleed, ...]
    hypodensities: tuple[Hypodensity, ...]
    collections: tuple[Collection, ...]
    masses: tuple[Mass, ...]
    surgery: Surgery
    blows: tuple[Blow, ...] = ()
    size: float = 1.0
    """All mm above are scaled by it: below 1 for a child."""


@dataclass(frozen=True)
class Zone:
    """A run of slices with one thickness and one table step, from caudal to cranial."""

    slices: int
    thickness_mm: float
    step_mm: float
    """Table movement between slices; along the normal it is step x cos(tilt)."""


@dataclass(frozen=True)
class ScannerSpec:
    """Acquisition and reconstruction."""

    seed: int
    institution: str
    manufacturer: str
    model: str
    kernel: str
    bone_kernel: str
    kvp: float
    exposure_mas: float
    zones: tuple[Zone, ...]
    tilt_degrees: float
    fov_mm: float
    centre_offset_mm: tuple[float, float]
    """Centre of the field of view minus centre of the head, (x, y) in the patient's frame."""
    start_mm: float
    """Table position of the first slice relative to the head's origin."""
    rotation_degrees: Point
    """Head pose: tip (about x), roll (about y), turn (about z)."""
    blur_mm: float
    """Full width at half maximum of the in-plane point spread."""
    edge_gain: float
    """Edge enhancement of the kernel (0 none)."""
    noise_hu: float
    """SD in the brain at the exam's first thickness."""
    noise_grain_mm: float
    """Correlation length of the noise."""
    hu_offset: float
    hu_gain: float
    hardening: float
    """Residual beam hardening, 1 = typical after correction for water and bone."""
    motion_mm: float
    """How far the head moves within a rotation, on a few slices (a standard deviation); 0: it lies still."""
    turn_degrees: float
    """How far it turns then."""
    cupping_hu: float
    ring_hu: float
    headrest: str
    """none, cradle or flat."""
    circular_field: bool
    """Outside the reconstruction circle there is pixel padding."""
    halo: float
    """Share of the point spread that lies in a wide tail (scatter, focal spot): brain beside bone looks brighter."""
    halo_mm: float
    """Over which the tail falls by a factor of e."""


@dataclass(frozen=True)
class ExamSpec:
    """A patient in a scanner."""

    seed: int
    institution: str
    head: HeadSpec
    scanner: ScannerSpec
