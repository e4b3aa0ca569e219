"""One exam through the whole of a bundle."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.bundle import Bundle, identify
from ml.config import Calibration, Logistic, OperatingPoint
from ml.inference.brain import FAINT_PROB
from ml.inference.engines import AGREEMENT, F32Array, Outputs
from ml.inference.lesions import find_lesions
from ml.inference.predictor import Predictor
from ml.inference.scores import apply, exam_features, slice_features
from ml.volume import FloatArray, Geometry, Volume
from tests.ml.conftest import MakeVolume


def with_exam_bias(bundle: Bundle, bias: float, *, least_lesion_ml: float = 0.1) -> Bundle:
    """The same network, more or less inclined to call an exam positive."""
    calibration = Calibration(bundle.config.calibration.slice_score, Logistic((0.0, 0.0, 0.0), bias))
    point = OperatingPoint(0.5, 0.5, least_lesion_ml)
    return replace(bundle, config=replace(bundle.config, calibration=calibration, operating_point=point))


def test_the_answer_lies_on_the_grid_of_the_volume(tiny_bundle: Bundle, make_volume: MakeVolume) -> None:
    """Shapes, ranges and who said it."""
    volume = make_volume()
    prediction = Predictor(tiny_bundle, device="cpu", engine="torch").predict(volume)
    assert prediction.prob.shape == prediction.mask.shape == volume.hu.shape
    assert prediction.prob.dtype == np.float32
    assert 0 <= prediction.prob.min() <= prediction.prob.max() <= 1
    assert prediction.slice_scores.shape == (10,)
    assert prediction.bundle == tiny_bundle.identity


def test_a_positive_exam_shows_lesions_of_reportable_size(tiny_bundle: Bundle, make_volume: MakeVolume) -> None:
    """Every component of the mask reaches the bundle's least volume and lies over the pixel threshold."""
    volume = make_volume()
    prediction = Predictor(with_exam_bias(tiny_bundle, 3.0), device="cpu", engine="torch").predict(volume)
    assert prediction.exam_positive
    assert prediction.mask.any()
    assert prediction.prob[prediction.mask].min() >= 0.5
    assert min(lesion.volume_ml for lesion in find_lesions(prediction.mask, volume)) >= 0.1


def test_a_negative_exam_shows_no_mask(tiny_bundle: Bundle, make_volume: MakeVolume) -> None:
    """The map stays for those who look into it; the finding does not."""
    prediction = Predictor(with_exam_bias(tiny_bundle, -3.0), device="cpu", engine="torch").predict(make_volume())
    assert not prediction.exam_positive
    assert not prediction.mask.any()
    assert (prediction.prob >= 0.5).any()


def test_an_exam_at_the_operating_point_is_positive(tiny_bundle: Bundle, make_volume: MakeVolume) -> None:
    """At or above it, as the bundle says."""
    prediction = Predictor(with_exam_bias(tiny_bundle, 0.0), device="cpu", engine="torch").predict(make_volume())
    assert prediction.exam_score == 0.5
    assert prediction.exam_positive


def test_an_exam_without_a_reportable_lesion_is_negative(tiny_bundle: Bundle, make_volume: MakeVolume) -> None:
    """Whatever the rest of the evidence says: a finding that cannot be shown is none."""
    bundle = with_exam_bias(tiny_bundle, 3.0, least_lesion_ml=1e6)
    prediction = Predictor(bundle, device="cpu", engine="torch").predict(make_volume())
    assert not prediction.exam_positive
    assert 0 < prediction.exam_score < 0.5


@pytest.mark.parametrize(
    ("exam", "pixel", "outlined"),
    [(0.3, 0.35, True), (0.6, 0.35, False), (0.3, 0.45, False)],
    ids=["", "exam", "pixel"],
)
def test_calls_and_scores_are_by_the_bundles_own_points(
    tiny_bundle: Bundle, make_volume: MakeVolume, exam: float, pixel: float, outlined: bool
) -> None:
    """Whatever they are, of a network that says 0.4 everywhere; scores without an outline keep their order below."""

    class Wavers:
        name = "wavers"

        def __call__(self, images_NCHW: F32Array) -> Outputs:
            prob = np.full_like(images_NCHW[:, 0], 0.4)
            return Outputs(prob, np.zeros_like(prob[:, 0, 0]))

    calibration = Calibration(Logistic((0.0, 0.0, 0.5), -2.0), Logistic((0.0, 0.1, 0.0), -1.0))
    point = OperatingPoint(pixel_prob=pixel, exam_score=exam, least_lesion_ml=0.1)
    config = replace(tiny_bundle.config, calibration=calibration, operating_point=point)
    predictor = Predictor(replace(tiny_bundle, config=config), device="cpu", engine="torch")
    predictor._engine = Wavers()
    volume = make_volume()
    found = predictor.predict(volume)
    assert (found.exam_positive, bool(found.mask.any())) == (outlined, outlined)
    if outlined:
        assert np.array_equal(found.mask, found.prob >= pixel)
    logits = np.zeros(len(volume.hu), dtype=np.float32)
    evidence = (found.prob, logits, volume.geometry)
    score = apply(calibration.exam_score, exam_features(*evidence, pixel_prob=pixel)[None])[0]
    assert found.exam_score == pytest.approx(score if pixel < 0.4 else score * 0.999 * exam)
    by_slice = apply(calibration.slice_score, slice_features(*evidence, pixel_prob=pixel))
    assert found.slice_scores == pytest.approx(by_slice, abs=1e-6)
    assert (found.slice_scores > 0.5).any() == (pixel < 0.4)


def test_the_answer_is_the_same_every_time_and_for_every_batch_size(
    tiny_bundle: Bundle, make_volume: MakeVolume
) -> None:
    """One Predictor reads many exams; none leaves a trace in the next."""
    predictor = Predictor(tiny_bundle, device="cpu", engine="torch")
    first = predictor.predict(make_volume())
    predictor.predict(make_volume(np.arange(0, 30, 3.0)))
    predictor._batch = 3
    second = predictor.predict(make_volume())
    assert np.abs(first.prob - second.prob).max() < 1e-5
    assert first.exam_score == pytest.approx(second.exam_score, abs=1e-5)


@pytest.mark.parametrize(
    ("offsets_mm", "bright"),
    [
        (np.arange(0.0, 50.0, 5.0), 2),
        (np.arange(0.0, 50.0, 1.25), 10),
        (np.concatenate([np.arange(0.0, 20.0, 1.25), np.arange(20.0, 60.0, 5.0)]), 10),
    ],
    ids=["thick", "thin", "thin below, thick above"],
)
def test_feet_first_storage_gives_the_same_answer_slice_by_slice(
    tiny_bundle: Bundle, make_volume: MakeVolume, offsets_mm: FloatArray, bright: int
) -> None:
    """Rows that run to the right reverse the normal: scores must follow their slices, of which one is bright; so they
    must where only some slices are analysed.
    """

    class SeesBrightness:
        name = "sees brightness"

        def __call__(self, images_NCHW: F32Array) -> Outputs:
            return Outputs(np.zeros_like(images_NCHW[:, 0]), images_NCHW[:, 1].mean(axis=(1, 2)))

    volume = make_volume(offsets_mm)
    volume.hu[bright] += 300
    plain = volume.geometry
    mirrored = Volume(
        np.ascontiguousarray(volume.hu[::-1, :, ::-1]),
        Geometry(
            plain.positions_lps[::-1] + np.array([99 * 2.0, 0, 0]),
            -plain.row_lps,
            plain.column_lps,
            plain.pixel_spacing_mm,
            plain.sop_instance_uids[::-1],
        ),
    )
    calibration = Calibration(Logistic((1.0, 0.0, 0.0), 0.0), tiny_bundle.config.calibration.exam_score)
    bundle = replace(tiny_bundle, config=replace(tiny_bundle.config, calibration=calibration))
    predictor = Predictor(bundle, device="cpu", engine="torch")
    predictor._engine = SeesBrightness()
    one, two = predictor.predict(volume), predictor.predict(mirrored)
    assert one.slice_scores.argmax() == bright
    assert two.slice_scores[::-1] == pytest.approx(one.slice_scores, abs=1e-3)


def test_progress_counts_images(tiny_bundle: Bundle, make_volume: MakeVolume) -> None:
    """The last call says that all are done."""
    calls: list[tuple[int, int]] = []
    Predictor(tiny_bundle, device="cpu", engine="torch").predict(
        make_volume(), progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (10, 10)
    assert calls == sorted(calls)


def test_a_gpu_that_runs_out_of_memory_is_answered_with_smaller_batches_then_the_cpu(
    tiny_bundle: Bundle, make_volume: MakeVolume
) -> None:
    """No exam is lost to it, and the answer is the same."""

    class FullGpu:
        name = "full"
        batches: list[int] = []  # noqa: RUF012 (one instance)

        def __call__(self, images_NCHW: F32Array) -> Outputs:
            self.batches.append(len(images_NCHW))
            raise torch.OutOfMemoryError

    predictor = Predictor(tiny_bundle, device="cpu", engine="torch")
    wanted = predictor.predict(make_volume())
    gpu = FullGpu()
    predictor._engine, predictor.device, predictor._batch = gpu, "cuda", 8
    found = predictor.predict(make_volume())
    assert gpu.batches == [8, 4, 2, 1]
    assert predictor.device == "cpu"
    assert np.abs(found.prob - wanted.prob).max() < 1e-3


@pytest.mark.parametrize("sure", [0.9, FAINT_PROB])
@pytest.mark.parametrize("brain_only", [False, True], ids=["head", "brain alone"])
def test_nothing_is_found_outside_the_skull(
    tiny_bundle: Bundle, make_volume: MakeVolume, brain_only: bool, sure: float
) -> None:
    """Of a network that sees blood in every pixel, however sure, the answer is the inside of the skull; where only that
    was shown to it, there is no skull to judge by.
    """

    class SeesBlood:
        name = "sees blood"

        def __call__(self, images_NCHW: F32Array) -> Outputs:
            prob = np.full_like(images_NCHW[:, 0], sure)
            return Outputs(prob, np.zeros_like(prob[:, 0, 0]))

    config = replace(tiny_bundle.config, preprocessing=replace(tiny_bundle.config.preprocessing, brain_only=brain_only))
    predictor = Predictor(replace(tiny_bundle, config=config), device="cpu", engine="torch")
    predictor._engine = SeesBlood()
    volume = make_volume()
    found = predictor.predict(volume).prob >= 0.5 * sure
    soft = (volume.hu > 0) & (volume.hu < 100)
    assert (found & soft).sum() / soft.sum() > 0.9
    assert brain_only == bool(found[volume.hu < -500].any())


def test_kept_networks_are_those_of_the_bundles_own_weights(
    tiny_bundle: Bundle, make_volume: MakeVolume, tmp_path: Path
) -> None:
    """One folder for all: the bundle of an update, of the same name, does not say what the one before did."""
    other = {name: tensor * 1.1 for name, tensor in tiny_bundle.weights.items()}
    updated = Bundle(tiny_bundle.config, identify(tiny_bundle.config, "1" * 64), other)
    for bundle in (tiny_bundle, updated, tiny_bundle):
        wanted = Predictor(bundle, device="cpu", engine="torch").predict(make_volume())
        found = Predictor(bundle, device="cpu", engine="openvino", cache_dir=tmp_path).predict(make_volume())
        assert np.abs(found.prob - wanted.prob).max() < AGREEMENT
