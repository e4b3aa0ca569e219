"""A PACS stand-in for the demo: takes what is stored and keeps it in a folder, overwriting by SOP Instance UID."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pynetdicom import AE, evt
from pynetdicom.sop_class import Comprehensive3DSRStorage, SegmentationStorage, Verification  # type: ignore[attr-defined]


class PacsStandIn:
    """`with PacsStandIn(folder) as pacs:` listens on a free loopback port, `pacs.port`."""

    ae_title = "PACS"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0

    def __enter__(self) -> Self:
        """Start listening."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ae = AE(ae_title=self.ae_title)
        for sop_class in (Verification, SegmentationStorage, Comprehensive3DSRStorage):
            ae.add_supported_context(sop_class)
        handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, self._store)]
        server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self._server = server
        self.port = int(server.socket.getsockname()[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self._server.shutdown()

    def received(self) -> list[Path]:
        """The files that were stored."""
        return sorted(self.folder.glob("*.dcm"))

    def _store(self, event: evt.Event) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        ds.save_as(self.folder / f"{ds.SOPInstanceUID}.dcm", enforce_file_format=True)
        return 0x0000
