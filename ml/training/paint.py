"""Blood painted into a real head: what is around it is real, only the blood is drawn.

What a simulated head cannot tell is how a network takes a real one. Here the truth is known, and everything else was
measured by a scanner. The shapes are plain, so figures on them are those of bleeds that are easy to outline.
`ml.training.backgrounds` trains on such heads, `bench/real_heads.py` and tests look at others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ml.errors import DataError
from ml.inference.brain import extract_brain
from ml.phantom.scanner import VISIBLE_GAIN_HU
from ml.prediction import Side
from ml.volume import FloatArray, MaskArray, Volume

CLOT_HU = (54.0, 70.0)
"""Fresh blood, 22 to 38 above grey matter of 32."""
FLUID_HU = (-15.0, 16.0)
"""Of means over a millimetre."""
DEEP_MM = 35.0
"""From the inside of the skull: what is fluid there is a ventricle."""
EDGE_MM = 0.6
"""Sigma of the blur at the edge of the blood, in a slice."""
NOISE_MM = 2.0
"""Sigma of the mean to which the noise is left standing."""
PAINTED_BELOW_HU = 120.0
"""A voxel of soft tissue is below it, noise and all; bone and calcification are not painted over."""
ATTEMPTS = 100
"""At a bleed that is large enough."""
LEAST_AREA_MM2 = 8000.0
"""Of brain in a slice in which blood begins."""

Shape = Callable[["Canvas", "Place"], MaskArray]


@dataclass(frozen=True, eq=False)
class Painted:
    """An exam with one bleed in it."""

    kind: str
    side: Side
    volume: Volume
    truth: MaskArray


@dataclass(frozen=True)
class Place:
    """Where a bleed begins, and the random numbers that shape it."""

    z: int
    side: int
    """-1: low x of the image, the right of a patient whose rows run to the left; 1: high x."""
    draw: np.random.Generator


class Canvas:
    """A real head, measured once for all that is painted into it."""

    def __init__(self, volume: Volume) -> None:
        """Raises DataError where the scan shows no brain."""
        self.volume = volume
        self.mm = float(np.mean(volume.geometry.pixel_spacing_mm))
        """Of a pixel, which is square."""
        self.inside = extract_brain(volume.hu, volume.geometry.pixel_spacing_mm)
        self.depth_mm = np.stack([ndimage.distance_transform_edt(one) * self.mm for one in self.inside])
        means = ndimage.gaussian_filter(volume.hu, (0, 1 / self.mm, 1 / self.mm))
        self.fluid = self.inside & (means > FLUID_HU[0]) & (means < FLUID_HU[1])
        areas = self.inside.sum(axis=(1, 2)) * self.mm**2
        wide = np.flatnonzero(areas > LEAST_AREA_MM2)
        if not len(wide):
            raise DataError("no slice shows enough brain to paint into: give a head CT that shows the whole brain")
        self.slices = wide[len(wide) // 8 : len(wide) - len(wide) // 8]
        """(n,) in which blood begins: those at both ends of the brain are left out."""
        heights = volume.geometry.offsets_mm[self.slices]
        self.vault = self.slices[heights > (heights[0] + heights[-1]) / 2]
        """(n,) in which layers begin: further down the bone has ridges, and no layer follows all of them."""

    @cached_property
    def ventricles(self) -> MaskArray:
        """(z, y, x) the largest piece of fluid deep in the brain; nothing where there is none."""
        labels, pieces = ndimage.label(self.fluid & (self.depth_mm > DEEP_MM))
        if not pieces:
            return np.zeros(labels.shape, dtype=np.bool_)
        return np.asarray(labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1)

    def heights_mm(self, z: int) -> FloatArray:
        """(z, 1, 1) along the normal, from slice z."""
        offsets = self.volume.geometry.offsets_mm
        return np.asarray((offsets - offsets[z])[:, None, None])

    def from_middle_mm(self, z: int) -> tuple[FloatArray, FloatArray]:
        """(y, x) and (y, x): millimetres down and along a row from the middle of the brain in slice z."""
        middle = ndimage.center_of_mass(self.inside[z])
        y, x = np.mgrid[: self.volume.hu.shape[1], : self.volume.hu.shape[2]]
        return (y - middle[0]) * self.mm, (x - middle[1]) * self.mm

    def paint(self, blood: MaskArray, clot_hu: float) -> tuple[Volume, MaskArray]:
        """The head with that blood, as bright as clot and as noisy as it was, and where it is seen.

        Bone and calcification stay, and what is not brighter than before is no blood (as in `ml.phantom.scanner`).
        """
        shown = blood.any(axis=(1, 2))  # the other slices stay as they are
        hu, drawn = self.volume.hu[shown], blood[shown]
        share = ndimage.gaussian_filter(drawn.astype(np.float32), (0, EDGE_MM / self.mm, EDGE_MM / self.mm))
        means = ndimage.gaussian_filter(np.minimum(hu, clot_hu), (0, NOISE_MM / self.mm, NOISE_MM / self.mm))
        gain = share * np.clip(clot_hu - means, 0.0, None) * (hu < PAINTED_BELOW_HU)
        painted, seen = self.volume.hu.astype(np.float32), np.zeros_like(blood)
        painted[shown], seen[shown] = hu + gain, drawn & (gain >= VISIBLE_GAIN_HU)
        return Volume(painted, self.volume.geometry), seen


def ball(canvas: Canvas, place: Place) -> MaskArray:
    """A clot in the brain, 12 to 32 mm across."""
    radius, up, out = place.draw.uniform((6, -45, 12), (16, 45, 40))
    down, along = canvas.from_middle_mm(place.z)
    away = canvas.heights_mm(place.z) ** 2 + (down - up) ** 2 + (along - place.side * out) ** 2
    return np.asarray((away < radius**2) & canvas.inside & (canvas.depth_mm > 2))


def layer(thickness_mm: tuple[float, float], half_length_mm: float, half_height_mm: float) -> Shape:
    """Blood along the inside of the skull, thickest in its middle, at the side of the head."""

    def shape(canvas: Canvas, place: Place) -> MaskArray:
        thickness, turn = place.draw.uniform((thickness_mm[0], -0.6), (thickness_mm[1], 0.6))
        down, along = canvas.from_middle_mm(place.z)
        angle = np.arctan2(down, along) - (0 if place.side > 0 else np.pi) - turn
        length = np.abs((angle + np.pi) % (2 * np.pi) - np.pi) * 65.0
        profile = np.clip(1 - (length / half_length_mm) ** 2, 0, None)
        height = np.clip(1 - (canvas.heights_mm(place.z) / half_height_mm) ** 2, 0, None)
        return np.asarray(canvas.inside & (canvas.depth_mm < thickness * profile * height))

    return shape


def sulci(canvas: Canvas, place: Place) -> MaskArray:
    """The fluid between the folds of one region, 40 to 70 mm across, filled with blood."""
    turn, radius = place.draw.uniform((-1, 20), (1, 35))
    angle = (0 if place.side > 0 else np.pi) + turn
    down, along = canvas.from_middle_mm(place.z)
    away = canvas.heights_mm(place.z) ** 2 + (down - 50 * np.sin(angle)) ** 2 + (along - 50 * np.cos(angle)) ** 2
    return np.asarray(canvas.fluid & ~canvas.ventricles & (away < radius**2))


def ventricle(canvas: Canvas, place: Place) -> MaskArray:
    """Blood that has settled in the ventricles of a patient who lies on the back."""
    share = place.draw.uniform(0.3, 0.7)
    if not canvas.ventricles.any():
        return canvas.ventricles
    level = np.quantile(np.nonzero(canvas.ventricles)[1], share)
    rows = np.arange(canvas.volume.hu.shape[1])[None, :, None]
    return np.asarray(canvas.ventricles & (rows > level))


LAYERS = {
    "crescent": layer((5, 10), 70, 25),
    "lens": layer((10, 18), 28, 18),
    "thin layer": layer((2.5, 4.5), 60, 22),
}
SHAPES: dict[str, Shape] = {"ball": ball, **LAYERS, "sulci": sulci, "ventricle": ventricle}


def paint_bleeds(volume: Volume, number: int, *, seed: int = 5, least_ml: float = 0.3) -> Iterator[Painted]:
    """`number` bleeds, the kinds by turns, left and right by turns; one that comes out smaller is drawn again.

    Raises DataError where a kind of bleed finds no room.
    """
    canvas = Canvas(volume)
    draw = np.random.default_rng(seed)
    names = list(SHAPES)
    for one in range(number):
        kind = names[one % len(names)]
        for _ in range(ATTEMPTS):
            slices = canvas.vault if kind in LAYERS else canvas.slices
            place = Place(int(draw.choice(slices)), 1 if one // len(names) % 2 else -1, draw)
            painted, truth = canvas.paint(SHAPES[kind](canvas, place), float(draw.uniform(*CLOT_HU)))
            if volume.volume_ml(truth) >= least_ml:
                break
        else:
            raise DataError(f"no {kind} of {least_ml} mL fits into this head: give a CT that shows the whole brain")
        side = Side.MIDLINE if kind == "ventricle" else Side.LEFT if place.side > 0 else Side.RIGHT
        yield Painted(kind, side, painted, truth)


def mean_by_kind(bleeds: list[Painted], values: npt.ArrayLike) -> dict[str, float]:
    """The mean of one value per bleed, for each kind that is there."""
    kinds, array = np.array([bleed.kind for bleed in bleeds]), np.asarray(values, dtype=float)
    return {kind: float(array[kinds == kind].mean()) for kind in SHAPES if kind in kinds}
