"""The inside of the skull, so that scalp, skull and face can be removed as in the paper's Atlantis exams.

Classical: soft tissue that bone surrounds in most directions of its slice, eroded so that what hangs on by a thin
bridge falls off, followed from the widest slice up and down, grown back. Muscles of the jaw and the neck have bone
around them too, and slices of 5 mm blur what parts them from the brain; but from the widest slice on a brain only
narrows, and they lie beside it. No step needs a closed skull (craniotomy, sutures, foramina), square slices (tilt) or
even spacing, as shapes are found slice by slice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ml.volume import HuArray, MaskArray

COARSE_MM = 2.0
"""Pixels on which shapes are found: noise of thin slices is averaged away, a skull of 4 mm is not."""
SOFT_HU = (-25.0, 130.0)
"""Means of coarse pixels that are brain, fluid or blood: above fat, below bone."""
BONE_HU = 200.0
"""A coarse pixel with a brighter pixel in it stops a ray."""
ANGLES_DEGREES = (0.0, 22.5, 45.0, 67.5)
"""Rays run along the four axes of each rotation: 16 directions."""
SURROUNDED = 0.65
"""Share of rays that meet bone inside the skull; 20 mm beside a gap of 80 mm the brain still has them."""
NEAR_GAP = 0.4
"""Share with which the brain may be grown: at the edge of a missing flap half of the rays leave."""
BRIDGE_MM = 5.0
"""Half the width of what is cut: optic canals, the roof of a thin orbit, the cord in its canal."""
REACH_MM = 9.0
"""How far the eroded brain is grown back."""
BENEATH = 0.6
"""Share of a piece that lies where the slice before it, nearer to the widest one, has brain."""
SPOILT = 0.5
"""A slice with less than this share of the brain of the one before says nothing of the next: metal, or the end."""
WIDENING_MM = 4.0
"""How far a piece may reach out from there: tilt, and walls that bulge."""
FAINT_PROB = 0.3
"""A pixel below it is blood at no operating point (PIXEL_PROBS in ml/training/calibration.py)."""
LEAST_AREA_MM2 = 400.0
"""Of the brain in a slice; the spinal cord in its canal has 200."""
LEAST_WIDEST_MM2 = 5000.0
"""Of the brain in its widest slice: half of an infant's. A smaller one may be something else, and judges no finding."""

FloatMap = npt.NDArray[np.float32]
Pixels = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]
"""Rows and columns."""


def extract_brain(hu: HuArray, pixel_spacing_mm: tuple[float, float]) -> MaskArray:
    """(z, y, x) the inside of the skull: brain, fluid, blood. All False where there is no skull around anything.

    Slices are axial within the tilt of a gantry; values are HU.
    """
    steps = tuple(max(1, round(COARSE_MM / mm)) for mm in pixel_spacing_mm)
    mm = float(np.mean([step * spacing for step, spacing in zip(steps, pixel_spacing_mm, strict=True)]))
    mean, highest = _blocks(hu, (steps[0], steps[1]))
    bone = highest > BONE_HU
    bone |= _cut_off(mean > SOFT_HU[0])
    soft = (mean > SOFT_HU[0]) & (mean < SOFT_HU[1])
    shares = surrounded(bone)
    pieces = _bridge(_per_slice(ndimage.binary_erosion, soft & (shares >= SURROUNDED), BRIDGE_MM / mm))
    core = _follow(pieces, WIDENING_MM / mm)
    grown = _grow(core, soft & (shares >= NEAR_GAP), round(REACH_MM / mm))
    smooth = _per_slice(ndimage.binary_opening, grown, 1.5 * BRIDGE_MM / mm / 2)
    filled = _bridge(smooth | _holes(smooth))
    filled[filled.sum(axis=(1, 2)) * mm * mm < LEAST_AREA_MM2] = False
    return _refine(filled, hu, (steps[0], steps[1]))


def without_outside(prob: FloatMap, brain: MaskArray, pixel_mm: float) -> FloatMap:
    """(z, y, x) the map without findings outside the skull: in the tongue, the scalp, the gap of a bone flap.

    Only of what lies there for the most part, and of that only what does not reach in, is set to 0. So a brain that was
    found too small takes nothing from a bleed at its edge; one slice more counts above and below, as the vertex and
    what lies beside metal may be missed; and where no brain was found, the map stays as it is.
    """
    if brain.sum(axis=(1, 2)).max() * pixel_mm**2 < LEAST_WIDEST_MM2:
        return prob
    inside = brain.copy()
    inside[1:] |= brain[:-1]
    inside[:-1] |= brain[1:]
    labels, _ = ndimage.label(prob >= FAINT_PROB, structure=np.ones((3, 3, 3), dtype=bool))
    found = np.flatnonzero(labels)  # few, so that the rest costs nothing
    lesion, without = labels.ravel()[found], ~inside.ravel()[found]
    outside = np.bincount(lesion, weights=without) > np.bincount(lesion) / 2
    kept = prob.copy()
    kept.ravel()[found[outside[lesion] & without]] = 0
    return kept


def _blocks(hu: HuArray, steps: tuple[int, int]) -> tuple[FloatMap, FloatMap]:
    """Mean and highest HU of blocks of pixels; an incomplete last block repeats its border."""
    height, width = hu.shape[1:]
    padded = np.pad(hu, [(0, 0), (0, -height % steps[0]), (0, -width % steps[1])], mode="edge")
    parts = [padded[:, y :: steps[0], x :: steps[1]] for y in range(steps[0]) for x in range(steps[1])]
    mean, highest = np.zeros(parts[0].shape, dtype=np.float32), parts[0].copy()
    for part in parts:  # several times faster than reductions over axes this short
        mean += part
        np.maximum(highest, part, out=highest)
    return mean / np.float32(len(parts)), highest


def _cut_off(tissue: MaskArray) -> MaskArray:
    """Tissue at the border of the image: what lies beyond is not known, and a ray must not end there unmet."""
    border = np.zeros(tissue.shape, dtype=bool)
    border[:, [0, -1], :] = border[:, :, [0, -1]] = True
    return tissue & border


def surrounded(bone: MaskArray) -> FloatMap:
    """(z, y, x) share of in-plane rays that meet bone before the image ends."""
    met = np.zeros(bone.shape, dtype=np.float32)
    for angle in ANGLES_DEGREES:
        there, back = _turns(bone.shape[1:], angle)
        turned = np.pad(bone, [(0, 0), (0, 1), (0, 1)])[:, there[0], there[1]]
        rays = np.zeros(turned.shape, dtype=np.uint8)
        for axis in (1, 2):
            rays += np.logical_or.accumulate(turned, axis=axis)
            rays += np.flip(np.logical_or.accumulate(np.flip(turned, axis), axis=axis), axis)
        met += rays[:, back[0], back[1]]
    return met / np.float32(4 * len(ANGLES_DEGREES))


def _turns(shape: tuple[int, ...], degrees: float) -> tuple[Pixels, Pixels]:
    """Nearest pixels: of an image (height, width) for each one of a square around it that is turned by an angle, where
    [height, width] is outside; and of the square for each one of the image.
    """
    height, width = shape
    side = int(np.ceil(np.hypot(height, width)))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    v, u = np.mgrid[:side, :side] - (side - 1) / 2
    y = np.rint(cos * v - sin * u + (height - 1) / 2).astype(np.intp)
    x = np.rint(sin * v + cos * u + (width - 1) / 2).astype(np.intp)
    outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
    y[outside], x[outside] = height, width
    b, a = np.mgrid[:height, :width]
    b, a = b - (height - 1) / 2, a - (width - 1) / 2
    back = (
        np.rint(cos * b + sin * a + (side - 1) / 2).astype(np.intp),
        np.rint(cos * a - sin * b + (side - 1) / 2).astype(np.intp),
    )
    return (y, x), back


def _per_slice(operation: object, mask: MaskArray, radius_px: float) -> MaskArray:
    """A binary operation with a disc, slice by slice."""
    reach = int(radius_px)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (y**2 + x**2 <= radius_px**2)[None]
    return np.asarray(operation(mask, disc))  # type: ignore[operator] # one of scipy's, which has no types


def largest_piece(mask: MaskArray) -> MaskArray:
    """The largest piece of a slice."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    return np.asarray(labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1)


def _follow(pieces: MaskArray, widening_px: float) -> MaskArray:
    """The largest piece of any slice, and above and below it what goes on from there."""
    followed = np.zeros_like(pieces)
    largest = [largest_piece(one) for one in pieces]
    widest = int(np.argmax([one.sum() for one in largest]))
    followed[widest] = largest[widest]
    for order in (range(widest + 1, len(pieces)), range(widest - 1, -1, -1)):
        before = followed[widest]
        for z in order:
            reach = _per_slice(ndimage.binary_dilation, before[None], widening_px)[0]
            followed[z] = _beneath(pieces[z], reach) & reach
            if followed[z].sum() >= SPOILT * before.sum():
                before = followed[z]
    return followed


def _beneath(pieces: MaskArray, reach: MaskArray) -> MaskArray:
    """The pieces of a slice that lie within `reach`, but for a part of them."""
    labels, _ = ndimage.label(pieces)
    within = np.bincount(labels.ravel(), weights=reach.ravel()) >= BENEATH * np.bincount(labels.ravel())
    within[0] = False
    return np.asarray(within[labels])


def _bridge(mask: MaskArray) -> MaskArray:
    """A slice has at least what both its neighbours have: metal fills one with streaks, and the brain goes on."""
    bridged = mask.copy()
    bridged[1:-1] |= mask[:-2] & mask[2:]
    return bridged


def _grow(core: MaskArray, within: MaskArray, steps: int) -> MaskArray:
    """Grown in its slices, around corners but not out of `within`."""
    if steps < 1:
        return core
    cross = ndimage.generate_binary_structure(2, 1)[None]
    return np.asarray(ndimage.binary_dilation(core, cross, iterations=steps, mask=within))


def _refine(coarse: MaskArray, hu: HuArray, steps: tuple[int, int]) -> MaskArray:
    """On the source's pixels: up to the bone, which blocks had blurred, and no further than one block."""
    inside = np.repeat(np.repeat(_per_slice(ndimage.binary_dilation, coarse, 1.0), steps[0], axis=1), steps[1], axis=2)
    mask = inside[:, : hu.shape[1], : hu.shape[2]] & (hu < BONE_HU)
    kept = np.repeat(np.repeat(coarse, steps[0], axis=1), steps[1], axis=2)[:, : hu.shape[1], : hu.shape[2]]
    return np.asarray(_per_slice(ndimage.binary_opening, mask, 1.5) | (kept & mask) | (kept & _holes(mask)))


def _holes(mask: MaskArray) -> MaskArray:
    """What the mask encloses in its slices: calcifications, clips."""
    holes = np.zeros_like(mask)
    for z, one in enumerate(mask):
        labels, _ = ndimage.label(~one)
        border = np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])
        holes[z] = ~one & ~np.isin(labels, border)
    return holes
