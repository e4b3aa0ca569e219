"""The admin CLI `dicom-node`: tables for people, `--json` for machines.

Exit codes: 0 done; 1 it could not be done; 2 wrong usage or configuration; 3 done, but the answer is "no"
(a ledger that does not balance, a check that found something, no series to read).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from sqlalchemy.exc import DBAPIError

from dicom_node import deliveries, doctor, jobs, logs, registry, reports, retention, rules_trial, schema, scu, service
from dicom_node.archive import FolderArchive
from dicom_node.cli_output import cell, console, print_done, print_json, print_list, print_rows
from dicom_node.config import Config, load_config
from dicom_node.config_peers import DestinationConfig, TlsConfig
from dicom_node.conformance import statement
from dicom_node.db import Database, make_engine
from dicom_node.eligibility import explain
from dicom_node.errors import ConfigError, DeliveryError, NodeError, NotFound, NotPossible
from dicom_node.section import MOST_DAYS
from dicom_node.states import DeliveryState, JobState
from dicom_node.transport import Answer, Outgoing, outgoing
from dicom_node.transports import transport_of

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
db_app = typer.Typer(no_args_is_help=True, help="The database schema.")
rules_app = typer.Typer(no_args_is_help=True, help="The rules that choose the series to read.")
app.add_typer(db_app, name="db")
app.add_typer(rules_app, name="rules")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
MOST_ROWS = 2**31 - 1
"""Rows are numbered and counted by a database's INTEGER."""
Limit = Annotated[int, typer.Option(min=0, max=MOST_ROWS, help="At most so many rows.")]
JobNumber = Annotated[int, typer.Argument(min=0, max=MOST_ROWS, help="The number of a job.")]

COULD_NOT, WRONG_USAGE, ANSWER_IS_NO = 1, 2, 3
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
"""Media Storage Directory: the class of a DICOMDIR (PS3.3 F)."""


class Chosen:
    """The configuration file named on the command line."""

    path: Path | None = None


@app.callback()
def _options(
    config: Annotated[
        Path | None, typer.Option(help="config.toml to use; else $DICOM_NODE_CONFIG, else ./config.toml")
    ] = None,
) -> None:
    Chosen.path = config


def _config() -> Config:
    config = load_config(Chosen.path)
    logs.configure(config.logging)
    return config


def _database(config: Config) -> Database:
    engine = make_engine(config.database)
    schema.make_ready(engine)
    return Database(engine)


@app.command()
def serve(
    role: Annotated[str, typer.Option(help="all, listener or sweeper")] = "all",
) -> None:
    """Run the node: listener, sweeper and workers, each in its own process, started again when it dies."""
    config = _config()
    runners: dict[str, Callable[[], None]] = {
        "all": lambda: service.Supervisor(config, Chosen.path).run(service.stop_event()),
        "listener": lambda: service.run_listener(config),
        "sweeper": lambda: service.run_sweeper(config),
    }
    if role not in runners:
        raise typer.BadParameter(f"--role is one of {', '.join(runners)}")
    runners[role]()


@app.command()
def worker() -> None:
    """Run one worker in the foreground (more machines: one `dicom-node worker` on each GPU)."""
    _config()
    with_config = ["--config", str(Chosen.path)] if Chosen.path else []
    # In place of this process: signals and the exit code are the worker's own.
    os.execv(sys.executable, [sys.executable, "-m", "worker", *with_config])  # noqa: S606  (no shell is wanted)


@app.command()
def status(as_json: AsJson = False) -> None:
    """The ledger: where every study, result and delivery is. Exit 3 when it does not balance."""
    with _database(_config()).reading() as session:
        ledger = reports.ledger(session)
    if as_json:
        print_json(ledger)
    else:
        counts = [
            {"of": part, "where": name.replace("_", " "), "count": count}
            for part in ("studies", "instances", "results", "removed", "deliveries")
            for name, count in ledger[part].items()
        ]
        print_rows("ledger", counts)
        waiting, unconfirmed = ledger["oldest_waiting_s"], ledger["confirmation"]
        if unconfirmed["waiting"]:
            count, longest = unconfirmed["waiting"], unconfirmed["longest_wait_s"]
            console.print(f"deliveries that wait to be confirmed: {count}; the oldest for {longest} s")
        peers = ledger["commitments_asked_by_peers"]
        if peers["owed"] or peers["given_up"]:
            console.print(f"commitment reports that peers wait for: {peers['owed']}; given up: {peers['given_up']}")
        console.print(f"open associations: {ledger['open_associations']}; oldest waiting job: {waiting or 0} s")
        console.print("[green]the ledger balances[/]" if ledger["balances"] else "[red]the ledger does not balance[/]")
    if not ledger["balances"]:
        raise typer.Exit(ANSWER_IS_NO)


@app.command()
def studies(limit: Limit = 20, as_json: AsJson = False) -> None:
    """The latest studies."""
    with _database(_config()).reading() as session:
        print_list("studies", reports.studies(session, limit=limit), as_json=as_json)


@app.command()
def show(study_instance_uid: str, as_json: AsJson = False) -> None:
    """Everything about one study: series and why, jobs, results, deliveries, history."""
    with _database(_config()).reading() as session:
        study = reports.show(session, study_instance_uid)
    if as_json:
        print_json(study)
        return
    for key, value in study.items():
        if not isinstance(value, list):
            console.print(f"{key.replace('_', ' '):20} {cell(value)}", markup=False)
    print_rows("series", study["series"])
    for job in study["jobs"]:
        print_rows(
            f"job {job['job']}",
            [{k: v for k, v in job.items() if k not in ("results", "summary", "study_instance_uid")}],
        )
        print_rows("deliveries", [d for result in job["results"] for d in result["deliveries"]])
        if job["summary"]:
            console.print(job["summary"].get("line", ""), markup=False)
            print_rows("lesions", reports.lesions(job))
    print_rows("history", [{"at": e["at"], "event": e["event"], "detail": _short(e)} for e in study["history"]])


@app.command("jobs")
def list_jobs(
    state: Annotated[JobState | None, typer.Option(case_sensitive=False, help="Only this state.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """The latest jobs."""
    with _database(_config()).reading() as session:
        rows = reports.jobs(session, state=state, limit=limit)
    short = [{key: value for key, value in row.items() if key not in ("summary", "series_reason")} for row in rows]
    print_list("jobs", rows if as_json else short, as_json=as_json)


@app.command()
def retry(job: JobNumber, as_json: AsJson = False) -> None:
    """Run a failed, quarantined, cancelled or rejected job again. Where no series was eligible, choose again."""
    print_done({"job": job, "done": jobs.retry(_database(_config()), job)}, as_json=as_json)


@app.command()
def cancel(job: JobNumber, as_json: AsJson = False) -> None:
    """Cancel a queued or running job; what its worker does after that is thrown away."""
    jobs.cancel(_database(_config()), job, why="cancelled by an administrator")
    print_done({"job": job, "done": "it is cancelled"}, as_json=as_json)


@app.command()
def deliver(
    delivery: Annotated[
        int | None, typer.Argument(min=0, max=MOST_ROWS, help="One delivery; else all that are dead or waiting.")
    ] = None,
    destination: Annotated[str | None, typer.Option(help="Only those for this destination.")] = None,
    show_only: Annotated[bool, typer.Option("--list", help="List, change nothing.")] = False,
    state: Annotated[
        DeliveryState | None, typer.Option(case_sensitive=False, help="With --list: only this state.")
    ] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Try dead or waiting deliveries again now; or list deliveries."""
    config = _config()
    database = _database(config)
    if show_only:
        with database.reading() as session:
            rows = reports.deliveries(session, state=state, destination=destination, limit=limit)
        print_list("deliveries", rows, as_json=as_json)
        return
    count = deliveries.restart(database, delivery_id=delivery, destination=destination)
    if destination is not None and count == 0 and config.destination(destination) is None:
        raise NotFound(f"config has no [[delivery.destination]] called {destination!r}, and nothing waits there")
    if delivery is not None and count == 0:
        raise NotPossible(f"delivery {delivery} is not dead or waiting; see `dicom-node deliver --list`")
    print_done({"deliveries": count, "done": "they will be tried now"}, as_json=as_json)


@app.command()
def purge(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and what would not.")] = False,
    images_days: Annotated[
        float | None, typer.Option(min=0, max=MOST_DAYS, help="Instead of retention.images_days; 0: no images.")
    ] = None,
    results_days: Annotated[
        float | None, typer.Option(min=0, max=MOST_DAYS, help="Instead of retention.results_days; 0: no results.")
    ] = None,
    transactions_days: Annotated[
        float | None,
        typer.Option(min=0, max=MOST_DAYS, help="Instead of retention.transactions_days; 0: no transactions."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove now what retention lets go: old images and results of settled studies, transactions that are over."""
    config = _config()
    given = {"images_days": images_days, "results_days": results_days, "transactions_days": transactions_days}
    rules = config.retention.model_copy(update={key: days for key, days in given.items() if days is not None})
    if not any((rules.images_days, rules.results_days, rules.transactions_days)):
        kept = "names no days" if rules.make_room_below_bytes else "keeps everything"
        raise NotPossible(f"[retention] {kept}; set a number of days there, or give --images-days")
    database = _database(config)
    with database.reading() as session:
        plan = retention.plan(session, rules)
    removed = plan.removed
    if not dry_run:
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("removing", total=removed.size_bytes)
            archive = FolderArchive(config.archive_dir)
            tell = lambda amount: progress.advance(bar, amount.size_bytes)  # noqa: E731
            removed = retention.purge(database, archive, rules, progress=tell)
    if as_json:
        print_json({"removed" if not dry_run else "would_be_removed": asdict(removed), "kept": plan.kept})
        return
    verb = "would be removed" if dry_run else "were removed"
    console.print(
        f"images of {removed.studies} studies ({removed.instances} instances) and {removed.results} result files, "
        f"{removed.size_bytes / 1e9:.2f} GB in all, {removed.pictures} pictures of results and "
        f"{removed.transactions} commitment transactions {verb}"
    )
    for why, count in plan.kept.items():
        console.print(f"old enough, but kept: {count} studies ({why})")


@app.command()
def echo(
    name: Annotated[str | None, typer.Argument(help="A destination of config.toml; else all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask one destination or all whether they answer: C-ECHO, or a search for one study (QIDO-RS)."""
    config = _config()
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


@app.command()
def send(
    folder: Annotated[Path, typer.Argument(exists=True, help="A DICOM file or a folder of them.")],
    host: Annotated[str, typer.Option(help="Where to; default: this node's own listener.")] = "",
    port: Annotated[int, typer.Option(help="Where to; default: this node's own listener.")] = 0,
    called: Annotated[str, typer.Option(help="Called AE title; default: this node's.")] = "",
    calling: Annotated[str, typer.Option(help="Calling AE title.")] = "DICOMNODE",
    as_json: AsJson = False,
) -> None:
    """Send files by C-STORE, with a progress bar. Exit 1 when any was not taken."""
    config = _config()
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


@rules_app.command("test")
def rules_test_command(folder: Annotated[Path, typer.Argument(exists=True)], as_json: AsJson = False) -> None:
    """Say which series of a folder would be read, and why, without running anything. Exit 3 when none would."""
    choice = rules_trial.choose_in(folder, _config().eligibility)
    if as_json:
        series = [asdict(verdict) for verdict in choice.verdicts]
        print_json({"chosen": choice.chosen, "code": choice.code, "sentence": choice.sentence, "series": series})
    else:
        print_rows("series", explain(choice))
        console.print(choice.sentence or "", markup=False)
    if choice.chosen is None:
        raise typer.Exit(ANSWER_IS_NO)


@app.command()
def bundles(as_json: AsJson = False) -> None:
    """The bundles (weights with config and metrics) that can be used; the one in use is marked."""
    print_list("bundles", registry.bundles(_config().worker.bundle), as_json=as_json)


@app.command("doctor")
def run_doctor(as_json: AsJson = False) -> None:
    """Check disk, database, broker, destinations, certificates, bundle and decoders. Exit 3 when something is wrong."""
    findings = doctor.examine(_config())
    print_list("doctor", [asdict(finding) for finding in findings], as_json=as_json)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(ANSWER_IS_NO)


@app.command("check-config")
def check_config(as_json: AsJson = False) -> None:
    """Read the configuration and say what is wrong with it, with line numbers; or print it as it is understood."""
    config = load_config(Chosen.path)
    if as_json:
        print_json(config.shown())
    else:
        valid = f"the configuration is valid; AE title {config.node.ae_title}, data in {config.node.data_dir}"
        console.print(valid, markup=False)


@app.command()
def conformance() -> None:
    """Print the DICOM conformance statement of this node as configured (Markdown)."""
    sys.stdout.write(statement(load_config(Chosen.path)))


@db_app.command("upgrade")
def db_upgrade(
    revision: Annotated[str, typer.Argument(help="A revision; default: what this release needs.")] = "head",
    as_json: AsJson = False,
) -> None:
    """Bring the schema to this release (or to a revision)."""
    engine = make_engine(_config().database)
    schema.upgrade(engine, revision)
    print_done({"done": "the schema is ready", "revision": schema.current(engine)}, as_json=as_json)


@db_app.command("downgrade")
def db_downgrade(
    revision: Annotated[str, typer.Argument(help="A revision; `base` is the empty database.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Rows of tables that go are lost: say that this is meant.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take the schema back to a revision. Rows of the tables that go are lost."""
    if not yes:
        raise typer.BadParameter("this deletes rows for good; add --yes if it is meant")
    engine = make_engine(_config().database)
    schema.downgrade(engine, revision)
    print_done({"done": "the schema was taken back", "revision": schema.current(engine)}, as_json=as_json)


@db_app.command("check")
def db_check(as_json: AsJson = False) -> None:
    """Compare the database with what this release expects. Exit 3 when they differ."""
    engine = make_engine(_config().database)
    have, need, differences = schema.current(engine), schema.newest(engine), schema.drift(engine)
    if as_json:
        print_json({"revision": have, "needs": need, "drift": differences})
    else:
        needed = "as this release needs it" if have == need else f"but this release needs {need}"
        console.print("\n".join([f"revision {have}, {needed}", *differences]), markup=False)
    if differences or have != need:
        raise typer.Exit(ANSWER_IS_NO)


def _short(event: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("at", "event"))


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    """Every expected error ends as one sentence on standard error and an exit code."""
    error_console = Console(stderr=True, emoji=False)  # ":100:" is a line of config.toml
    try:
        yield
    except ConfigError as error:
        error_console.print(f"[red]configuration:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(WRONG_USAGE)
    except NodeError as error:
        error_console.print(f"[red]{error.code}:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(COULD_NOT)
    except DBAPIError as error:
        error_console.print(f"[red]DATABASE_UNREACHABLE:[/] {type(error).__name__}; try `dicom-node doctor`")
        sys.exit(COULD_NOT)


def main() -> None:
    """Entry point of `dicom-node`."""
    with _errors_as_sentences():
        app()
