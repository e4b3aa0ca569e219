"""What answers show on a GPU alone. Skipped where there is none; `pytest tests/ml -k gpu` where there is one."""

import numpy as np
import pytest
import torch

from ml.bundle import Bundle, load_bundle
from ml.inference.engines import AGREEMENT
from ml.inference.predictor import GPU_BATCH, Predictor
from ml.phantom import draw_spec, simulate
from tests.ml.conftest import MakeVolume

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("engine", ["auto", "torch", "torch-channels-last"])
def test_the_default_bundle_answers_as_on_a_cpu(engine: str) -> None:
    """1e-3 in the probability of every pixel, whatever `auto` chose."""
    exam = simulate(draw_spec(3_000_000, bleed=True), matrix=256)
    wanted = Predictor(load_bundle("default"), device="cpu", engine="torch").predict(exam.volume)
    found = Predictor(load_bundle("default"), device="cuda", engine=engine).predict(exam.volume)  # type: ignore[arg-type]
    assert wanted.prob.max() > 0.5
    assert np.abs(found.prob - wanted.prob).max() <= AGREEMENT
    assert found.exam_score == pytest.approx(wanted.exam_score, abs=0.01)


def test_a_full_gpu_loses_no_exam(tiny_bundle: Bundle, make_volume: MakeVolume) -> None:
    """Real memory, and too little of it: smaller batches are tried (the CPU, when one image is too much)."""
    wanted = Predictor(tiny_bundle, device="cpu", engine="torch").predict(make_volume())
    predictor = Predictor(tiny_bundle, device="cuda", engine="torch")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-9)
    try:
        found = predictor.predict(make_volume())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert predictor._batch < GPU_BATCH
    assert np.abs(found.prob - wanted.prob).max() < AGREEMENT
