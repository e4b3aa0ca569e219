"""The picture for people: the slices that matter, with contours, scale, sides and the research notice on every panel.

Shown as radiologists hang an axial head: the patient's right on the left of the picture, front up. The turn and the
letters at the edges come from the geometry, never from the order of rows. No patient identity is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ml.inference.pose import BONE_HU
from worker.results.context import RESEARCH_NOTICE
from worker.results.files import write_whole
from worker.results.summary import answer, regions_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from ml.prediction import Lesion, Prediction
    from ml.volume import FloatArray, Geometry, Volume

    Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

WINDOW_CENTRE_HU, WINDOW_WIDTH_HU = 40.0, 80.0
"""The brain window."""
PANEL_PX = 400
"""The longer side of a slice in the picture."""
MOST_PANELS, FEWEST_PANELS, PANELS_PER_ROW = 6, 3, 3
SCALE_MM = 50.0
ROOM_MM = 15.0
"""Around the skull: scalp and swelling stay in the picture, headrest and air do not."""
_CAPTION_PX = 22
_CONTOUR, _TEXT, _BANNER, _GROUND = (255, 64, 32), (235, 235, 235), (255, 208, 64), (0, 0, 0)
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}


@dataclass(frozen=True)
class Hanging:
    """How a slice is turned for display. Applied in this order: transpose, flip left-right, flip up-down."""

    transpose: bool
    flip_horizontal: bool
    flip_vertical: bool
    right: str
    """Letter of the patient direction at the right edge of the picture; the left edge is its opposite."""
    bottom: str

    def turn(self, image_yx: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The slice as it is shown."""
        image = image_yx.T if self.transpose else image_yx
        image = image[:, ::-1] if self.flip_horizontal else image
        return image[::-1] if self.flip_vertical else image


def hanging(geometry: Geometry) -> Hanging:
    """Patient left to the right of the picture and back (posterior) down, for any orientation of rows and columns."""
    across, down = geometry.row_lps, geometry.column_lps
    transpose = abs(down[0]) > abs(across[0])
    if transpose:
        across, down = down, across
    flip_horizontal, flip_vertical = bool(across[0] < 0), bool(down[1] < 0)
    return Hanging(
        transpose=bool(transpose),
        flip_horizontal=flip_horizontal,
        flip_vertical=flip_vertical,
        right=_letter(-across if flip_horizontal else across),
        bottom=_letter(-down if flip_vertical else down),
    )


def panel_slices(prediction: Prediction, lesions: Sequence[Lesion]) -> list[int]:
    """z of the slices to show, rising.

    With lesions: their key slices, largest lesion first; fewer than three are filled up with the outlined slices that
    lie farthest from those chosen. Without: six spread evenly over the middle 70 % of the exam.
    """
    depth = len(prediction.mask)
    if not lesions:
        spread = np.linspace(0.15 * (depth - 1), 0.85 * (depth - 1), num=min(MOST_PANELS, depth)).round()
        return sorted({int(z) for z in spread})
    chosen = list(dict.fromkeys(lesion.key_slice for lesion in lesions))[:MOST_PANELS]
    outlined = {int(z) for z in np.flatnonzero(prediction.mask.any(axis=(1, 2)))}
    while len(chosen) < FEWEST_PANELS and outlined.difference(chosen):
        others = sorted(outlined.difference(chosen))
        chosen.append(max(others, key=lambda z: min(abs(z - shown) for shown in chosen)))
    return sorted(chosen)


def write_overlay(volume: Volume, path: Path, *, prediction: Prediction, lesions: Sequence[Lesion]) -> list[int]:
    """Writes the PNG (whole or not at all) and returns the z of the slices shown."""
    slices = panel_slices(prediction, lesions)
    panels = [draw_panel(volume, z, lesions) for z in slices]
    width, height = panels[0].size
    columns = min(PANELS_PER_ROW, len(panels))
    rows = -(-len(panels) // columns)
    header = _header_lines(prediction, lesions)
    top = 12 + 22 * len(header)
    sheet = Image.new("RGB", (max(columns * width, 640), top + rows * height), _GROUND)
    draw = ImageDraw.Draw(sheet)
    for line, text in enumerate(header):
        draw.text((8, 6 + 22 * line), text, fill=_TEXT, font=fitting_font(text, sheet.width - 16, largest=16))
    for index, panel in enumerate(panels):
        sheet.paste(panel, (index % columns * width, top + index // columns * height))
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    write_whole(buffer.getvalue(), path)
    return slices


def _header_lines(prediction: Prediction, lesions: Sequence[Lesion]) -> list[str]:
    word, regions = answer(prediction).upper(), regions_text(lesions)
    lines = [
        f"Intracranial hemorrhage {word}   probability {prediction.exam_score:.2f}   {regions}",
        f"{prediction.bundle.name} {prediction.bundle.version}   window 40/80 HU",
    ]
    if lesions:
        listed = [f"{lesion.number}: {lesion.volume_ml:.1f} mL {lesion.side}" for lesion in lesions[:MOST_PANELS]]
        more = f"   and {len(lesions) - MOST_PANELS} more" if len(lesions) > MOST_PANELS else ""
        lines.append("   ".join(listed) + more)
    return lines


def draw_panel(volume: Volume, z: int, lesions: Sequence[Lesion], *, size_px: int = PANEL_PX) -> Image.Image:
    """One slice in true proportions, with everything a reader needs to place it; `size_px` is its longer side."""
    geometry, turned, box = volume.geometry, hanging(volume.geometry), head_box(volume)
    grey = turned.turn(_windowed(volume.hu[z][box]))
    mm_down, mm_across = geometry.pixel_spacing_mm[::-1] if turned.transpose else geometry.pixel_spacing_mm
    px_per_mm = size_px / max(grey.shape[0] * mm_down, grey.shape[1] * mm_across)
    size = (max(1, round(grey.shape[1] * mm_across * px_per_mm)), max(1, round(grey.shape[0] * mm_down * px_per_mm)))
    picture = Image.fromarray(np.ascontiguousarray(grey)).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    numbered: list[tuple[int, npt.NDArray[np.bool_]]] = []
    for lesion in lesions:
        seen = lesion.region.on_slice(z)[box]
        if seen.any():
            mask = Image.fromarray(np.ascontiguousarray(turned.turn(seen)).astype(np.uint8) * 255)
            numbered.append((lesion.number, np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 0))
    picture = _with_contours(picture, [mask for _, mask in numbered])
    return _labelled(picture, turned, px_per_mm, _caption(geometry, z), numbered)


def head_box(volume: Volume) -> tuple[slice, slice]:
    """(y, x) of the skull with some room around it, the same on every slice; all of the picture without a skull."""
    bone = np.asarray((volume.hu > BONE_HU).any(axis=0))
    if not bone.any():
        return slice(None), slice(None)
    edges = []
    for lines, spacing_mm in zip((bone, bone.T), volume.geometry.pixel_spacing_mm, strict=True):
        found, room = np.flatnonzero(lines.any(axis=1)), int(np.ceil(ROOM_MM / spacing_mm))
        edges.append(slice(max(0, int(found[0]) - room), int(found[-1]) + 1 + room))
    return edges[0], edges[1]


def _windowed(hu_yx: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    lowest = WINDOW_CENTRE_HU - WINDOW_WIDTH_HU / 2
    return np.asarray(np.clip((hu_yx - lowest) / WINDOW_WIDTH_HU * 255, 0, 255).round(), dtype=np.uint8)


def _with_contours(picture: Image.Image, masks: Sequence[npt.NDArray[np.bool_]]) -> Image.Image:
    """Lines just outside each region, so that the blood itself stays visible."""
    pixels = np.array(picture)
    for mask in masks:
        pixels[ndimage.binary_dilation(mask, iterations=2) & ~mask] = _CONTOUR
    return Image.fromarray(pixels)


def _caption(geometry: Geometry, z: int) -> str:
    height_mm = geometry.offsets_mm[z] - geometry.offsets_mm[0]
    return f"slice {z + 1} of {len(geometry.sop_instance_uids)}   {height_mm:.1f} mm"


def _labelled(
    picture: Image.Image,
    turned: Hanging,
    px_per_mm: float,
    caption: str,
    numbered: Sequence[tuple[int, npt.NDArray[np.bool_]]],
) -> Image.Image:
    width, height = picture.size
    size_px = max(width, height)
    panel = Image.new("RGB", (size_px + 8, size_px + _CAPTION_PX + 8), _GROUND)
    left, top = (panel.width - width) // 2, 4
    panel.paste(picture, (left, top))
    draw = ImageDraw.Draw(panel)
    middle_x, middle_y = panel.width // 2, size_px // 2
    edges = (
        (8, middle_y, _OPPOSITE[turned.right], "lm"),
        (panel.width - 8, middle_y, turned.right, "rm"),
        (middle_x, 20, _OPPOSITE[turned.bottom], "mt"),
        (middle_x, top + max(height, 60) - 4, turned.bottom, "mb"),
    )
    for x, y, letter, anchor in edges:
        draw.text((x, y), letter, fill=_TEXT, font=font(18), anchor=anchor, stroke_width=2, stroke_fill=_GROUND)
    draw.text((middle_x, 4), RESEARCH_NOTICE, fill=_BANNER, font=font(12), anchor="mt")
    for number, mask in numbered:
        y, x = (int(edge) for edge in (np.flatnonzero(mask.any(axis=1))[0], np.flatnonzero(mask.any(axis=0))[-1]))
        draw.text((left + x + 6, top + y), str(number), _CONTOUR, font(16), stroke_width=2, stroke_fill=_GROUND)
    bar = round(SCALE_MM * px_per_mm)
    y = panel.height - _CAPTION_PX // 2
    draw.text((8, y), caption, fill=_TEXT, font=font(13), anchor="lm")
    draw.text((panel.width - 14 - bar, y), "5 cm", fill=_TEXT, font=font(13), anchor="rm")
    draw.line((panel.width - 8 - bar, y, panel.width - 8, y), fill=_TEXT, width=3)
    return panel


def _letter(direction_lps: FloatArray) -> str:
    axis = int(np.argmax(np.abs(direction_lps)))
    return ("LPH" if direction_lps[axis] > 0 else "RAF")[axis]


def fitting_font(text: str, width_px: int, *, largest: int) -> Font:
    """That in which a line is no wider than there is room for, `largest` or smaller: a cut number is a wrong one."""
    wide = font(largest).getlength(text)
    return font(largest if wide <= width_px else max(1, int(largest * width_px / wide)))


def font(size: int) -> Font:
    """The font that Pillow carries: the same picture on every machine."""
    return ImageFont.load_default(size)
