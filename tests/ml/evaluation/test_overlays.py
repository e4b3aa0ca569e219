"""Figures 2 and 3: the images that show what changed."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from ml.data.exams import LabelledExam
from ml.errors import EvaluationError
from ml.evaluation.judging import evaluate
from ml.evaluation.overlays import GREEN, OPACITY, RED, YELLOW, colour, false_alarms, panels, rescued, window
from ml.evaluation.plots import draw_panels
from ml.evaluation.records import Origin, RecordSet
from ml.evaluation.sources import PhantomSource, source_named
from ml.prediction import BundleIdentity, Prediction
from ml.volume import Volume
from tests.ml.evaluation.conftest import Squares, network

SOURCE = PhantomSource("A", 2_000_000, 1, matrix=128)


class Once:
    """The simulated exam, made once."""

    name, exams = SOURCE.name, SOURCE.exams

    def __init__(self) -> None:
        (self._exam,) = SOURCE.read(SOURCE.exams)

    def read(self, wanted: Sequence[str]) -> Iterator[LabelledExam]:
        """It."""
        yield from [self._exam] * len(wanted)


def bright(above_hu: float, volume: Volume) -> Prediction:
    """Everything between a threshold and bone."""
    prob = ((volume.hu > above_hu) & (volume.hu < 100)).astype(np.float32)
    mask = prob > 0
    scores = prob.mean(axis=(1, 2))
    return Prediction(
        prob, mask, scores, float(scores.max()), bool(mask.any()), BundleIdentity("b", "1", "0", "2.25.1")
    )


def record(folder: Path, source: Once, above_hu: float) -> RecordSet:
    """A threshold's answers on a simulated exam."""
    origin = Origin(f"over {above_hu}", SOURCE.name, SOURCE.exams, "c", "python", "b 1", "0" * 64, 0.5)
    return evaluate(lambda volume: bright(above_hu, volume), source, folder, origin=origin, progress=lambda _: None)


def test_truth_answer_and_both_have_colours() -> None:
    """Red, green, yellow; elsewhere the image."""
    gray = np.full((2, 2), 100, dtype=np.uint8)
    truth, answer = np.array([[True, True], [False, False]]), np.array([[True, False], [True, False]])
    picture = colour(gray, truth, answer)
    for place, shade in (((0, 0), YELLOW), ((0, 1), RED), ((1, 0), GREEN)):
        assert picture[place] == pytest.approx((1 - OPACITY) * 100 + OPACITY * np.array(shade), abs=1)
    assert picture[1, 1].tolist() == [100, 100, 100]
    assert window(np.array([[-50.0, 40.0, 200.0]], dtype=np.float32)).tolist() == [[0, 127, 255]]


def test_images_are_chosen_for_what_changed(tmp_path: Path) -> None:
    """False alarms lie on images without blood, rescued bleeds on images with it; the largest comes first."""
    source = Squares("set", 8)

    def records(name: str, blur: float) -> RecordSet:
        origin = Origin(name, source.name, source.exams, "c", "python", "b 1", "0" * 64, 0.5)
        return evaluate(network(blur), source, tmp_path / name, origin=origin, progress=lambda _: None)

    worse, better = records("worse", 14.0), records("better", 4.0)
    alarms = false_alarms(worse, better, 3)
    assert len({one.exam for one in alarms}) == 3
    by_name = {one.exam: one for one in worse.records}
    gains = []
    for one in alarms:
        counts = by_name[one.exam].counts
        assert counts is not None
        assert counts.truth[one.z] == 0
        false = [set_.pixels(by_name[one.exam]).masks["over_threshold"][one.z].sum() for set_ in (worse, better)]
        assert false[1] > 0, "both are wrong there: what is told is by how much"
        assert one.why == f"{false[0] - false[1]} more false pixels in the first"
        gains.append(int(one.why.split()[0]))
    assert gains == sorted(gains, reverse=True)
    for one in rescued(worse, better, 2):
        counts = by_name[one.exam].counts
        assert counts is not None
        assert counts.truth[one.z] > 0
    assert false_alarms(worse, worse, 3) == []
    with pytest.raises(EvaluationError, match="not kept in records"):
        panels(alarms, {"worse": worse})


def test_panels_show_simulated_images_again(tmp_path: Path) -> None:
    """The image alone, then each answer on it; the file is a picture."""
    source = Once()
    worse, better = record(tmp_path / "worse", source, 60.0), record(tmp_path / "better", source, 80.0)
    chosen = false_alarms(worse, better, 1)
    (row,) = panels(chosen, {"worse": worse, "better": better})
    assert [panel.title for panel in row][1:] == ["worse", "better"]
    assert row[0].picture.shape == (128, 128, 3)
    green = (row[1].picture[..., 1].astype(int) - row[1].picture[..., 0]) > 30
    counts = next(one for one in worse.records if one.exam == chosen[0].exam).counts
    assert counts is not None
    assert green.sum() == pytest.approx(counts.over_threshold[chosen[0].z], rel=0.05)
    draw_panels([row], tmp_path / "figure.png", title="a test")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_source_is_found_by_its_name() -> None:
    """What a record names can be read again, or is known not to be."""
    assert source_named(SOURCE.name) == SOURCE
    assert source_named("cq500") is None
