"""Which peers this machine has. A missing one skips a test by name; in CI (environment variable CI) it fails it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

MISSING_PREFIX = "Peer missing: "
PROGRAMS = {
    "chromium": ("chromium",),
    "dcmqi": ("segimage2itkimage", "tid1500reader"),
    "dcmtk": ("storescu", "storescp", "dcmsend", "dcmqrscp", "echoscu", "dcmcjpeg"),
    "dicom3tools": ("dciodvfy", "dcentvfy"),
    "ohif": ("@ohif/app",),
    "orthanc": ("Orthanc", "libOrthancDicomWeb.so"),
    "pixelmed": ("java", "pixelmed.jar"),
    "postgresql": ("initdb", "postgres"),
    "rabbitmq": ("rabbitmq-server", "rabbitmqctl", "epmd"),
    "redis": ("redis-server",),
}
"""Peer -> the programs (plugins, npm packages) that it takes; `make peers` installs them."""
FOLDERS = (
    "/usr/bin",  # before the environment, where pynetdicom has programs of DCMTK's names
    # RabbitMQ: the scripts in /usr/sbin accept only root and the user rabbitmq, those in /usr/lib anybody.
    "/usr/lib/rabbitmq/bin",
    "/usr/sbin",
    "/usr/share/java",
    "/usr/share/orthanc/plugins",
    *sorted((str(folder) for folder in Path("/usr/lib/postgresql").glob("*/bin")), reverse=True),
    str(Path(__file__).parents[2] / "build" / "viewer" / "node_modules"),
)


OWN_PROGRAMS = Path(sys.executable).parent
"""pynetdicom puts a storescu, a storescp and an echoscu of its own there: not the independent peers that are meant."""


def find(name: str) -> Path | None:
    """Where a program or plugin is, Debian's own folders first; None where it is not."""
    if name in PROGRAMS["dcmqi"]:  # a wheel of this environment
        return path if (path := OWN_PROGRAMS / name).exists() else None
    path_variable = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    for folder in (*FOLDERS, *path_variable):
        if Path(folder).resolve() != OWN_PROGRAMS.resolve() and (path := Path(folder, name)).exists():
            return path
    return None


def program(name: str) -> Path:
    """The path of a program that `need` has found to be there."""
    path = find(name)
    assert path is not None, f"{name} is not installed: make peers"
    return path


def absent(peer: str) -> list[str]:
    """The programs of this peer that are not installed."""
    return [name for name in PROGRAMS[peer] if find(name) is None]


def need(*peers: str) -> None:
    """Skips the running test by the name of the first peer that is not there; fails it in CI."""
    for peer in peers:
        if names := absent(peer):
            reason = f"{MISSING_PREFIX}{peer} (no {', '.join(names)}; make peers)"
            if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
