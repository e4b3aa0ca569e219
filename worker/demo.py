"""The whole node in one command: `python -m worker.demo [--study FOLDER] --out FOLDER`.

A node with its embedded defaults and a PACS stand-in run on free loopback ports; one head CT goes in by C-STORE, SEG
and SR come back by C-STORE, as in a hospital. Without --study a simulated head CT with a bleed is sent.

Exit codes: 0 analysed; 1 failed; 2 wrong usage; 3 the study was rejected: OUT/summary.json says why, and OUT/sr.dcm
where the node could take a file of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dicom_node import reports, schema, scu
from dicom_node.config import Config, load_config
from dicom_node.config_peers import DestinationConfig
from dicom_node.config_sections import ListenerConfig
from dicom_node.db import Database, make_engine
from dicom_node.errors import DeliveryError, NotFound
from dicom_node.part10 import read_file
from dicom_node.states import DeliveryState, JobState
from dicom_node.tables import PICTURE
from dicom_node.transport import Answer, Outgoing, outgoing
from ml.phantom import draw_spec, simulate
from ml.phantom.dicom import write_study
from worker.pacs_stand_in import PacsStandIn

console = Console(soft_wrap=True, markup=False, emoji=False)  # names of folders and files may hold brackets

FAILED, WRONG_USAGE, REJECTED = 1, 2, 3
PATIENCE_S = 900.0
SIMULATED_SEED = 20_260_002
"""Far from the seeds of training and validation (ml/bundles/*/CARD.md)."""
ENDED = (JobState.SUCCEEDED, JobState.REJECTED, JobState.FAILED, JobState.QUARANTINED)


@dataclass(frozen=True)
class StudyToSend:
    """The files of one study, and what is known of it."""

    study_instance_uid: str
    files: tuple[Outgoing, ...]
    not_dicom: int
    truth_ml: float | None = None
    """Hemorrhage in the simulated head, mL."""


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--study", type=Path, help="a folder with one study; without it a simulated one")
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    if arguments.study and not arguments.study.is_dir():
        console.print(f"{arguments.study} is not a folder", style="red")
        sys.exit(WRONG_USAGE)
    sys.exit(run(arguments.study, arguments.out))


def run(study_folder: Path | None, out: Path) -> int:
    """One study through a whole node. The exit code."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("seg.dcm", "sr.dcm", "overlay.png", "summary.json"):
        (out / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="dicom-node-demo-") as scratch:
        study = _read_study(study_folder) if study_folder else _simulate(Path(scratch) / "simulated")
        if study is None:
            return _nothing_to_send(study_folder, out)
        with PacsStandIn(Path(scratch) / "pacs") as pacs:
            config = _write_config(Path(scratch), pacs, study)
            with _node(Path(scratch) / "config.toml", config, out / "node.log"):
                return _through_the_node(config, study, out)


def _read_study(folder: Path) -> StudyToSend | None:
    """The one study in a folder; None when it holds no DICOM file."""
    files: list[Outgoing] = []
    uids: dict[str, int] = {}
    not_dicom = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            uid = str(read_file(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True).StudyInstanceUID)
            files.append(outgoing(len(files), path))
        except (InvalidDicomError, AttributeError, EOFError, ValueError, DeliveryError):
            not_dicom += 1
            continue
        uids[uid] = uids.get(uid, 0) + 1
    if not files:
        return None
    if len(uids) > 1:
        console.print(f"{folder} holds {len(uids)} studies; give a folder with one", style="red")
        sys.exit(WRONG_USAGE)
    return StudyToSend(next(iter(uids)), tuple(files), not_dicom)


def _simulate(folder: Path) -> StudyToSend:
    """A simulated head CT with a bleed, with a localizer and a bone-kernel series, as DICOM files."""
    with console.status("simulating a head CT with a bleed"):
        exam = simulate(draw_spec(SIMULATED_SEED, institution="A", bleed=True))
        paths = write_study(exam, folder)
    uid = str(pydicom.dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)
    files = tuple(outgoing(number, path) for number, path in enumerate(paths))
    return StudyToSend(uid, files, 0, truth_ml=exam.hemorrhage_ml)


def _write_config(scratch: Path, pacs: PacsStandIn, study: StudyToSend) -> Config:
    """A config.toml for a node on free ports that sends to the stand-in; then read as any other."""
    classes = sorted({*ListenerConfig().sop_classes, *(file.sop_class_uid for file in study.files)})
    syntaxes = sorted({*ListenerConfig().transfer_syntaxes, *(file.transfer_syntax_uid for file in study.files)})
    path = scratch / "config.toml"
    path.write_text(
        f"""[node]
data_dir = "node"
[listener]
port = {_free_port()}
min_free_bytes = 200000000
sop_classes = {json.dumps(classes)}
transfer_syntaxes = {json.dumps(syntaxes)}
[completion]
quiet_s = 4.0
[logging]
format = "console"
[[delivery.destination]]
name = "pacs"
ae_title = "{pacs.ae_title}"
host = "127.0.0.1"
port = {pacs.port}
""",
        encoding="utf-8",
    )
    return load_config(path)


@contextmanager
def _node(config_path: Path, config: Config, log_path: Path) -> Iterator[None]:
    """`dicom-node serve` in its own processes until the block ends."""
    schema.make_ready(make_engine(config.database))
    with log_path.open("wb") as log:
        command = [sys.executable, "-m", "dicom_node", "--config", str(config_path), "serve"]
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603  (our own interpreter and file)
        try:
            _wait_for_listener(config, process, log_path)
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_listener(config: Config, process: subprocess.Popen[bytes], log_path: Path) -> None:
    """Until the node answers C-ECHO. Exits with FAILED when it never does."""
    with console.status("starting the node"):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                scu.echo(_node_address(config), config.node)
            except DeliveryError:
                time.sleep(0.2)
            else:
                return
    console.print(f"the node did not start; see {log_path}", style="red")
    process.terminate()
    sys.exit(FAILED)


def _through_the_node(config: Config, study: StudyToSend, out: Path) -> int:
    """Send, wait, collect, tell. The exit code."""
    taken = _send(config, study)
    if taken == 0:
        return _rejected(
            out, study.study_instance_uid, "NOTHING_TAKEN", "the node could not take any file of this study"
        )
    database = Database(make_engine(config.database))
    try:
        shown = _wait_for_result(database, study.study_instance_uid)
    except TimeoutError:
        console.print(f"no result after {PATIENCE_S:g} s; see {out / 'node.log'}", style="red")
        return FAILED
    return _collect(config, shown, study, out)


def _send(config: Config, study: StudyToSend) -> int:
    """C-STORE every file, with a bar. How many were taken."""
    taken = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("C-STORE to the node", total=len(study.files))

        def answered(answer: Answer) -> None:
            nonlocal taken
            taken += answer.sent
            progress.advance(bar)
            if not answer.sent:
                console.print(f"not taken: {study.files[answer.key].path.name}: {answer.error}", style="yellow")

        try:
            scu.send(_node_address(config), config.node, study.files, answered)
        except DeliveryError as error:
            console.print(str(error), style="yellow")
    if study.not_dicom:
        console.print(f"{study.not_dicom} files were not DICOM and were left out", style="yellow")
    return taken


def _wait_for_result(database: Database, study_instance_uid: str) -> dict[str, Any]:
    """The study as `dicom-node show` tells it, once it has ended and its results are sent. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        line = progress.add_task("waiting for the study to be complete")
        while time.monotonic() < deadline:
            try:
                with database.reading() as session:
                    shown = reports.show(session, study_instance_uid)
            except NotFound:
                time.sleep(0.1)
                continue
            progress.update(line, description=_where(shown))
            if _is_done(shown):
                return shown
            time.sleep(0.1)
    raise TimeoutError


def _where(shown: dict[str, Any]) -> str:
    """One line on where the study is."""
    if not shown["jobs"]:
        return f"{shown['instances']} instances received; waiting for the study to be complete"
    job = shown["jobs"][-1]
    return f"job {job['state'].lower()} ({job['slices']} slices; study complete by {shown['complete_reason']})"


def _is_done(shown: dict[str, Any]) -> bool:
    """True when there is an end: the job's, and that of every delivery."""
    if not shown["jobs"]:
        return bool(shown["state"] == "COMPLETE")
    job = shown["jobs"][-1]
    deliveries = [delivery for result in job["results"] for delivery in result["deliveries"]]
    waiting = any(delivery["state"] == DeliveryState.PENDING for delivery in deliveries)
    return bool(job["state"] in ENDED and not waiting)


def _collect(config: Config, shown: dict[str, Any], study: StudyToSend, out: Path) -> int:
    """Copy the results to OUT, write summary.json and print what a person wants to know."""
    job = shown["jobs"][-1] if shown["jobs"] else None
    if job is None:
        return _rejected(out, study.study_instance_uid, "NO_IMAGES", "the study holds no image to analyse")
    for result in job["results"]:
        if result["deliveries"] and all(one["state"] in reports.FORM_NOT_SENT for one in result["deliveries"]):
            continue
        shutil.copyfile(config.archive_dir / result["path"], out / f"{result['kind'].lower()}.dcm")
    if picture := job["summary"].get(PICTURE):
        shutil.copyfile(config.archive_dir / picture, out / "overlay.png")
    summary = {key: value for key, value in job["summary"].items() if key != PICTURE}
    if study.truth_ml is not None:
        summary["simulated_truth_ml"] = round(study.truth_ml, 3)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    for series in shown["series"]:
        chosen = series["chosen"]
        console.print(f"{'read    ' if chosen else 'not read'} {series['reason']}", style="green" if chosen else None)
    if job["state"] == JobState.SUCCEEDED:
        _print_finding(summary, study, out)
        return 0
    if job["state"] == JobState.REJECTED:
        why = f"{job['code']}: {job['text']}"
        console.print(f"not analysed: {why}; the SR that says so is {out / 'sr.dcm'}", style="yellow")
        return REJECTED
    console.print(f"the analysis failed: {job['code']}: {job['text']}; see {out / 'node.log'}", style="red")
    return FAILED


def _print_finding(summary: dict[str, Any], study: StudyToSend, out: Path) -> None:
    """The answer, beside the truth where it is known."""
    truth = f" (simulated truth {study.truth_ml:.1f} mL)" if study.truth_ml is not None else ""
    console.print(f"exam probability  {summary['exam_probability']:.3f}")
    console.print(f"hemorrhage        {summary['hemorrhage_ml']:.1f} mL{truth}")
    console.print(f"bundle            {summary['bundle']}: research use only, what it was trained on is in its card")
    console.print("seconds           " + ", ".join(f"{stage} {s:.2f}" for stage, s in summary["seconds"].items()))
    console.print(
        f"files             {', '.join(str(out / n) for n in ('seg.dcm', 'sr.dcm', 'overlay.png', 'summary.json'))}"
    )


def _nothing_to_send(folder: Path | None, out: Path) -> int:
    """A folder without DICOM."""
    return _rejected(out, None, "NO_IMAGES", f"{folder} holds no DICOM file")


def _rejected(out: Path, study_instance_uid: str | None, code: str, reason: str) -> int:
    """A summary for a study that never became a job."""
    summary = {"study_instance_uid": study_instance_uid, "rejected": code, "reason": reason}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    console.print(f"not analysed: {code}: {reason}", style="yellow")
    return REJECTED


def _node_address(config: Config) -> DestinationConfig:
    """The node itself, as a destination."""
    return DestinationConfig(
        name="node",
        ae_title=config.node.ae_title,
        host="127.0.0.1",
        port=config.listener.port,
        calling_ae_title="MODALITY",
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    main()
