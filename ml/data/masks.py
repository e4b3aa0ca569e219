"""Expert masks onto the grid of the images: NIfTI masks and DICOM Segmentation objects (PS3.3 A.51, C.8.20).

A mask is placed by its own geometry, never by the order of its voxels: programs flip rows, slices and axes. It is
refused where its voxels do not fall on those of the images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import pixel_array

from ml.data.nifti import is_nifti, read_stack
from ml.data.part10 import open_file, read_dataset
from ml.data.refusals import refusal
from ml.labels import BLEED, WORDS, LabelArray, Subtype
from ml.volume import FloatArray, Geometry

OFF_GRID = 0.3
"""Of a voxel: masks that lie further off were drawn on other images."""
BLOOD_WORDS = ("hemorrhage", "haemorrhage", "hematoma", "haematoma", "bleed", "blood")
NO_BLOOD_WORDS = frozenset(["edema", "oedema", "chronic", "old", "no", "without"])
"""A segment so called is not fresh blood, whatever else its name says ("acute on chronic" is)."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice of a mask, with codes of `ml.labels`."""

    codes: LabelArray
    """(y, x)."""
    position_lps: FloatArray
    row_lps: FloatArray
    column_lps: FloatArray
    pixel_spacing_mm: tuple[float, float]
    image_uid: str | None = None
    """The SOP Instance UID that it was drawn on, where that is known."""


def read_mask(
    path: Path, geometry: Geometry, *, shape: tuple[int, int], values: Mapping[int, int] | None = None
) -> LabelArray:
    """(z, y, x) codes of a mask file on the images' grid; `shape` is that of an image.

    `values`: what a NIfTI mask's values mean (value -> code); without it all above 0 is blood. A DICOM SEG says itself
    what its segments are.

    Raises:
        UnreadableStudy: MASK_MISPLACED, MASK_UNCLEAR or what is wrong with the file.
    """
    if not is_nifti(path):
        return place(read_seg(path), geometry, shape=shape)
    stack = read_stack(path)
    codes = to_codes(stack.values, values)
    if not stack.placed:
        return _in_file_order(codes, stack.geometry, geometry, shape)
    planes = [
        Plane(codes[z], position, stack.geometry.row_lps, stack.geometry.column_lps, stack.geometry.pixel_spacing_mm)
        for z, position in enumerate(stack.geometry.positions_lps)
    ]
    return place(planes, geometry, shape=shape, whole=True)


def _in_file_order(codes: LabelArray, own: Geometry, geometry: Geometry, shape: tuple[int, int]) -> LabelArray:
    """A mask whose header says nothing: voxel for voxel that of a NIfTI image of the same size, or useless."""
    if set(own.sop_instance_uids) != set(geometry.sop_instance_uids) or codes.shape[1:] != shape:
        raise refusal("MASK_MISPLACED", why="its header does not say where it lies, and its size is another")
    return codes[[own.sop_instance_uids.index(name) for name in geometry.sop_instance_uids]]


def to_codes(values: npt.NDArray[np.float32], meaning: Mapping[int, int] | None) -> LabelArray:
    """Values of a NIfTI mask to codes; raises UnreadableStudy for a value without meaning."""
    values = np.nan_to_num(values)
    rounded = np.rint(values).astype(np.int64)
    if values.any() and not rounded.any():
        raise refusal("MASK_UNCLEAR", why=f"its highest value is {values.max():.3g}")
    if meaning is None:
        # below 0: blood that was written as 255 into 8 bits with a sign, or what a program fills up with
        if (rounded < 0).any():
            raise refusal("MASK_UNCLEAR", why=f"value {rounded.min()} has no meaning here")
        return np.where(rounded > 0, np.uint8(BLEED), np.uint8(0))
    codes = np.zeros(values.shape, dtype=np.uint8)
    for value in np.unique(rounded[rounded != 0]).tolist():
        if value not in meaning:
            raise refusal("MASK_UNCLEAR", why=f"value {value} has no meaning here")
        codes[rounded == value] = meaning[value]
    return codes


def place(planes: Sequence[Plane], geometry: Geometry, *, shape: tuple[int, int], whole: bool = False) -> LabelArray:
    """(z, y, x) codes on the images' grid; `whole`: every image must have its plane (else it has no blood)."""
    placed = np.zeros((len(geometry.positions_lps), *shape), dtype=np.uint8)
    found = np.zeros(len(placed), dtype=bool)
    for plane in planes:
        z = _slice_of(plane, geometry)
        if z is None:
            if (plane.codes == 0).all():
                continue
            raise refusal("MASK_MISPLACED", why="one of its planes lies on no image")
        codes = _turn(plane, geometry, z, shape)
        free = (placed[z] == 0) | (placed[z] == BLEED)  # a segment for all blood hides no subtype
        placed[z] = np.where(free & (codes > 0), codes, placed[z])
        found[z] = True
    if whole and not found.all():
        raise refusal("MASK_MISPLACED", why=f"{int((~found).sum())} of {len(found)} images have no plane of it")
    return placed


def _slice_of(plane: Plane, geometry: Geometry) -> int | None:
    if plane.image_uid in geometry.sop_instance_uids:
        return geometry.sop_instance_uids.index(plane.image_uid)
    distances = np.abs(geometry.offsets_mm - plane.position_lps @ geometry.normal_lps)
    z = int(np.argmin(distances))
    return z if distances[z] <= OFF_GRID * geometry.slice_heights_mm[z] else None


def _turn(plane: Plane, geometry: Geometry, z: int, shape: tuple[int, int]) -> LabelArray:
    """The plane's codes in the rows and columns of image `z`: flips and an exchange of rows and columns undone."""
    mm = np.array(plane.pixel_spacing_mm)
    axes = np.stack([plane.column_lps, plane.row_lps]) / mm[:, None]  # patient mm -> (row, column) of the plane
    start = axes @ (geometry.positions_lps[z] - plane.position_lps)
    steps = np.stack(
        [
            axes @ (geometry.column_lps * geometry.pixel_spacing_mm[0]),
            axes @ (geometry.row_lps * geometry.pixel_spacing_mm[1]),
        ]
    )  # (2, 2): of one pixel down and one to the right
    whole = np.rint(steps)
    drift = np.abs(steps - whole) * np.array(shape)[:, None]
    if not np.array_equal(np.abs(whole).sum(axis=0), [1, 1]) or max(drift.max(), _off(start)) > OFF_GRID:
        raise refusal("MASK_MISPLACED", why="its pixels do not fall on those of the images")
    first = np.rint(start).astype(int)
    row_axis = int(np.argmax(np.abs(whole[0])))  # the plane's axis along which the image's y runs
    codes = plane.codes if row_axis == 0 else plane.codes.T
    y = first[row_axis] + int(whole[0, row_axis]) * np.arange(shape[0])
    x = first[1 - row_axis] + int(whole[1, 1 - row_axis]) * np.arange(shape[1])
    inside_y, inside_x = (y >= 0) & (y < codes.shape[0]), (x >= 0) & (x < codes.shape[1])
    turned = np.zeros(shape, dtype=np.uint8)
    turned[np.ix_(inside_y, inside_x)] = codes[np.ix_(y[inside_y], x[inside_x])]
    return turned


def _off(start: FloatArray) -> float:
    return float(np.abs(start - np.rint(start)).max())


def read_seg(path: Path) -> list[Plane]:
    """The blood in a DICOM SEG, a plane for each frame; raises UnreadableStudy."""
    try:
        with open_file(path) as file:
            ds = read_dataset(file)
        frames = np.atleast_3d(pixel_array(ds))
        if int(ds.get("NumberOfFrames", 1)) == 1:
            frames = frames.reshape(1, int(ds.Rows), int(ds.Columns))
        meaning = {int(one.SegmentNumber): segment_code(one) for one in ds.SegmentSequence}
        shared = ds.SharedFunctionalGroupsSequence[0]
        groups = list(ds.PerFrameFunctionalGroupsSequence)
        least = 1 if ds.SegmentationType == "BINARY" else int(ds.MaximumFractionalValue) / 2
        planes = [_frame(frame >= least, group, shared, meaning) for frame, group in zip(frames, groups, strict=True)]
    except (AttributeError, IndexError, KeyError, ValueError, InvalidDicomError) as error:
        raise refusal("MASK_UNCLEAR", why=f"the segmentation object is incomplete: {type(error).__name__}") from error
    if not any(meaning.values()):
        raise refusal("MASK_UNCLEAR", why="none of its segments is called a hemorrhage")
    return [plane for plane in planes if plane is not None]


def segment_code(segment: Any) -> int:
    """The code of a segment, by its label and property type; 0 for what is not blood."""
    types = [one.get("CodeMeaning", "") for one in segment.get("SegmentedPropertyTypeCodeSequence", [])]
    text = " ".join([str(segment.get("SegmentLabel", "")), str(segment.get("SegmentDescription", "")), *types]).lower()
    text = re.sub(r"acute[ -]on[ -]chronic", "acute", text)
    words = frozenset(re.findall(r"[a-z]+", text))
    if words & NO_BLOOD_WORDS:
        return 0
    for word, subtype in WORDS.items():
        if word in text:
            return int(subtype)
    for subtype in Subtype:
        if subtype.name.lower() in words:
            return int(subtype)
    return BLEED if "ich" in words or any(word in text for word in BLOOD_WORDS) else 0


def _frame(mask: npt.NDArray[np.bool_], group: Any, shared: Any, meaning: Mapping[int, int]) -> Plane | None:
    def functional(name: str) -> Any:
        return (group if name in group else shared)[name][0]

    code = meaning[int(functional("SegmentIdentificationSequence").ReferencedSegmentNumber)]
    if code == 0:
        return None
    cosines = [float(one) for one in functional("PlaneOrientationSequence").ImageOrientationPatient]
    spacing = [float(one) for one in functional("PixelMeasuresSequence").PixelSpacing]
    position = [float(one) for one in functional("PlanePositionSequence").ImagePositionPatient]
    return Plane(
        codes=np.where(mask, np.uint8(code), np.uint8(0)),
        position_lps=np.array(position),
        row_lps=np.array(cosines[:3]),
        column_lps=np.array(cosines[3:]),
        pixel_spacing_mm=(spacing[0], spacing[1]),
        image_uid=_source(group),
    )


def _source(group: Any) -> str | None:
    for derivation in group.get("DerivationImageSequence", []):
        for source in derivation.get("SourceImageSequence", []):
            return str(source.ReferencedSOPInstanceUID)
    return None
