"""Reading a SEG back: masks by source SOP Instance UID, whatever the order of frames or of the volume.

Written against the standard alone (PS3.3 A.51, C.8.20) and not through highdicom, so that it can check
what highdicom wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worker.results.errors import ResultInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from pydicom import Dataset

BACKGROUND = 0
"""The segment of a LABELMAP that stands for "nothing"; the other types have none."""


def read_mask(seg: Dataset) -> dict[str, npt.NDArray[np.bool_]]:
    """SOP Instance UID of a source slice -> (y, x) bool, all segments together. Slices without a frame are absent."""
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for frames in read_segments(seg).values():
        for uid, mask in frames.items():
            masks[uid] = masks[uid] | mask if uid in masks else mask
    return masks


def read_segments(seg: Dataset) -> dict[int, dict[str, npt.NDArray[np.bool_]]]:
    """Segment number -> SOP Instance UID -> (y, x) bool; every segment of the object is there, if without frames.

    In a FRACTIONAL object every value above 0 belongs to the segment. Raises ResultInvalid for frames that do not name
    one slice and (but for LABELMAP) one segment each.
    """
    numbers = [int(one.SegmentNumber) for one in seg.SegmentSequence if int(one.SegmentNumber) != BACKGROUND]
    segments: dict[int, dict[str, npt.NDArray[np.bool_]]] = {number: {} for number in numbers}
    for (number, uid), frame in zip(frame_sources(seg), read_frames(seg), strict=True):
        held = numbers if number is None else [number]
        if any(one not in segments or uid in segments[one] for one in held):
            raise ResultInvalid("SEG_FRAMES", f"segment {number} is not described or has two frames on {uid}")
        for one in held:
            segments[one][uid] = frame == one if number is None else frame > 0
    return segments


def frame_sources(seg: Dataset) -> Iterator[tuple[int | None, str]]:
    """(segment number, source SOP Instance UID) of each frame, in order; a frame of a LABELMAP holds all segments."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        sources = [s for d in frame.get("DerivationImageSequence", []) for s in d.get("SourceImageSequence", [])]
        if len(sources) != 1:
            raise ResultInvalid("SEG_FRAMES", f"a frame names {len(sources)} source slices, it must name one")
        yield _segment_number(seg, frame, shared), str(sources[0].ReferencedSOPInstanceUID)


def _segment_number(seg: Dataset, frame: Dataset, shared: Dataset) -> int | None:
    if seg.SegmentationType == "LABELMAP":
        return None
    # With one segment highdicom names it once, for all frames (PS3.3 C.7.6.16 allows either place).
    place = frame if "SegmentIdentificationSequence" in frame else shared
    if "SegmentIdentificationSequence" not in place:
        raise ResultInvalid("SEG_FRAMES", "a frame names no segment")
    return int(place.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def read_frames(seg: Dataset) -> npt.NDArray[np.unsignedinteger]:
    """(frame, y, x) as stored: 0 and 1, steps of probability, or segment numbers."""
    shape = (int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns))
    if seg.file_meta.TransferSyntaxUID.is_compressed:
        return np.asarray(seg.pixel_array).reshape(shape)
    count = shape[0] * shape[1] * shape[2]
    if len(seg.PixelData) * 8 < count * seg.BitsAllocated:
        raise ResultInvalid("SEG_PIXELS", "the pixel data is shorter than the number of frames asks for")
    if seg.BitsAllocated == 1:  # single bits, lowest first, without padding between frames (PS3.5 8.1.1)
        return np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), count=count, bitorder="little").reshape(shape)
    return np.frombuffer(seg.PixelData, f"<u{seg.BitsAllocated // 8}", count=count).reshape(shape)
