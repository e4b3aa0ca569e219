"""The source series as the results need it: one header per slice, in the order of the volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom import Dataset, dcmread

from worker.results.errors import ResultInvalid
from worker.results.uids import frame_of_reference_uid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ml.volume import Geometry


@dataclass(frozen=True, eq=False)
class SourceExam:
    """Invariant: `headers[z]` is the instance `geometry.sop_instance_uids[z]`, all of one study and series."""

    headers: tuple[Dataset, ...]
    """(z,) without pixel data."""
    geometry: Geometry

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID of every slice."""
        return str(self.headers[0].StudyInstanceUID)

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID of every slice."""
        return str(self.headers[0].SeriesInstanceUID)

    @property
    def frame_of_reference_uid(self) -> str:
        """The source's own, or one derived from the series where the source has none."""
        own = self.geometry.frame_of_reference_uid or self.headers[0].get("FrameOfReferenceUID")
        return str(own) if own else frame_of_reference_uid(self.series_instance_uid)


def read_source(paths: Iterable[Path], geometry: Geometry) -> SourceExam:
    """Reads the headers of the volume's slices; files of other instances among `paths` are left out.

    Raises ResultInvalid when a slice of the volume has no file, or when the slices are not of one series.
    """
    headers: dict[str, Dataset] = {}
    for path in paths:
        header = dcmread(path, stop_before_pixels=True)
        headers.setdefault(str(header.SOPInstanceUID), header)
    missing = [uid for uid in geometry.sop_instance_uids if uid not in headers]
    if missing:
        raise ResultInvalid("SOURCE_INCOMPLETE", f"{len(missing)} slices have no file, first {missing[0]}")
    return order_source(headers, geometry)


def order_source(headers: Mapping[str, Dataset], geometry: Geometry) -> SourceExam:
    """Headers by SOP Instance UID, put in volume order."""
    source = SourceExam(tuple(headers[uid] for uid in geometry.sop_instance_uids), geometry)
    series = {(header.get("StudyInstanceUID"), header.get("SeriesInstanceUID")) for header in source.headers}
    if len(series) != 1 or not all(next(iter(series))):
        raise ResultInvalid("SOURCE_MIXED", f"the slices belong to {len(series)} series or name none")
    return source
