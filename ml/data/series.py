"""A DICOM series to a Volume: order, geometry and HU as acquired, or a refusal that says why.

Slices are ordered by position along their normal, never by Instance Number. Nothing is resampled.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ml.data.headers import SliceHeader, read_headers
from ml.data.pixels import UndecodablePixelsError, decode_hu
from ml.data.plausibility import check_head
from ml.data.refusals import refusal
from ml.data.spacing import check_no_gap
from ml.volume import Geometry, HuArray, Volume

LEAST_SLICES = 4
SAME_POSITION_MM = 0.01
"""Below any slice spacing of CT and above the rounding of DS."""
LARGEST_AXIAL_TILT_DEGREES = 50.0
"""Gantries tilt to 30 degrees; coronal and sagittal reformats are 90 off."""


def read_volume(paths: Sequence[Path]) -> Volume:
    """The volume of one series of single-frame CT images; raises UnreadableStudy with a code of `refusals`.

    Identical images at one position are one slice (the lowest SOP Instance UID stays). Memory: the float32
    volume and a few slices.
    """
    headers = sorted(read_headers(paths), key=_order)
    _check_axial(headers[0])
    headers = _without_duplicates(headers)
    if len(headers) < LEAST_SLICES:
        raise refusal("TOO_FEW_SLICES", count=len(headers), least=LEAST_SLICES)
    geometry = _geometry(headers)
    check_no_gap(geometry.offsets_mm, [header.thickness_mm for header in headers])
    volume = Volume(_decode(headers), geometry)
    check_head(volume)
    return volume


def _order(header: SliceHeader) -> tuple[float, str]:
    return float(header.position_lps @ header.normal_lps), header.sop_instance_uid


def _check_axial(header: SliceHeader) -> None:
    degrees = float(np.degrees(np.arccos(min(1.0, abs(header.normal_lps[2])))))
    if degrees > LARGEST_AXIAL_TILT_DEGREES:
        raise refusal("NOT_AXIAL", degrees=degrees)


def _without_duplicates(headers: Sequence[SliceHeader]) -> list[SliceHeader]:
    """One header per position; the input is sorted, so the lowest SOP Instance UID of a position is kept."""
    kept: list[SliceHeader] = []
    different = shifted = 0
    for header in headers:
        if not kept or abs(_order(header)[0] - _order(kept[-1])[0]) > SAME_POSITION_MM:
            kept.append(header)
        elif np.linalg.norm(header.position_lps - kept[-1].position_lps) > SAME_POSITION_MM:
            shifted += 1
        elif not _same_image(header, kept[-1]):
            different += 1
    if different:
        raise refusal("MIXED_ACQUISITIONS", count=different)
    if shifted:
        raise refusal("DUPLICATE_POSITIONS", count=shifted)
    return kept


def _same_image(one: SliceHeader, other: SliceHeader) -> bool:
    return bool(np.array_equal(*_decode([one, other])))


def _geometry(headers: Sequence[SliceHeader]) -> Geometry:
    frames = sorted({header.frame_of_reference_uid for header in headers if header.frame_of_reference_uid})
    return Geometry(
        positions_lps=np.stack([header.position_lps for header in headers]),
        row_lps=headers[0].row_lps,
        column_lps=headers[0].column_lps,
        pixel_spacing_mm=headers[0].pixel_spacing_mm,
        sop_instance_uids=tuple(header.sop_instance_uid for header in headers),
        frame_of_reference_uid=frames[0] if frames else None,
    )


def _decode(headers: Sequence[SliceHeader]) -> HuArray:
    """(z, y, x) HU. Decoders release the interpreter lock, so threads share the work."""
    hu = np.empty((len(headers), *headers[0].shape), dtype=np.float32)

    def decode(index: int) -> str | None:
        try:
            hu[index] = decode_hu(headers[index].path)
        except UndecodablePixelsError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads:
        faults = [fault for fault in threads.map(decode, range(len(headers))) if fault is not None]
    if faults:
        raise refusal("PIXELS_UNDECODABLE", count=len(faults), total=len(headers), why=faults[0])
    return hu
