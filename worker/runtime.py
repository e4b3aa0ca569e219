"""What a worker process makes once and keeps: configuration, database, and the network on its device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dicom_node.config import Config
from dicom_node.db import Database, make_engine
from dicom_node.service import WORKER_ID, process_name
from ml.bundle import load_bundle
from ml.inference.predictor import Predictor


@dataclass(frozen=True, eq=False)
class Runtime:
    """The state of one worker process."""

    config: Config
    database: Database
    worker: str
    """The name in the rows of its jobs; the supervisor knows it too and releases them when the process dies."""

    @property
    def archive_dir(self) -> Path:
        """Where source files and results lie."""
        return self.config.archive_dir

    @cached_property
    def predictor(self) -> Predictor:
        """The network, loaded on first use. Raises BundleError and DeviceError."""
        settings = self.config.worker
        bundle = load_bundle(settings.bundle)
        if settings.exam_threshold:
            bundle = bundle.calling_from(settings.exam_threshold)
        return Predictor(
            bundle,
            device=settings.device,
            engine=settings.engine,
            threads=settings.threads or None,
            cache_dir=self.config.node.data_dir / "cache",
        )


def make_runtime(config: Config) -> Runtime:
    """A runtime for this process."""
    name = os.environ.get(WORKER_ID) or process_name("worker")
    return Runtime(config, Database(make_engine(config.database)), name)
