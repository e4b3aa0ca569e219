"""Every engine says what eager PyTorch in float32 says, to 1e-3 in probability."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.bundle import Bundle, load_bundle
from ml.errors import DeviceError
from ml.inference.engines import AGREEMENT, EngineName, OpenVinoEngine, choose_engine, make_engine
from ml.inference.predictor import Predictor
from ml.networks.patchfcn import PAPER, PatchFcn

REPO = Path(__file__).parents[3]
CPU_ENGINES: tuple[EngineName, ...] = ("torch-channels-last", "openvino", "auto")


def assert_agrees(network: PatchFcn, engine: EngineName, *, size: int) -> None:
    """On images like heads: smooth, with noise."""
    rng = np.random.default_rng(3)
    images = rng.normal(0, 0.2, (2, network.config.trunk.in_channels, size, size)).astype(np.float32)
    images += np.sin(np.linspace(0, 9, size, dtype=np.float32))
    reference = make_engine(network, "torch", device="cpu")(images)
    outputs = make_engine(network, engine, device="cpu", threads=1)(images)
    assert np.abs(outputs.prob - reference.prob).max() <= AGREEMENT
    assert outputs.class_logits == pytest.approx(reference.class_logits, abs=1e-2)
    assert outputs.prob.shape == (2, size, size)


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_engines_agree_on_a_tiny_network(tiny_bundle: Bundle, engine: EngineName) -> None:
    """Random weights whose probabilities cover the whole range."""
    network = tiny_bundle.make_network()
    assert_agrees(network, engine, size=64)
    prob = make_engine(network, "torch", device="cpu")(np.random.default_rng(0).normal(size=(1, 6, 64, 64)).astype("f"))
    assert prob.prob.min() < 0.2
    assert prob.prob.max() > 0.8


@pytest.mark.parametrize("engine", ["torch-channels-last", "openvino"])
def test_engines_agree_on_the_papers_network(engine: EngineName) -> None:
    """DRN-D-38 with its dilations, on a small image."""
    torch.manual_seed(0)
    network = PatchFcn(PAPER)
    torch.nn.init.zeros_(network.get_parameter("pixel_score.bias"))
    assert_agrees(network.eval(), engine, size=64)


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_engines_agree_on_the_shipped_bundle(engine: EngineName) -> None:
    """Trained weights are larger than random ones."""
    assert_agrees(load_bundle("default").make_network(), engine, size=256)


def test_convolutions_are_in_true_float32(tiny_bundle: Bundle) -> None:
    """TF32 is off while an engine runs, and afterwards as it was: training may use it."""
    network = tiny_bundle.make_network()
    seen: list[bool] = []
    network.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    torch.backends.cudnn.allow_tf32 = True
    make_engine(network, "torch-channels-last", device="cpu")(np.zeros((1, 6, 64, 64), dtype=np.float32))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


def test_engines_that_do_not_run_on_a_device_are_refused(tiny_bundle: Bundle) -> None:
    """The message names the engines there are."""
    with pytest.raises(DeviceError, match=r"torch-half does not run on cpu; auto, openvino, torch"):
        make_engine(tiny_bundle.make_network(), "torch-half", device="cpu")


def test_a_converted_network_is_kept_and_read_back(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The second process reads what the first one converted, with the same numbers; damage is converted again."""
    images = np.random.default_rng(0).normal(size=(1, 6, 64, 64)).astype(np.float32)
    network = tiny_bundle.make_network()
    first = make_engine(network, "openvino", device="cpu", threads=1, cache=tmp_path)(images)
    kept = next(tmp_path.rglob("network.xml"))
    written = kept.stat().st_mtime_ns
    second = make_engine(network, "openvino", device="cpu", threads=1, cache=tmp_path)(images)
    assert kept.stat().st_mtime_ns == written
    np.testing.assert_array_equal(first.prob, second.prob)
    kept.write_text("damaged")
    third = make_engine(network, "openvino", device="cpu", threads=1, cache=tmp_path)(images)
    np.testing.assert_array_equal(first.prob, third.prob)
    assert kept.read_text() != "damaged"


def test_where_nothing_can_be_kept_the_answer_comes_all_the_same(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The cache is on a full or a read-only disk."""
    (tmp_path / "cache").touch()
    images = np.random.default_rng(0).normal(size=(1, 6, 64, 64)).astype(np.float32)
    network = tiny_bundle.make_network()
    wanted = make_engine(network, "torch", device="cpu")(images)
    found = make_engine(network, "openvino", device="cpu", threads=1, cache=tmp_path / "cache")(images)
    assert np.abs(found.prob - wanted.prob).max() < AGREEMENT


def test_an_engine_takes_no_more_threads_than_it_is_given(tiny_bundle: Bundle) -> None:
    """A node has a worker for every few processors."""
    predictor = Predictor(tiny_bundle, device="cpu", engine="openvino", threads=1)
    predictor.warm_up()
    assert isinstance(predictor.engine, OpenVinoEngine)
    (compiled,) = predictor.engine._compiled.values()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_what_there_is_decides_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO where it is installed, on a CPU; half precision on any GPU, for those who ask for it."""
    assert choose_engine("auto", device="cpu") == "openvino"
    assert choose_engine("auto", device="cuda:1") == "torch-channels-last"
    assert choose_engine("torch-half", device="cuda:1") == "torch-half"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert choose_engine("auto", device="cpu") == "torch-channels-last"
    with pytest.raises(DeviceError, match="openvino does not run on cpu"):
        choose_engine("openvino", device="cpu")


TWO_ENGINES = """
import os, signal, sys
import numpy as np
from ml.inference.engines import make_engine
from ml.networks.patchfcn import PatchFcn
from tests.ml.conftest import TINY_NETWORK
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
images = np.zeros((1, TINY_NETWORK.trunk.in_channels, 32, 32), np.float32)
first, second = (make_engine(PatchFcn(TINY_NETWORK).eval(), "openvino", device="cpu", threads=1) for _ in range(2))
first(images)
second(images)
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
sys.exit(caught != [1])
"""


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_a_process_outlives_its_engines() -> None:
    """A worker that changes bundles still takes signals: OpenVINO's plugin puts a signal stack of its own in place."""
    done = subprocess.run([sys.executable, "-c", TWO_ENGINES], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


QUIET_ENGINE = """
import sys
import torch
from ml.inference.engines import make_engine
from ml.networks.patchfcn import PatchFcn
from tests.ml.conftest import TINY_NETWORK

started = []
sys.addaudithook(lambda event, details: started.append(event) if event in WATCHED else None)
engine = make_engine(PatchFcn(TINY_NETWORK).eval(), "openvino", device="cpu", threads=1)
engine(torch.zeros(1, TINY_NETWORK.trunk.in_channels, 64, 64).numpy())
sys.exit(", ".join(started) or 0)
""".replace("WATCHED", repr(("os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect", "urllib.Request")))


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_an_engine_tells_nobody_of_its_use(tmp_path: Path) -> None:
    """OpenVINO reports its import to Google Analytics, from a forked process: no connection, no fork, no file of it."""
    quiet = {name: value for name, value in os.environ.items() if name != "CI"}  # it does not report from there
    script = [sys.executable, "-c", QUIET_ENGINE]
    environment = {**quiet, "HOME": str(tmp_path), "PYTHONPATH": str(REPO)}
    done = subprocess.run(script, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
