"""DCMTK: an independent C++ implementation as sender and as receiver.

With TCP_NODELAY=1, or Nagle's delay would rule its speed.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pydicom
from pydicom import uid

from tests.peers.presence import need, program
from tests.peers.process import HOST, Process, free_port, own_folder, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pydicom import Dataset

PROPOSE = {
    uid.ExplicitVRLittleEndian: "-xe",
    uid.ImplicitVRLittleEndian: "-xi",
    uid.DeflatedExplicitVRLittleEndian: "-xd",
    uid.JPEGLosslessSV1: "-xs",
    uid.JPEGLSLossless: "-xt",
    uid.JPEG2000Lossless: "-xv",
    uid.JPEG2000: "-xw",
    uid.RLELossless: "-xr",
}
"""Transfer syntax -> storescu's option that proposes it. JPEG Lossless .57 has none: use `dcmsend`."""


VERIFICATION = "1.2.840.10008.1.1"
ACCEPT = [*PROPOSE, uid.JPEGLossless, uid.JPEGLSNearLossless]
"""What storescp accepts when it is told the SOP classes."""


def run(
    tool: str, *arguments: object, check: bool = True, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Runs one DCMTK program to its end; stdout and stderr together in `stdout`.

    Raises:
        AssertionError: `check` and an exit status other than 0; the output is in the message.
    """
    need("dcmtk")
    done = subprocess.run(
        [program(tool), *(str(argument) for argument in arguments)],
        env={**os.environ, "TCP_NODELAY": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    assert not (check and done.returncode), f"{tool} ended with {done.returncode}:\n{done.stdout}"
    return done


def echoscu(
    port: int, *, host: str = HOST, calling: str = "ECHOSCU", called: str = "ANY-SCP", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """C-ECHO."""
    return run("echoscu", "-v", "-aet", calling, "-aec", called, host, port, check=check)


def storescu(
    files: Sequence[Path],
    port: int,
    *,
    host: str = HOST,
    calling: str = "STORESCU",
    called: str = "ANY-SCP",
    transfer_syntax: str | None = None,
    options: Sequence[str] = (),
    check: bool = True,
    timeout_s: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """C-STORE of files and folders in one association; a response other than success fails it when `check`.

    `-R` proposes just the SOP classes of the files: the default list lacks Comprehensive 3D SR.
    """
    propose = [PROPOSE[uid.UID(transfer_syntax)]] if transfer_syntax else []
    return run(
        "storescu", "-v", "-R", *propose, *options, "+sd", "+r", "-aet", calling, "-aec", called, host, port, *files,
        check=check, timeout_s=timeout_s,
    )  # fmt: skip


def dcmsend(
    files: Sequence[Path],
    port: int,
    *,
    host: str = HOST,
    calling: str = "DCMSEND",
    called: str = "ANY-SCP",
    options: Sequence[str] = (),
    check: bool = True,
    timeout_s: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """C-STORE of files and folders of any SOP class, each in the transfer syntax it has."""
    return run(
        "dcmsend", "-v", "+sd", "+r", "--decompress-never", *options, "-aet", calling, "-aec", called, host, port,
        *files, check=check, timeout_s=timeout_s,
    )  # fmt: skip


class StoreScp:
    """DCMTK's storescp: writes what it gets into `folder`, bit by bit."""

    def __init__(
        self,
        *,
        ae_title: str = "STORESCP",
        accepts: Sequence[str] | None = None,
        options: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        """What it is to do.

        accepts: SOP Class UIDs; any other gets no presentation context. Without it every storage class that DCMTK
            knows, in every transfer syntax but JPEG Lossless .57, which it takes only if it is told the classes.
        options: added to the command line, e.g. `("--refuse",)`, `("--sleep-after", "1")`, `("--abort-during",)`.
        """
        need("dcmtk")
        self.ae_title, self.host, self.port = ae_title, HOST, port or free_port()
        home = own_folder("storescp")
        self.folder = home / "received"
        self.folder.mkdir()
        accepting = ["+xa"] if accepts is None else ["-xf", str(_profile(home, accepts)), "Only"]
        self.process = Process(
            [
                program("storescp"), "-v", "-aet", ae_title, *accepting, "+B", "-od", self.folder, *options,
                str(self.port),
            ],
            name="storescp",
            folder=home,
        )  # fmt: skip

    def start(self) -> Self:
        """Starts it and waits until it answers C-ECHO (or refuses it, where it was told to)."""
        self.process.start()

        def answers() -> bool:
            done = run("echoscu", "-v", HOST, self.port, check=False)
            return done.returncode == 0 or "Association Rejected" in done.stdout

        wait_until(answers, what="storescp answers", process=self.process)
        return self

    def stop(self) -> None:
        """Ends it; what it received stays."""
        self.process.stop()

    @contextmanager
    def out_of_space(self) -> Iterator[None]:
        """Meanwhile it cannot write and answers each C-STORE with 0xA700."""
        away = self.folder.with_name("away")
        self.folder.rename(away)
        try:
            yield
        finally:
            away.rename(self.folder)

    def files(self) -> list[Path]:
        """What it received, by name (modality, dot, SOP Instance UID)."""
        return sorted(self.folder.iterdir())

    def datasets(self) -> list[Dataset]:
        """What it received, read."""
        return [pydicom.dcmread(path) for path in self.files()]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class QueryScp:
    """DCMTK's dcmqrscp: keeps what it gets and answers C-FIND about it. It knows no storage commitment."""

    def __init__(self, *, ae_title: str = "QRSCP") -> None:
        need("dcmtk")
        self.ae_title, self.host, self.port = ae_title, HOST, free_port()
        home = own_folder("dcmqrscp")
        storage = home / "storage"
        storage.mkdir()
        tables = "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        aes = f"AETable BEGIN\n{ae_title} {storage} RW (100, 64mb) ANY\nAETable END\n"
        configuration = home / "dcmqrscp.cfg"
        limits = f"NetworkTCPPort = {self.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        configuration.write_text(f"{limits}{tables}{aes}")
        self.process = Process([program("dcmqrscp"), "-v", "-c", configuration], name="dcmqrscp", folder=home)

    def __enter__(self) -> Self:
        self.process.start()
        wait_until(
            lambda: echoscu(self.port, called=self.ae_title, check=False).returncode == 0,
            what="dcmqrscp answers",
            process=self.process,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()


def _profile(home: Path, sop_classes: Sequence[str]) -> Path:
    """An association configuration file (DCMTK's asconfig.txt) with one profile named Only."""
    syntaxes = [f"TransferSyntax{number} = {syntax}" for number, syntax in enumerate(ACCEPT, start=1)]
    wanted = [VERIFICATION, *sop_classes]
    contexts = [f"PresentationContext{number} = {one}\\Any" for number, one in enumerate(wanted, start=1)]
    path = home / "storescp.cfg"
    path.write_text(
        "\n".join(
            [
                "[[TransferSyntaxes]]", "[Any]", *syntaxes,
                "[[PresentationContexts]]", "[Wanted]", *contexts,
                "[[Profiles]]", "[Only]", "PresentationContexts = Wanted", "",
            ]
        )
    )  # fmt: skip
    return path
