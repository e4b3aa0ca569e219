"""The shipped bundle finds the bleed in simulated exams it never saw, and none in bleed-free ones."""

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from ml.bundle import load_bundle
from ml.evaluation.metrics import dsc
from ml.inference.predictor import Predictor
from ml.phantom import SimulatedExam, draw_spec, simulate
from ml.phantom.motion import restless
from ml.training.paint import SHAPES, paint_bleeds
from ml.volume import MaskArray, Volume
from tests.real_heads import ge_head, head_and_neck, injured_head, visible_human

FIRST_SEED = 3_000_000
"""Far from the seeds of training, validation and test (ml.training.compact)."""
EXAMS = 3
"""Of each institution, with blood and without."""
RESTLESS = 8
"""Scans in which the patient moves."""
LEAST_BLOOD_HU = 30.0
"""What is darker in the mean is no blood: the sulci of a cadaver hold gas, and are painted over it."""


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The default bundle on the CPU."""
    return Predictor(load_bundle("default"), device="cpu", threads=1)


REAL_HEADS: dict[str, Callable[[], Volume]] = {
    "GE": ge_head,
    "injured": lambda: injured_head(3),
    "injured, thin slices": lambda: injured_head(1),
    "cadaver": visible_human,
}


@pytest.fixture(scope="module", params=REAL_HEADS)
def real_head(request: pytest.FixtureRequest) -> Volume:
    """A real head without hemorrhage."""
    return REAL_HEADS[request.param]()


def held_out(institution: str, *, bleed: bool) -> list[SimulatedExam]:
    """The first exams of an institution with more than 1 mL of blood, or with none; no other choice is made."""
    made: list[SimulatedExam] = []
    for seed in count(FIRST_SEED):
        exam = simulate(draw_spec(seed, institution=institution, bleed=bleed), matrix=256)
        if exam.hemorrhage_ml > 1 if bleed else exam.hemorrhage_ml == 0:
            made.append(exam)
        if len(made) == EXAMS:
            break
    return made


def test_bleeds_over_1_ml_are_outlined(predictor: Predictor) -> None:
    """DSC of 0.6 or better in the mean of both institutions; an exam that is missed counts 0."""
    exams = [*held_out("A", bleed=True), *held_out("B", bleed=True)]
    found = [dsc(predictor.predict(exam.volume).mask, exam.truth) for exam in exams]
    assert np.mean(found) >= 0.6, found


@pytest.mark.parametrize("institution", ["A", "B"])
def test_nothing_is_reported_in_bleed_free_exams(predictor: Predictor, institution: str) -> None:
    """No mask, no positive exam."""
    for exam in held_out(institution, bleed=False):
        prediction = predictor.predict(exam.volume)
        assert not prediction.exam_positive, (exam.spec.seed, prediction.exam_score)
        assert not prediction.mask.any()


def test_a_real_head_without_hemorrhage_stays_negative(predictor: Predictor, real_head: Volume) -> None:
    """Skull base, orbits, jaw, a broken forehead, an old infarct, a tilted gantry and gas in vessels are no blood."""
    prediction = predictor.predict(real_head)
    assert not prediction.exam_positive
    assert real_head.volume_ml(prediction.prob >= predictor.bundle.config.operating_point.pixel_prob) < 1.0


def test_a_restless_patient_is_not_called(predictor: Predictor) -> None:
    """What a turn leaves under the skull looks like a layer of blood; the bundle was not trained on this head."""
    head = injured_head(3)
    scores = [predictor.predict(restless(head, np.random.default_rng(seed))).exam_score for seed in range(RESTLESS)]
    assert max(scores) < predictor.bundle.config.operating_point.exam_score, scores


@pytest.mark.parametrize("slab", [1, 3])
def test_nothing_is_found_in_a_real_face_and_neck(predictor: Predictor, slab: int) -> None:
    """Half of this scan is jaw, tongue and neck; the network alone takes 1 to 2 mL of the tongue for blood."""
    head = head_and_neck(slab)
    prediction = predictor.predict(head)
    assert not prediction.exam_positive
    assert head.volume_ml(prediction.prob >= predictor.bundle.config.operating_point.pixel_prob) < 0.1


def test_a_bleed_put_into_a_real_head_is_found(predictor: Predictor) -> None:
    """A ball of clot, 30 mm across, in the deep white matter of the right hemisphere."""
    real_head = ge_head()
    hu = real_head.hu.copy()
    blood = ball(real_head, z=18, y=300, x=165, radius_mm=15.0)
    hu[blood] += 35
    prediction = predictor.predict(Volume(hu, real_head.geometry))
    assert prediction.exam_positive
    assert dsc(prediction.mask, blood) >= 0.6


def ball(volume: Volume, *, z: int, y: int, x: int, radius_mm: float) -> MaskArray:
    """(z, y, x) voxels within a radius of one of them, along the true axes of the slices."""
    heights = volume.geometry.offsets_mm - volume.geometry.offsets_mm[z]
    rows = (np.arange(volume.hu.shape[1]) - y) * volume.geometry.pixel_spacing_mm[0]
    columns = (np.arange(volume.hu.shape[2]) - x) * volume.geometry.pixel_spacing_mm[1]
    squares = heights[:, None, None] ** 2 + rows[None, :, None] ** 2 + columns[None, None, :] ** 2
    return np.asarray(squares <= radius_mm**2)


def test_blood_painted_into_a_real_head_is_found(predictor: Predictor, real_head: Volume) -> None:
    """One bleed of each kind: those that nobody would miss are outlined, and each exam scores higher than the clean."""
    pixel_prob = predictor.bundle.config.operating_point.pixel_prob
    clean = predictor.predict(real_head).exam_score
    found: dict[str, float] = {}
    for bleed in paint_bleeds(real_head, len(SHAPES)):
        if bleed.volume.hu[bleed.truth].mean() < LEAST_BLOOD_HU:
            continue
        answer = predictor.predict(bleed.volume)
        assert answer.exam_score > clean, bleed.kind
        found[bleed.kind] = dsc(answer.prob >= pixel_prob, bleed.truth)
    assert np.mean([found[kind] for kind in ("ball", "lens", "ventricle")]) >= 0.7, found
