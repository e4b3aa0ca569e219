"""What a reader sees of the report, and whether it is true: dcmsend -> node with profile `viewer` -> Orthanc.

OHIF draws each lesion's outline on its key slice. dcmqi reads the measures of each lesion out of the report; they are
compared with what is counted here from the label map that OHIF overlays and from the pixels of the files, and with
where the simulator put the bleeds. Reports with one measure wrong show that the comparison sees each of them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from scipy.spatial.distance import cdist

from ml.phantom import simulate
from tests.e2e.node import Node
from tests.peers import Chromium, Ohif, Orthanc, dcmsend
from tests.peers.dcmqi import read_report, values
from tests.viewer.cases import LEFT_CLOT, RIGHT_LAYER, head, write_study
from tests.viewer.session import Reader
from worker.results.report_tree import concept, walk

if TYPE_CHECKING:
    import numpy.typing as npt

    from ml.volume import MaskArray
    from tests.viewer.cases import Study

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.peer("dcmtk", "orthanc", "chromium", "ohif", "dcmqi"),
]
VOLUME, ELLIPSOID, LONG_AXIS, ATTENUATION = "Volume", "Volume of ellipsoid", "Long axis", "Attenuation Coefficient"
LARGE_ML = 5.0
"""Lesions from here on are the simulated bleeds; each of those has 40 mL or more."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One study after the node has answered."""

    study: Study
    job: dict[str, Any]
    """As `dicom-node show` tells it."""
    report: Dataset
    names: dict[int, str]
    """Segment number -> label, as OHIF lists them."""
    lesions: dict[int, MaskArray]
    """Segment number -> (z, y, x), as OHIF overlays it."""
    lines: list[dict[str, str]]
    """As OHIF draws them."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The whole way, once."""
    folder = tmp_path_factory.mktemp("report")
    study = write_study(simulate(head(), matrix=128), folder / "study")
    with Orthanc() as pacs:
        dcmsend(study.files, pacs.dicom_port)
        with Node(
            folder / "node",
            destinations={"pacs": (pacs.ae_title, pacs.dicom_port)},
            of_each_destination={"profile": "viewer"},
        ) as node:
            dcmsend(study.files, node.port, called=node.ae_title)
            job = node.wait_for_end(study.uid, timeout_s=300)["jobs"][-1]
        assert job["state"] == "SUCCEEDED", job
        (seg,) = pacs.fetch(study.uid, modality="SEG")
        (report,) = pacs.fetch(study.uid, modality="SR")
        with Ohif(pacs.url) as viewer, Chromium() as browser:
            reader = Reader(browser, viewer)
            reader.open_study(study.uid)
            overlay = reader.open_segmentation(seg, slices=len(study.files))
            reader.open_study(study.uid)
            lines = reader.open_report(report, slices=len(study.files))
    labels = np.stack([overlay.labels[uid] for uid in study.volume.geometry.sop_instance_uids])
    lesions = {number: labels == number for number in overlay.names}
    return Seen(study, job, report, overlay.names, lesions, lines)


def test_an_outline_is_drawn_on_the_largest_slice_of_each_lesion(seen: Seen) -> None:
    """No line on any other slice, and its measures in words."""
    uids = seen.study.volume.geometry.sop_instance_uids
    largest = {uids[int(lesion.sum(axis=(1, 2)).argmax())] for lesion in seen.lesions.values()}
    assert {line["image"] for line in seen.lines} == largest
    assert any("mm" in line["text"] for line in seen.lines), seen.lines


def test_the_measures_of_the_report_are_those_of_the_overlaid_lesions(seen: Seen) -> None:
    """Volume, ABC/2, longest diameter, attenuation and side of every lesion; both simulated bleeds are among them."""
    assert wrong_measures(seen.report, seen) == set()
    large = [lesion for lesion in seen.lesions.values() if volume_ml(lesion, seen.study) > LARGE_ML]
    assert {true_side(lesion, seen.study) for lesion in large} == {"left", "right"}


def change_side(group: Dataset) -> None:
    """Left for right."""
    for item in walk(group):
        if concept(item) == "272741003":
            left = item.ConceptCodeSequence[0].CodeValue == codes.SCT.Left.value
            other = codes.SCT.Right if left else codes.SCT.Left
            item.ConceptCodeSequence[0].CodeValue = other.value
            item.ConceptCodeSequence[0].CodeMeaning = other.meaning


def enlarge(meaning: str, factor: float) -> Any:
    """Multiplies one measure of a group."""

    def change(group: Dataset) -> None:
        for item in walk(group):
            if item.get("ValueType") == "NUM" and item.ConceptNameCodeSequence[0].CodeMeaning == meaning:
                measured = item.MeasuredValueSequence[0]
                measured.NumericValue = f"{float(measured.NumericValue) * factor:.3f}"

    return change


@pytest.mark.parametrize(
    ("measure", "change"),
    [
        ("side", change_side),
        (VOLUME, enlarge(VOLUME, 1.051)),  # the table's step instead of the slice's height, at 18 degrees
        (ELLIPSOID, enlarge(ELLIPSOID, 2.0)),  # A x B x C
        (LONG_AXIS, enlarge(LONG_AXIS, 0.5)),  # a radius
        (ATTENUATION, enlarge(ATTENUATION, 1.1)),
    ],
    ids=["left for right", "table step for slice height", "ABC for ABC/2", "radius for diameter", "other voxels"],
)
def test_a_report_with_a_wrong_measure_is_seen(seen: Seen, measure: str, change: Any) -> None:
    """Negative controls: each is a conformant report, and only the comparison knows that it is wrong."""
    report = copy.deepcopy(seen.report)
    change(next(item for item in walk(report) if is_lesion(item)))
    assert wrong_measures(report, seen) == {measure}


def test_the_list_of_segments_and_the_cli_tell_the_same(seen: Seen) -> None:
    """Side and volume in OHIF's list of segments; all measures and the key slices in `dicom-node show`."""
    rows = seen.job["summary"]["lesions"]
    assert [row["number"] for row in rows] == sorted(seen.lesions)
    told = {group["ReferencedSegment"]: group for group in lesion_groups(seen.report)}
    uids = seen.study.volume.geometry.sop_instance_uids
    for row in rows:
        number = row["number"]
        measures = values(told[number])
        assert seen.names[number] == f"Hemorrhage {number}, {row['side']}, {row['volume_ml']:.1f} mL"
        assert row["side"] == reported_side(told[number])
        assert row["volume_ml"] == pytest.approx(measures[VOLUME], abs=0.001)
        assert row["abc2_ml"] == pytest.approx(measures[ELLIPSOID], abs=0.001)
        assert row["longest_axial_diameter_mm"] == pytest.approx(measures[LONG_AXIS], abs=0.1)
        assert row["mean_hu"] == pytest.approx(measures[ATTENUATION], abs=0.1)
        areas = seen.lesions[number].sum(axis=(1, 2))
        shown = [int(areas[uids.index(uid)]) for uid in row["key_sop_instance_uids"]]
        assert shown == sorted(areas[areas > 0], reverse=True)[: len(shown)]


def wrong_measures(report: Dataset, seen: Seen) -> set[str]:
    """Which measures of some lesion are not those that are counted from the overlay and the files."""
    groups = {group["ReferencedSegment"]: group for group in lesion_groups(report)}
    assert groups.keys() == seen.lesions.keys()
    wrong = set()
    for number, lesion in seen.lesions.items():
        told, (a_mm, b_mm, c_mm) = values(groups[number]), kothari_mm(lesion, seen.study)
        pixel_mm = max(seen.study.volume.geometry.pixel_spacing_mm)
        counted = {
            VOLUME: (volume_ml(lesion, seen.study), 0.001),
            ELLIPSOID: (a_mm * b_mm * c_mm / 2000, (a_mm + b_mm) * pixel_mm * c_mm / 2000),
            LONG_AXIS: (longest_mm(lesion, seen.study), pixel_mm),
            ATTENUATION: (mean_hu(lesion, seen.study), 0.1),
        }
        wrong |= {name for name, (value, within) in counted.items() if abs(told[name] - value) > within}
        if volume_ml(lesion, seen.study) > LARGE_ML and reported_side(groups[number]) != true_side(lesion, seen.study):
            wrong.add("side")
    return wrong


def is_lesion(item: Dataset) -> bool:
    """A measurement group that refers to a segment."""
    return any(concept(child) == "121191" for child in item.get("ContentSequence") or [])


def lesion_groups(report: Dataset) -> list[dict[str, Any]]:
    """As dcmqi reads them."""
    return [group for group in read_report(report) if "ReferencedSegment" in group]


def reported_side(group: dict[str, Any]) -> str:
    """No laterality is told of a lesion in the middle."""
    return str(group["Laterality"]["CodeMeaning"]).lower() if "Laterality" in group else "midline"


def true_side(lesion: MaskArray, study: Study) -> str:
    """Of the simulated bleed that is nearest: its place in the head is known (LPS, so left is where x grows)."""
    geometry = study.volume.geometry
    z, y, x = (index.mean() for index in np.nonzero(lesion))
    spacing_y, spacing_x = geometry.pixel_spacing_mm
    place = geometry.positions_lps[round(z)] + x * spacing_x * geometry.row_lps + y * spacing_y * geometry.column_lps
    left, right = (np.linalg.norm(place - np.array(bleed.centre)) for bleed in (LEFT_CLOT, RIGHT_LAYER))
    return "left" if left < right else "right"


def volume_ml(lesion: MaskArray, study: Study) -> float:
    """Voxels of an untilted stack of even steps."""
    positions = np.array([dcmread(path, stop_before_pixels=True).ImagePositionPatient[2] for path in study.files])
    return float(lesion.sum() * np.diff(positions).mean() * np.prod(study.volume.geometry.pixel_spacing_mm) / 1000)


def mean_hu(lesion: MaskArray, study: Study) -> float:
    """From the stored values of the files."""
    inside = []
    for path, mask in zip(study.files, lesion, strict=True):
        ds = dcmread(path)
        inside.append(ds.pixel_array[mask] * float(ds.RescaleSlope) + float(ds.RescaleIntercept))
    return float(np.concatenate(inside).mean())


def kothari_mm(lesion: MaskArray, study: Study) -> tuple[float, float, float]:
    """A, B and C of Kothari et al. 1996; A and B from corner to corner, up to a pixel more than from edge to edge."""
    areas = lesion.sum(axis=(1, 2))
    corners = corners_mm(lesion[int(areas.argmax())], study)
    between = cdist(corners, corners)
    one, other = np.unravel_index(between.argmax(), between.shape)
    along = (corners[other] - corners[one]) / between.max()
    across = corners @ np.array([-along[1], along[0]])
    share = areas / areas.max()
    slices = np.count_nonzero(share > 0.75) + 0.5 * np.count_nonzero((share >= 0.25) & (share <= 0.75))
    step_mm = float(np.diff(study.volume.geometry.positions_lps[:, 2]).mean())
    return float(between.max()), float(np.ptp(across)), float(slices * step_mm)


def longest_mm(lesion: MaskArray, study: Study) -> float:
    """From corner to corner within one slice."""
    corners = [corners_mm(one, study) for one in lesion if one.any()]
    return float(max(cdist(one, one).max() for one in corners))


def corners_mm(mask_yx: npt.NDArray[np.bool_], study: Study) -> npt.NDArray[np.float64]:
    """(n, 2) as (y, x)."""
    pixels = np.argwhere(mask_yx)
    corners = (pixels[:, None] + np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])).reshape(-1, 2)
    return np.unique(corners, axis=0) * study.volume.geometry.pixel_spacing_mm
