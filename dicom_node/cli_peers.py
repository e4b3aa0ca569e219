"""Commands that speak to other nodes: `dicom-node echo` and `dicom-node send`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from dicom_node import scu
from dicom_node.cli_options import COULD_NOT, AsJson, the_config
from dicom_node.cli_output import console, print_json, print_list
from dicom_node.config import Config
from dicom_node.config_peers import DestinationConfig, TlsConfig
from dicom_node.errors import DeliveryError, NotFound
from dicom_node.transport import Answer, Outgoing, outgoing
from dicom_node.transports import transport_of

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
"""Media Storage Directory: the class of a DICOMDIR (PS3.3 F)."""


def echo(
    name: Annotated[str | None, typer.Argument(help="A destination of config.toml; else all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask one destination or all whether they answer: C-ECHO, or a search for one study (QIDO-RS)."""
    config = the_config()
    wanted = [d for d in config.delivery.destination if name in (None, d.name)]
    if name and not wanted:
        raise NotFound(f"config has no [[delivery.destination]] called {name!r}")
    rows = [_echo_row(destination, config) for destination in wanted]
    print_list("echo", rows, as_json=as_json)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(COULD_NOT)


def _echo_row(destination: DestinationConfig, config: Config) -> dict[str, Any]:
    row = {"destination": destination.name, "address": destination.address}
    try:
        return {**row, "ok": True, "answer": transport_of(destination).echo(destination, config.node)}
    except DeliveryError as error:
        return {**row, "ok": False, "answer": str(error)}


def send(
    folder: Annotated[Path, typer.Argument(exists=True, help="A DICOM file or a folder of them.")],
    host: Annotated[str, typer.Option(help="Where to; default: this node's own listener.")] = "",
    port: Annotated[int, typer.Option(help="Where to; default: this node's own listener.")] = 0,
    called: Annotated[str, typer.Option(help="Called AE title; default: this node's.")] = "",
    calling: Annotated[str, typer.Option(help="Calling AE title.")] = "DICOMNODE",
    as_json: AsJson = False,
) -> None:
    """Send files by C-STORE, with a progress bar. Exit 1 when any was not taken."""
    config = the_config()
    destination = _send_to(config, host=host, port=port, called=called, calling=calling)
    files, skipped = _dicom_files(folder)
    refused: list[Answer] = []
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("sending", total=len(files))

        def answered(answer: Answer) -> None:
            progress.advance(bar)
            if not answer.sent:
                refused.append(answer)

        scu.send(destination, config.node, files, answered)
    if as_json:
        not_taken = [{"file": str(files[answer.key].path), "error": answer.error} for answer in refused]
        print_json({"taken": len(files) - len(refused), "not_taken": not_taken, "not_dicom": skipped})
    else:
        for answer in refused[:10]:
            console.print(f"[red]not taken:[/] {escape(files[answer.key].path.name)}: {escape(answer.error)}")
        console.print(f"{len(files) - len(refused)} of {len(files)} files were taken; {skipped} were no DICOM objects")
    if refused or not files:
        raise typer.Exit(COULD_NOT)


def _send_to(config: Config, *, host: str, port: int, called: str, calling: str) -> DestinationConfig:
    """Where `send` sends: over TLS where that is this node's own listener and it has it. Raises typer.BadParameter."""
    tls = TlsConfig() if host or port else config.listener.tls
    try:
        return DestinationConfig(
            name="the node" if not (host or port) else "the peer",
            ae_title=called or config.node.ae_title,
            host=host or config.listener.host,
            port=port or config.listener.port,
            calling_ae_title=calling,
            tls=tls,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][-1]}: {first['msg']}") from error


def _dicom_files(folder: Path) -> tuple[list[Outgoing], int]:
    """DICOM files of objects below a folder, and how many files were something else (a DICOMDIR is no object)."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
    files: list[Outgoing] = []
    for path in paths:
        try:
            file = outgoing(len(files), path)
        except (DeliveryError, OSError):
            continue
        if file.sop_class_uid != MEDIA_DIRECTORY:
            files.append(file)
    return files, len(paths) - len(files)
