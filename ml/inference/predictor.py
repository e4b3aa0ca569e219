"""One bundle, loaded once, that reads exams: `Predictor(bundle).predict(volume) -> Prediction`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ml.bundle import Bundle
from ml.device import choose_device
from ml.inference import scores
from ml.inference.brain import FAINT_PROB, without_outside
from ml.inference.engines import Engine, EngineName, F32Array, make_engine
from ml.inference.lesions import without_islands
from ml.inference.preprocessing import Prepared, prepare
from ml.prediction import Prediction
from ml.volume import Geometry, Volume

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""
CPU_BATCH = 4
GPU_BATCH = 32


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the network itself says of an exam, before calibration and operating point."""

    prob: F32Array
    """(z, y, x) on the source grid."""
    class_logits: F32Array
    """(z,) in the order of the source."""
    geometry: Geometry
    """Of the source as the network saw it, for `scores`: a child's head may be as large as an adult's there."""


class Predictor:
    """Not thread-safe; one per process."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        engine: EngineName = "auto",
        threads: int | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """`device`: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1". `threads`: of the CPU, None for all.
        `cache_dir`: where converted networks are kept between processes, each by its bundle's digest.

        Raises:
            BundleError: the weights do not fit.
            DeviceError: there is no such device, or that engine does not run on it.
        """
        self.bundle = bundle
        self._threads = threads
        self._cache = cache_dir / bundle.identity.digest[:32] if cache_dir else None
        self._engine_name: EngineName = engine
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = choose_device(device)
        self._engine = make_engine(
            bundle.make_network(), engine, device=self.device, threads=threads, cache=self._cache
        )
        self._batch = CPU_BATCH if self.device == "cpu" else GPU_BATCH

    @property
    def engine(self) -> Engine:
        """What runs the network now."""
        return self._engine

    def warm_up(self) -> None:
        """Run the network once on nothing, so that the first exam does not wait for what is made at first use."""
        config = self.bundle.config.preprocessing
        self._engine(np.zeros((1, config.channels, config.size, config.size), dtype=np.float32))

    def predict(self, volume: Volume, *, progress: Progress | None = None) -> Prediction:
        """The whole answer for one exam, on the grid of the volume.

        A mask is reported for positive exams only, and an exam without a reportable lesion is never positive: a
        finding that cannot be shown, and an outline in a negative exam, would both mislead the reader.
        """
        evidence = self.analyse(volume, progress=progress)
        point, calibration = self.bundle.config.operating_point, self.bundle.config.calibration
        arguments = (evidence.prob, evidence.class_logits, evidence.geometry)
        slice_scores = scores.apply(
            calibration.slice_score, scores.slice_features(*arguments, pixel_prob=point.pixel_prob)
        )
        features = scores.exam_features(*arguments, pixel_prob=point.pixel_prob)
        exam_score = float(scores.apply(calibration.exam_score, features[None])[0])
        mask = without_islands(evidence.prob >= point.pixel_prob, volume.geometry, min_volume_ml=point.least_lesion_ml)
        if not mask.any():
            # Scaled and not cut, so exams without a lesion keep their order among themselves.
            exam_score *= 0.999 * point.exam_score
        positive = exam_score >= point.exam_score
        return Prediction(
            prob=evidence.prob,
            mask=mask if positive else np.zeros_like(mask),
            slice_scores=slice_scores.astype(np.float32),
            exam_score=exam_score,
            exam_positive=positive,
            bundle=self.bundle.identity,
        )

    def analyse(self, volume: Volume, *, progress: Progress | None = None) -> Evidence:
        """Probability map, without findings outside the skull, and class logits of every slice."""
        prepared = prepare(volume, self.bundle.config.preprocessing)
        prob, class_logits = self._run(prepared, progress)
        if (prob >= FAINT_PROB).any():
            prob = without_outside(prob, prepared.brain(), prepared.config.pixel_mm)
        logits = prepared.spread_slices(class_logits)
        if prepared.orientation.flips[0]:
            logits = logits[::-1]
        class_logits = np.ascontiguousarray(logits, dtype=np.float32)
        return Evidence(prepared.to_source(prob), class_logits, prepared.geometry)

    def _run(self, prepared: Prepared, progress: Progress | None) -> tuple[F32Array, F32Array]:
        """(n, v, u) probabilities and (n,) class logits of the analysed slices."""
        total = len(prepared)
        size = prepared.config.size
        prob = np.empty((total, size, size), dtype=np.float32)
        logits = np.empty(total, dtype=np.float32)
        first = 0
        while first < total:
            last = min(first + self._batch, total)
            try:
                outputs = self._engine(prepared.images(first, last))
            except torch.OutOfMemoryError:
                self._shrink()
                continue
            prob[first:last], logits[first:last] = outputs
            first = last
            if progress is not None:
                progress(first, total)
        return prob, logits

    def _shrink(self) -> None:
        """After a GPU ran out of memory: half the batch, and the CPU when one image is too much."""
        torch.cuda.empty_cache()
        if self._batch > 1:
            self._batch //= 2
            log.warning("gpu_out_of_memory batch=%d", self._batch)
            return
        log.warning("gpu_out_of_memory device=cpu")
        self.device, self._batch = "cpu", CPU_BATCH
        self._engine = make_engine(
            self.bundle.make_network(), "auto", device="cpu", threads=self._threads, cache=self._cache
        )
