"""Logging: key=value for people, JSON lines for machines, UTC, ids bound to the context.

No patient name, id or birth date is logged at any level; what libraries would log of datasets is silenced.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

import structlog

from dicom_node.config_sections import LoggingConfig

NOISY = ("pynetdicom", "pydicom", "celery", "kombu", "highdicom", "py.warnings")
"""What these log of datasets may hold what no log may hold; pydicom's warnings quote the value that they warn about."""


class _StandardError:
    """Where log lines go. One that cannot be written (a full disk, a reader that is gone) is lost, and nothing else.

    The standard library's handlers do the same; without it the node would refuse images for want of room in a log.
    """

    def write(self, text: str) -> None:
        """See TextIO."""
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """See TextIO."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def configure(config: LoggingConfig) -> None:
    """Set up structlog and the standard library's logging for this process. Logs go to standard error."""
    console = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _trace_without_values,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    level = logging.getLevelNamesMapping()[config.level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _StandardError())),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _trace_without_values(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Exceptions as types and places. Their messages may quote an attribute of the dataset at hand (pydicom's do)."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    elif isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = "\n".join(_trace(error))
    return event


def _trace(error: BaseException) -> Iterator[str]:
    """`Type at file:line in function < file:line in function ...`, innermost first; then what it came from."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    places = " < ".join(f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno} in {f.name}" for f in frames)
    yield f"{type(error).__module__}.{type(error).__qualname__} at {places or 'an unknown place'}"
    origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if origin is not None:
        yield from _trace(origin)
