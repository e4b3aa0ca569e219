"""Logs: one line for machines, ids kept, nothing of the patient whatever a library says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging, warnings
import structlog
from pydicom.dataset import Dataset
from dicom_node.config_sections import LoggingConfig
from dicom_node import logs
logs.configure(LoggingConfig(format="{format}", level="{level}"))
log = structlog.get_logger()
"""


def said(body: str, format_: str = "json", level: str = "info") -> list[str]:
    """The lines on standard error of a process that logs; nothing goes to standard output."""
    program = PROGRAM.format(format=format_, level=level) + body
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    return ran.stderr.splitlines()


def test_each_line_is_json_with_its_ids() -> None:
    """Bound once for a whole job; times are UTC."""
    (line,) = said("with structlog.contextvars.bound_contextvars(job_id=7): log.info('job ended', state='SUCCEEDED')")
    told = json.loads(line)
    assert {**told, "timestamp": ""} == {
        "event": "job ended", "state": "SUCCEEDED", "job_id": 7, "level": "info", "timestamp": "",
    }  # fmt: skip
    assert told["timestamp"].endswith("Z")


def test_what_libraries_log_is_json_too() -> None:
    """One format for the machine that collects it; informational chatter is left out."""
    (line,) = said("logging.getLogger('sqlalchemy.pool').error('lost %s', 'it'); logging.getLogger('x').info('no')")
    told = json.loads(line)
    assert (told["event"], told["level"], told["logger"]) == ("lost it", "error", "sqlalchemy.pool")


def test_levels() -> None:
    """As configured."""
    assert len(said("log.debug('a'); log.info('b'); log.warning('c')", level="warning")) == 1
    assert len(said("log.debug('a'); log.info('b')", format_="console", level="debug")) == 2


@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_log_that_cannot_be_written_is_lost_and_nothing_else(format_: str) -> None:
    """Standard error on a full disk: the supervisor ended, and an association without its end being noted."""
    program = PROGRAM.format(format=format_, level="info") + "log.info('a'); log.error('b' * 10_000)\nprint('goes on')"
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=False)
    assert ran.stdout == b"goes on\n"


def test_no_value_of_a_dataset_is_logged() -> None:
    """pydicom quotes the value that it warns about, in warnings, in logs and in exceptions."""
    body = """
ds = Dataset()
ds.PatientBirthDate = "1950-0101x"
warnings.warn("Invalid value for VR DA: '19500101x'")
logging.getLogger("pydicom").warning("Patient's name is Doe^John")
try:
    try:
        int("Doe^John")
    except ValueError as error:
        raise KeyError("19500101") from error
except KeyError:
    log.exception("store failed", job_id=7)
"""
    lines = said(body)
    text = "\n".join([*lines, *said(body, "console")])
    assert text.count("store failed") == 2
    assert not any(secret in text for secret in ("Doe", "19500101", "1950-0101"))
    told = json.loads(lines[-1])
    inner, cause = told["exception"].splitlines()[0], told["exception"].splitlines()[1]
    assert inner.startswith("builtins.KeyError at ")
    assert ":" in inner.split(" at ")[1]
    assert cause.startswith("builtins.ValueError at ")


def test_an_exception_that_is_given_is_traced_too() -> None:
    """As the task boundary of a worker does."""
    body = "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    error = e\n"
    with_error, without = said(body + "log.error('x', exc_info=error); log.error('x', exc_info=None)")
    assert json.loads(with_error)["exception"].startswith("builtins.ZeroDivisionError at ")
    assert "exception" not in json.loads(without)
