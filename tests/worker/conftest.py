"""Exams with known answers for the tests of result writing: headers, volume, prediction and lesions, made in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import ImageDraw
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.result_forms import Form, FormName
from ml.prediction import BundleIdentity, Lesion, Prediction, Region, Side
from ml.volume import Geometry, MaskArray, Volume
from tests.dicom_factory import ct_series
from tests.dicom_node.house import House
from tests.real_heads import ge_files
from tests.worker.reader import ALWAYS, NEVER, write_tiny_bundle
from worker.results.checks import check_form
from worker.results.context import OperatingPoints, ResultContext, SeriesPlan
from worker.results.exam import AnalysedExam
from worker.results.files import encode
from worker.results.forms import write_form, write_rejection
from worker.results.source import order_source
from worker.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

BUNDLE = BundleIdentity("compact", "1.2.0", "ab" * 32, "2.25.136204138762351")
CONTEXT = ResultContext(
    input_digest="11" * 32,
    config_digest="22" * 32,
    bundle=BUNDLE,
    created_at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    operating_points=OperatingPoints(exam=0.5, voxel=0.4, smallest_lesion_ml=0.1),
    series=SeriesPlan(first_number=9001),
)
SEG_FORM, SR_FORM = Form(FormName.SEG_BINARY), Form(FormName.SR_3D)


@dataclass(frozen=True, eq=False)
class Exam(AnalysedExam):
    """All that writing a result takes."""

    context: ResultContext = CONTEXT

    def write(self, form: Form, *beside: Dataset) -> Dataset:
        """The one object of this form."""
        (ds,) = write_form(form, self.context, self, beside=beside)
        return ds

    def seg(self) -> Dataset:
        """The SEG."""
        return self.write(SEG_FORM)

    def sr(self, seg: Dataset) -> Dataset:
        """The SR that goes with it."""
        return self.write(SR_FORM, seg)

    def check(self, seg: Dataset, sr: Dataset) -> None:
        """The gate on both."""
        check_form(SEG_FORM, [seg], self)
        check_form(SR_FORM, [sr], self, beside=[seg])


def as_received(ds: Dataset) -> Dataset:
    """A dataset as the worker reads it: from a file, without pixels, text still as bytes."""
    buffer = BytesIO()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(buffer, ds, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer, stop_before_pixels=True)


def through(ds: Dataset) -> Dataset:
    """As a receiver reads it."""
    return dcmread(BytesIO(encode(ds)))


def rejection(header: Dataset) -> Dataset:
    """A report on this study."""
    return write_rejection(SR_FORM, CONTEXT, header, code="TOO_FEW_SLICES", sentence="The series has 2 slices.")[0]


def raw_element(tag: int, vr: str, value: bytes) -> Any:
    """An element as it comes from a file, unchecked."""
    return RawDataElement(Tag(tag), vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)


def volume_of(datasets: Sequence[Dataset]) -> Volume:
    """The volume of a synthetic series, put in order here so that these tests stand apart from `ml.data`."""
    axes = np.array([float(v) for v in datasets[0].ImageOrientationPatient]).reshape(2, 3)
    normal = np.cross(*axes)
    ordered = sorted(datasets, key=lambda ds: float(np.dot([float(v) for v in ds.ImagePositionPatient], normal)))
    hu = [ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in ordered]
    geometry = Geometry(
        positions_lps=np.array([[float(v) for v in ds.ImagePositionPatient] for ds in ordered]),
        row_lps=axes[0],
        column_lps=axes[1],
        pixel_spacing_mm=(float(datasets[0].PixelSpacing[0]), float(datasets[0].PixelSpacing[1])),
        sop_instance_uids=tuple(str(ds.SOPInstanceUID) for ds in ordered),
        frame_of_reference_uid=datasets[0].get("FrameOfReferenceUID"),
    )
    return Volume(np.asarray(hu, dtype=np.float32), geometry)


def predicted(volume: Volume, masks: Sequence[MaskArray], probability: float) -> tuple[Prediction, tuple[Lesion, ...]]:
    """A prediction of these regions, the largest first."""
    lesions = tuple(
        Lesion(
            number=number,
            region=Region.of(mask),
            volume_ml=volume.volume_ml(mask),
            mean_hu=float(volume.hu[mask].mean()),
            key_slices=tuple(int(z) for z in np.argsort(-mask.sum(axis=(1, 2)), kind="stable")[:2]),
            longest_axial_diameter_mm=12.3,
            abc2_ml=4.5,
            side=(Side.RIGHT, Side.LEFT, Side.MIDLINE)[(number - 1) % 3],
        )
        for number, mask in enumerate(masks, start=1)
    )
    mask = np.zeros(volume.hu.shape, dtype=np.bool_)
    for region in masks:
        mask |= region
    scores = np.asarray(mask.any(axis=(1, 2)), dtype=np.float32)
    return Prediction(mask.astype(np.float32), mask, scores, probability, probability >= 0.5, BUNDLE), lesions


def two_regions(shape: tuple[int, ...]) -> list[MaskArray]:
    """Two regions without any symmetry, on some slices together, on some alone."""
    one, other = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    height, width = shape[1] // 8, shape[2] // 8
    one[2:6, 2 * height : 4 * height, width : 2 * width] = True
    one[3, 2 * height : 5 * height, width : 3 * width] = True
    other[5:7, 5 * height : 6 * height + 1, 5 * width : 7 * width] = True
    return [one, other]


@pytest.fixture
def make_exam() -> Callable[..., Exam]:
    """Builds an exam; keywords go to `ct_series`, `change` may spoil each header."""

    def build(
        *,
        positive: bool = True,
        change: Callable[[Dataset], Any] | None = None,
        probability: float | None = None,
        **series: Any,
    ) -> Exam:
        datasets = ct_series(**({"slices": 9, "rows": 48, "columns": 40} | series))
        volume = volume_of(datasets)
        for ds in datasets:
            if change is not None:
                change(ds)
        masks = two_regions(volume.hu.shape) if positive else []
        prediction, lesions = predicted(volume, masks, probability or (0.93 if positive else 0.04))
        headers = {str(ds.SOPInstanceUID): as_received(ds) for ds in datasets}
        return Exam(order_source(headers, volume.geometry), volume, prediction, lesions)

    return build


@pytest.fixture
def real_exam() -> Exam:
    """A real GE head (18.5 degrees of tilt, 4 then 7 mm) with two invented regions; skipped where it is not there."""
    paths = ge_files()
    volume = volume_of([dcmread(path) for path in paths])
    prediction, lesions = predicted(volume, two_regions(volume.hu.shape), 0.8)
    headers = {str(header.SOPInstanceUID): header for header in (dcmread(p, stop_before_pixels=True) for p in paths)}
    return Exam(order_source(headers, volume.geometry), volume, prediction, lesions)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, str]]:
    """Every text that is drawn into a picture from here on: x, y and what."""
    texts: list[tuple[float, float, str]] = []
    draw = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, *args: Any, **options: Any) -> None:
        texts.append((*xy, text))
        draw(self, xy, text, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """One that calls every exam, and one that calls none."""
    return {bias: write_tiny_bundle(tmp_path_factory.mktemp("bundle"), bias) for bias in (ALWAYS, NEVER)}


@pytest.fixture
def make_house(tmp_path: Path, bundles: dict[float, Path]) -> Callable[..., tuple[House, Runtime]]:
    """A node without its processes, one destination, and a worker's runtime on it."""

    def make(bias: float = ALWAYS, *, worker: str = "", results: str = "", more: str = "") -> tuple[House, Runtime]:
        text = (
            f'[worker]\nbundle = "{bundles[bias]}"\ndevice = "cpu"\nengine = "torch"\nthreads = 1\n{worker}\n'
            f"[results]\n{results}\n"
            '[[delivery.destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 4242\n'
            f"{more}"
        )
        house = House(tmp_path, config=text)
        return house, Runtime(house.config, house.database, "worker-1")

    return make
