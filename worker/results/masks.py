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


def read_mask(seg: Dataset) -> dict[str, npt.NDArray[np.bool_]]:
    """SOP Instance UID of a source slice -> (y, x) bool, all segments together. Slices without a frame are absent."""
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for frames in read_segments(seg).values():
        for uid, mask in frames.items():
            masks[uid] = masks[uid] | mask if uid in masks else mask
    return masks


def read_segments(seg: Dataset) -> dict[int, dict[str, npt.NDArray[np.bool_]]]:
    """Segment number -> SOP Instance UID -> (y, x) bool; every segment of the object is there, if without frames.

    Raises ResultInvalid for an object that is not BINARY, or whose frames do not name one slice and one segment each.
    """
    if seg.get("SegmentationType") != "BINARY" or seg.BitsAllocated != 1:
        raise ResultInvalid("SEG_NOT_BINARY", "the segmentation is not of type BINARY")
    segments: dict[int, dict[str, npt.NDArray[np.bool_]]] = {int(s.SegmentNumber): {} for s in seg.SegmentSequence}
    for (number, uid), mask in zip(frame_sources(seg), _frames(seg), strict=True):
        if number not in segments or uid in segments[number]:
            raise ResultInvalid("SEG_FRAMES", f"segment {number} is not described or has two frames on {uid}")
        segments[number][uid] = mask
    return segments


def frame_sources(seg: Dataset) -> Iterator[tuple[int, str]]:
    """(segment number, source SOP Instance UID) of each frame, in order."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        # With one segment highdicom names it once, for all frames (PS3.3 C.7.6.16 allows either place).
        place = frame if "SegmentIdentificationSequence" in frame else shared
        sources = [s for d in frame.get("DerivationImageSequence", []) for s in d.get("SourceImageSequence", [])]
        if len(sources) != 1 or "SegmentIdentificationSequence" not in place:
            raise ResultInvalid("SEG_FRAMES", f"a frame names {len(sources)} source slices, it must name one")
        number = int(place.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        yield number, str(sources[0].ReferencedSOPInstanceUID)


def _frames(seg: Dataset) -> npt.NDArray[np.bool_]:
    """(frame, y, x): single bits, lowest first, without padding between frames (PS3.5 8.1.1)."""
    shape = (int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns))
    count = shape[0] * shape[1] * shape[2]
    if len(seg.PixelData) * 8 < count:
        raise ResultInvalid("SEG_PIXELS", "the pixel data is shorter than the number of frames asks for")
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), count=count, bitorder="little")
    return bits.reshape(shape).astype(np.bool_)
