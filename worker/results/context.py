"""What a result says beside the images: who made it, from what, when, and under which settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

from dicom_node.config_sections import ResultsConfig
from dicom_node.states import ResultKind

if TYPE_CHECKING:
    from ml.prediction import BundleIdentity

LONGEST_LO = 64
"""Characters of a LO value (PS3.5 section 6.2)."""
RESEARCH_NOTICE = "RESEARCH USE ONLY - not for diagnosis"


@dataclass(frozen=True)
class Equipment:
    """The node as DICOM equipment (PS3.3 C.7.5.1 and C.7.5.2); texts of 64 characters at most."""

    manufacturer: str = "dicom-node project"
    model_name: str = "dicom-node"
    serial_number: str = "1"
    """DeviceSerialNumber: which installation."""
    software_version: str = "0"
    institution_name: str | None = None
    """None: that of the source, where it names one."""


@dataclass(frozen=True)
class SeriesLabel:
    """Number and description of one result series."""

    number: int
    description: str

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError("series numbers start at 1")
        if len(self.description) > LONGEST_LO:
            raise ValueError(f"a series description has at most {LONGEST_LO} characters")


@dataclass(frozen=True)
class SeriesPlan:
    """How the series of each kind are numbered and described: the same for every study of a destination."""

    first_number: int
    """The lowest number of the band: kinds follow in their order (SEG, SR, ...), one number each."""
    words: ResultsConfig = field(default_factory=ResultsConfig)
    """Describes each kind."""

    def __post_init__(self) -> None:
        if self.first_number < 1:
            raise ValueError("series numbers start at 1")

    def label(self, kind: ResultKind) -> SeriesLabel:
        """Number and description of the series of a kind."""
        number = self.first_number + list(ResultKind).index(kind)
        return SeriesLabel(number, getattr(self.words, f"{kind.lower()}_series_description"))


@dataclass(frozen=True)
class OperatingPoints:
    """The thresholds behind the answer, as the bundle defines them."""

    exam: float
    voxel: float
    smallest_lesion_ml: float = 0.0

    def as_text(self) -> str:
        """One clause for people and for the algorithm's parameters."""
        return f"exam >= {self.exam:.3g}, voxel >= {self.voxel:.3g}, lesion >= {self.smallest_lesion_ml:.3g} mL"


@dataclass(frozen=True)
class ResultContext:
    """Everything that decides the bytes of a result, but for the images and the prediction.

    Equal digests give equal UIDs; an equal `created_at` on top gives equal bytes.
    """

    input_digest: str
    """Over the source files that were read (their SHA-256, in a fixed order)."""
    config_digest: str
    """Over the settings that change a result."""
    bundle: BundleIdentity
    created_at: datetime
    """Time of the analysis, aware; kept with the job so that a retry writes the same."""
    operating_points: OperatingPoints
    series: SeriesPlan
    equipment: Equipment = field(default_factory=Equipment)
    local_zone: tzinfo = UTC
    """Zone for dates and times where the source names none. A TimezoneOffsetFromUTC holds for every time of an
    object, the copied StudyTime too, so this should be the scanners' own zone."""
    finding: str = "intracranial_hemorrhage"
    """Name of the finding in codes.toml."""
    content_qualification: str = "RESEARCH"

    def __post_init__(self) -> None:
        if self.created_at.tzinfo is None:
            raise ValueError("created_at needs a time zone")

    @property
    def own_texts(self) -> tuple[str, ...]:
        """The texts that come from settings and may hold any character."""
        equipment = self.equipment
        return (
            equipment.manufacturer, equipment.model_name, equipment.serial_number, equipment.software_version,
            equipment.institution_name or "", *(self.series.label(kind).description for kind in ResultKind),
            self.bundle.name, self.bundle.version,
        )  # fmt: skip
