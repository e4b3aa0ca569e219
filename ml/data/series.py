"""A DICOM series to a Volume: order, geometry and HU as acquired, or a refusal that says why.

Slices are ordered by position along their normal, never by Instance Number. Nothing is resampled.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ml.data.headers import SliceHeader, read_headers, read_intact_headers
from ml.data.pixels import UndecodablePixelsError, decode_hu, surroundings_as_air
from ml.data.plausibility import check_head
from ml.data.refusals import refusal
from ml.data.spacing import check_no_gap
from ml.volume import FloatArray, Geometry, HuArray, Volume

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
    headers = _in_order(read_headers(paths))
    geometry = _geometry(headers)
    check_no_gap(geometry.offsets_mm, [header.thickness_mm for header in headers])
    hu, faults = _decode(headers)
    if faults:
        why = str(next(iter(faults.values())))
        raise refusal("PIXELS_UNDECODABLE", count=len(faults), total=len(headers), why=why)
    return head_volume(hu, geometry)


def read_intact(paths: Sequence[Path]) -> tuple[Volume, dict[Path, str]]:
    """The volume of the files that can be read, and why each of the others cannot.

    For training on data sets, where one truncated file is no reason to lose an exam: the gap that it leaves stays in
    the geometry, and so do gaps that the data set came with. Raises UnreadableStudy as `read_volume` does.
    """
    found, unread = read_intact_headers(paths)
    faults = {path: f"{error.code}: {error}" for path, error in unread.items()}
    headers = _in_order(found)
    hu, undecodable = _decode(headers)
    if undecodable:
        faults |= {headers[z].path: f"PIXELS_UNDECODABLE: {error}" for z, error in undecodable.items()}
        kept = [z for z in range(len(headers)) if z not in undecodable]
        if len(kept) < LEAST_SLICES:
            why = str(next(iter(undecodable.values())))
            raise refusal("PIXELS_UNDECODABLE", count=len(undecodable), total=len(headers), why=why)
        hu, headers = hu[kept], [headers[z] for z in kept]
    return head_volume(hu, _geometry(headers)), faults


def head_volume(hu: HuArray, geometry: Geometry) -> Volume:
    """The volume, if it looks like a head; only then is what surrounds that air: it does not vouch for the HU."""
    check_head(Volume(hu, geometry))
    return Volume(surroundings_as_air(hu), geometry)


def _in_order(headers: Sequence[SliceHeader]) -> list[SliceHeader]:
    """One header per position along the normal, each with its own UID, of an axial stack of enough slices."""
    ordered = sorted(headers, key=_order)
    check_axial(ordered[0].normal_lps)
    ordered = _without_duplicates(ordered)
    shared = len(ordered) - len({header.sop_instance_uid for header in ordered})
    if shared:
        raise refusal("DUPLICATE_UIDS", count=shared, total=len(ordered))
    if len(ordered) < LEAST_SLICES:
        raise refusal("TOO_FEW_SLICES", count=len(ordered), least=LEAST_SLICES)
    return ordered


def _order(header: SliceHeader) -> tuple[float, str]:
    return float(header.position_lps @ header.normal_lps), header.sop_instance_uid


def check_axial(normal_lps: FloatArray) -> None:
    """Raises UnreadableStudy for slices with this normal (3,) where it is too far off the body axis."""
    degrees = float(np.degrees(np.arccos(min(1.0, abs(normal_lps[2])))))
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
    if different and len(kept) == 1:
        raise refusal("POSITION_MISSING", count=len(headers), total=len(headers))
    if different:
        raise refusal("MIXED_ACQUISITIONS", count=different)
    if shifted:
        raise refusal("DUPLICATE_POSITIONS", count=shifted)
    return kept


def _same_image(one: SliceHeader, other: SliceHeader) -> bool:
    hu, faults = _decode([one, other])
    if faults:
        raise refusal("PIXELS_UNDECODABLE", count=len(faults), total=2, why=str(next(iter(faults.values()))))
    return bool(np.array_equal(hu[0], hu[1]))


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


def _decode(headers: Sequence[SliceHeader]) -> tuple[HuArray, dict[int, UndecodablePixelsError]]:
    """(z, y, x) HU, and the slices that have none. Decoders release the interpreter lock, so threads share the work."""
    hu = np.empty((len(headers), *headers[0].shape), dtype=np.float32)
    faults: dict[int, UndecodablePixelsError] = {}

    def decode(index: int) -> None:
        try:
            hu[index] = decode_hu(headers[index].path)
        except UndecodablePixelsError as error:
            faults[index] = error

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads:
        list(threads.map(decode, range(len(headers))))
    return hu, dict(sorted(faults.items()))
