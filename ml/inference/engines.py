"""Ways to run one network: the same numbers to 1e-3 in probability, at different speed.

`auto` is a measured choice (bench/engines.py): OpenVINO on a CPU, because dilated convolutions are slow in plain
PyTorch there; channels-last PyTorch where OpenVINO is not installed, and on a GPU. There float32 means float32: on an
H100 TF32, PyTorch's default for convolutions, moved a pixel of a simulated exam by 1.5e-3 and half precision by 1.9e-3,
so half precision is for those who ask for it.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ml.errors import DeviceError
from ml.files import whole_folder
from ml.networks.patchfcn import PatchFcn

log = logging.getLogger(__name__)

F32Array = npt.NDArray[np.float32]
EngineName = Literal["auto", "torch", "torch-channels-last", "torch-half", "openvino"]
AGREEMENT = 1e-3
"""Largest difference in probability from eager float32 that an engine may show."""


class Outputs(NamedTuple):
    """What the network says of a batch."""

    prob: F32Array
    """(N, H, W) in [0, 1]."""
    class_logits: F32Array
    """(N,)."""


class Engine(Protocol):
    """Runs a network on (N, C, H, W) float32 images; N may vary."""

    name: str

    def __call__(self, images_NCHW: F32Array) -> Outputs:
        """Probabilities and class logits."""


class TorchEngine:
    """PyTorch on a CPU or a GPU."""

    def __init__(
        self, network: PatchFcn, *, device: str = "cpu", channels_last: bool = False, half: bool = False
    ) -> None:
        self.name = "torch-half" if half else "torch-channels-last" if channels_last else "torch"
        self.device, self.half = torch.device(device), half
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.eval().to(self.device)
        self.network.to(memory_format=self.memory_format)  # type: ignore[call-overload] # torch.nn.Module.to has it

    def __call__(self, images_NCHW: F32Array) -> Outputs:
        """See Engine; raises torch.OutOfMemoryError on a full GPU."""
        images = torch.from_numpy(images_NCHW).to(self.device).to(memory_format=self.memory_format)
        precision = torch.autocast(self.device.type, torch.float16, enabled=self.half)
        with torch.inference_mode(), _without_tf32(), precision:
            logits = self.network(images)
            prob = logits.pixels.float().sigmoid()
        return Outputs(prob.cpu().numpy(), logits.classes.float().cpu().numpy())


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Convolutions of a GPU in float32 proper; training goes on with whatever was set."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class _ForExport(nn.Module):
    """The network with its sigmoid inside, as a plain tuple of outputs."""

    def __init__(self, network: PatchFcn) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(images_NCHW)
        return logits.pixels.sigmoid(), logits.classes


def _openvino() -> Any:
    """The package, without its telemetry.

    Importing it tells Google Analytics so, from a thread that forks a process. No node of a hospital may do that; and
    the fork waits for the threads of NumPy's BLAS while a product of matrices in this thread waits for the fork: such a
    process was seen to hang for good (OpenVINO 2026.4, NumPy 2). Without the module, OpenVINO takes a stub.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: importing it fails
    import openvino  # noqa: PLC0415 (slow to import, and optional)

    return openvino


@functools.cache
def _the_core() -> Any:
    """The one openvino.Core of this process, for as long as it lives.

    The CPU plugin of each Core gives its thread a signal stack. Where two Cores end in the order in which they began,
    the second puts the first one's back, whose memory is gone, and the next signal that Python handles (a child's end
    is one) kills the process without a word. Seen with OpenVINO 2026.4.
    """
    return _openvino().Core()


class OpenVinoEngine:
    """OpenVINO on the CPU in float32, compiled for one image shape at first use of it.

    Converting a network takes seconds, compiling a converted one tenths: `cache` is a folder that keeps what was
    converted, for these weights only.
    """

    def __init__(self, network: PatchFcn, *, threads: int | None = None, cache: Path | None = None) -> None:
        self.name = "openvino"
        self._core = _the_core()
        self._cache = cache / f"openvino-{_openvino().__version__}" if cache else None
        self._network = _ForExport(network).eval()
        # bfloat16 is the default on CPUs that have it and is off by up to 1e-1.
        self._settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = str(threads)
        self._compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, images_NCHW: F32Array) -> Outputs:
        """See Engine. One image at a time: the batch is a loop, so every N uses the one compiled shape."""
        shape = (1, *images_NCHW.shape[1:])
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(shape)
        compiled = self._compiled[shape]
        results = [compiled(np.ascontiguousarray(image[None])) for image in images_NCHW]
        return Outputs(
            np.concatenate([np.asarray(one[0], dtype=np.float32) for one in results]),
            np.concatenate([np.asarray(one[1], dtype=np.float32) for one in results]),
        )

    def _compile(self, shape: tuple[int, ...]) -> Any:
        kept = self._cache / "x".join(map(str, shape)) / "network.xml" if self._cache else None
        if kept and kept.exists():
            try:
                return self._core.compile_model(self._core.read_model(kept), "CPU", self._settings)
            except RuntimeError:
                log.warning("a kept network cannot be read and is converted again")
                shutil.rmtree(kept.parent, ignore_errors=True)
        model = self._convert(shape)
        if kept:
            _keep(model, kept)
        return self._core.compile_model(model, "CPU", self._settings)

    def _convert(self, shape: tuple[int, ...]) -> Any:
        from openvino.frontend import FrontEndManager  # noqa: PLC0415
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415

        # The front end itself and not openvino.convert_model, which reports its use over the internet.
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tracing still is the front end's best-tested input
            decoder = TorchScriptPythonDecoder(self._network, example_input=(torch.zeros(shape),))
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
        model.reshape({model.inputs[0]: list(shape)})
        return model


def _keep(model: Any, path: Path) -> None:
    """Save a converted network for the next process: whole or not at all, and never a reason to fail."""
    try:
        with whole_folder(path.parent, lambda folder: (folder / path.name).is_file()) as new:
            _openvino().save_model(model, new / path.name, compress_to_fp16=False)
    except (OSError, RuntimeError) as error:
        log.warning("the converted network was not kept: %s", type(error).__name__)


def choose_engine(name: EngineName, *, device: str) -> EngineName:
    """What computes a network on "cpu" or "cuda" (or "cuda:1"); "auto" becomes one of the others.

    Raises DeviceError for an engine that does not run there.
    """
    there: list[EngineName] = ["torch-channels-last", "torch"]
    if device != "cpu":
        there.append("torch-half")
    elif importlib.util.find_spec("openvino") is not None:
        there.insert(0, "openvino")
    if name == "auto":
        return there[0]
    if name not in there:
        raise DeviceError(f"engine {name} does not run on {device}; auto, {', '.join(there)} do")
    return name


def make_engine(
    network: PatchFcn, name: EngineName, *, device: str, threads: int | None = None, cache: Path | None = None
) -> Engine:
    """An engine by name; `device` is "cpu" or "cuda" (or "cuda:1"); `cache` as in OpenVinoEngine.

    Raises DeviceError as `choose_engine` does.
    """
    name = choose_engine(name, device=device)
    if name == "openvino":
        return OpenVinoEngine(network, threads=threads, cache=cache)
    return TorchEngine(network, device=device, channels_last=name != "torch", half=name == "torch-half")
