"""`python -m worker [--config FILE]`: one worker process, taking one job at a time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import structlog

from dicom_node import logs
from dicom_node.config import load_config
from dicom_node.errors import ConfigError
from dicom_node.service import end_with_supervisor
from ml.errors import BundleError, DeviceError
from worker import tasks
from worker.app import make_app
from worker.runtime import make_runtime

WRONG_CONFIGURATION = 2


def main() -> None:
    """Load the network, then take jobs until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--config", type=Path, help="config.toml; else $DICOM_NODE_CONFIG, else ./config.toml")
    try:
        config = load_config(parser.parse_args().config)
        logs.configure(config.logging)
        end_with_supervisor()
        runtime = make_runtime(config)
        runtime.predictor.warm_up()
    except (ConfigError, BundleError, DeviceError) as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        sys.exit(WRONG_CONFIGURATION)
    structlog.get_logger().info("worker ready", worker=runtime.worker, bundle=runtime.predictor.bundle.identity.name)
    app = make_app(config)
    tasks.register(app, runtime)
    app.Worker(
        pool="solo", concurrency=1, quiet=True, loglevel="ERROR",
        without_gossip=True, without_mingle=True, without_heartbeat=True,
    ).start()  # fmt: skip


if __name__ == "__main__":
    main()
