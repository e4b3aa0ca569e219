"""Certificates for tests: a CA, what it signed for this machine, and a stranger that signed itself."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def openssl(*arguments: object) -> None:
    """Run openssl."""
    subprocess.run(["openssl", *(str(one) for one in arguments)], check=True, capture_output=True)


def make_certificates(folder: Path, *names: str) -> Path:
    """`ca`, `stranger` and each of `names` as NAME.pem and NAME.key; valid for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    for name in ("ca", "stranger"):
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem",
        )  # fmt: skip
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName = IP:127.0.0.1\n")
    for name in names:
        request = folder / f"{name}.csr"
        openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key",
            "-out", request,
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", request, "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", extensions, "-out", folder / f"{name}.pem",
        )  # fmt: skip
    return folder
