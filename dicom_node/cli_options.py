"""What every command of the admin CLI reads: its common options, and the configuration that was named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node import logs, schema
from dicom_node.config import Config, load_config
from dicom_node.db import Database, make_engine

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
MOST_ROWS = 2**31 - 1
"""Rows are numbered and counted by a database's INTEGER."""
Limit = Annotated[int, typer.Option(min=0, max=MOST_ROWS, help="At most so many rows.")]
JobNumber = Annotated[int, typer.Argument(min=0, max=MOST_ROWS, help="The number of a job.")]

COULD_NOT, WRONG_USAGE, ANSWER_IS_NO = 1, 2, 3


class Chosen:
    """The configuration file named on the command line."""

    path: Path | None = None


def the_config() -> Config:
    """The configuration, with logs set up as it says. Raises ConfigError."""
    config = load_config(Chosen.path)
    logs.configure(config.logging)
    return config


def the_database(config: Config) -> Database:
    """Its database, with the schema of this release. Raises as `schema.make_ready`."""
    engine = make_engine(config.database)
    schema.make_ready(engine)
    return Database(engine)
