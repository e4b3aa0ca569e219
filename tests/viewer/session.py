"""A reader at OHIF: opens a study and a SEG in it as a person does, and reads back what is overlaid on which slice."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from pydicom import Dataset

    from tests.peers import Chromium, Ohif

PAGE_SCRIPT = (Path(__file__).parent / "page.js").read_text()


@dataclass(frozen=True, eq=False)
class Overlay:
    """What the viewer holds of one SEG."""

    labels: dict[str, npt.NDArray[np.uint8]]
    """SOP Instance UID of a slice -> (y, x) segment number, 0 outside. Slices without any label are there too."""
    names: dict[int, str]
    """Segment number -> the label that the viewer lists."""


class Reader:
    """One browser page at one viewer."""

    def __init__(self, browser: Chromium, viewer: Ohif) -> None:
        """Both are running."""
        self._browser, self._viewer = browser, viewer

    def open_study(self, study_instance_uid: str) -> None:
        """Loads the viewer anew with this study."""
        self._browser.open(f"{self._viewer.url}/viewer?StudyInstanceUIDs={study_instance_uid}", before=PAGE_SCRIPT)

    def open_segmentation(self, seg: Dataset, *, slices: int) -> Overlay:
        """Double click on its row, "Yes" to the question whether to open it; `slices`: images of the study."""
        uid, browser = json.dumps(str(seg.SOPInstanceUID)), self._browser
        browser.click(browser.wait(f"asked.row({uid}, {slices})", what="the SEG is listed"), times=2)
        browser.click(browser.wait("asked.button('Yes')", what="OHIF asks whether to open the SEG"))
        browser.wait(f"asked.segmentation({uid}) !== null", what="the SEG is overlaid")
        found = browser.evaluate(f"asked.overlay({uid})")
        labels = {
            one["uid"]: np.frombuffer(base64.b64decode(one["labels"]), np.uint8).reshape(one["rows"], one["columns"])
            for one in found["slices"]
        }
        assert len(labels) == len(found["slices"])
        return Overlay(labels, {int(number): name for number, name in found["names"]})

    def open_report(self, report: Dataset, *, slices: int) -> list[dict[str, str]]:
        """Double click on its row; gives the lines that the viewer draws: "image" (SOP Instance UID) and "text"."""
        uid, browser = json.dumps(str(report.SOPInstanceUID)), self._browser
        browser.click(browser.wait(f"asked.row({uid}, {slices})", what="the report is listed"), times=2)
        lines: list[dict[str, str]] = browser.wait(f"asked.lines({uid})", what="the report's lines are drawn")
        return lines

    def open_image(self, image: Dataset, *, slices: int) -> None:
        """Double click on the picture of its series."""
        uid, browser = json.dumps(str(image.SOPInstanceUID)), self._browser
        browser.click(browser.wait(f"asked.row({uid}, {slices})", what="the series is listed"), times=2)
        browser.wait(f"asked.image() === {uid}", what="the image is drawn")

    def open_panel(self, name: str, *, shows: str) -> None:
        """Opens a panel on the right by its button, and waits until it shows a text."""
        selector = json.dumps(f"[data-cy={name}]")
        self._browser.click(
            self._browser.wait(f"asked.centre(document.querySelector({selector}))", what="the button is there")
        )
        self._browser.wait(f"document.body.innerText.includes({json.dumps(shows)})", what="the panel is open")

    def take_picture(self, path: Path, *, sop_instance_uid: str) -> Path:
        """The page with this slice."""
        self._browser.wait(f"asked.show({json.dumps(sop_instance_uid)})", what="the slice is drawn")
        return self._browser.screenshot(path)
