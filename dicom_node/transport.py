"""What every way of sending has in common: files go out, each gets one answer, judged once.

sent       the destination has it
later      time can heal it
never      trying again changes nothing until somebody acts; where it was about the form, another form may be taken
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydicom.errors import InvalidDicomError

from dicom_node.config_peers import DestinationConfig
from dicom_node.config_sections import NodeConfig
from dicom_node.errors import DestinationRefused
from dicom_node.part10 import read_file


@dataclass(frozen=True)
class Outgoing:
    """A file to send; `key` is handed back with the answer."""

    key: int
    path: Path
    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Answer:
    """What came of sending one file."""

    key: int
    sent: bool
    retryable: bool
    status: str | None
    """What the destination answered ("0x0000", "HTTP 503"), or None when it did not."""
    error: str = ""
    form_refused: bool = False
    """It was refused for how it is written: the destination may take another form of it."""
    wait_s: float | None = None
    """How long the destination asks to be left alone, seconds."""


class Transport(Protocol):
    """A way to a destination; modules implement it."""

    def send(
        self,
        destination: DestinationConfig,
        node: NodeConfig,
        files: Sequence[Outgoing],
        on_answer: Callable[[Answer], None],
        *,
        wanted: Callable[[int], bool] = ...,
    ) -> None:
        """Send files in order; every file that is still `wanted` when its turn comes gets one answer, at once.

        Raises DestinationUnavailable or DestinationRefused when the destination cannot be had at all; then nothing
        was sent beyond what was already answered.
        """

    def echo(self, destination: DestinationConfig, node: NodeConfig) -> str:
        """What the destination answers to a harmless question, as text; the success of each way starts with its own.

        Raises DestinationUnavailable or DestinationRefused when it does not answer with success.
        """


def outgoing(key: int, path: Path) -> Outgoing:
    """Read what must be negotiated for a DICOM file. Raises DestinationRefused when it is none."""
    try:
        ds = read_file(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        sop_class_uid = ds.file_meta.get("MediaStorageSOPClassUID") or ds.SOPClassUID
        return Outgoing(key, path, str(sop_class_uid), str(ds.file_meta.TransferSyntaxUID))
    except (InvalidDicomError, AttributeError, EOFError, ValueError) as error:
        raise DestinationRefused(f"{path.name} is not a DICOM file that says its class") from error


def always(_key: int) -> bool:
    """Nothing is withdrawn on the way."""
    return True


def later(key: int, status: str | None, error: str, *, wait_s: float | None = None) -> Answer:
    """Not sent; time can heal it."""
    return Answer(key, sent=False, retryable=True, status=status, error=error, wait_s=wait_s)


def never(key: int, status: str | None, error: str, *, form_refused: bool = False) -> Answer:
    """Not sent; the same again would be refused again."""
    return Answer(key, sent=False, retryable=False, status=status, error=error, form_refused=form_refused)
