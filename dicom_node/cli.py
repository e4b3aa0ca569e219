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
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from sqlalchemy.exc import DBAPIError

from dicom_node import (
    cli_db,
    cli_peers,
    deliveries,
    doctor,
    jobs,
    registry,
    reports,
    retention,
    rules_trial,
    service,
)
from dicom_node.archive import FolderArchive
from dicom_node.cli_options import (
    ANSWER_IS_NO,
    COULD_NOT,
    MOST_ROWS,
    WRONG_USAGE,
    AsJson,
    Chosen,
    JobNumber,
    Limit,
    the_config,
    the_database,
)
from dicom_node.cli_output import cell, console, print_done, print_json, print_list, print_rows
from dicom_node.config import load_config
from dicom_node.conformance import statement
from dicom_node.eligibility import explain
from dicom_node.errors import ConfigError, NodeError, NotFound, NotPossible
from dicom_node.section import MOST_DAYS
from dicom_node.states import DeliveryState, JobState

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
rules_app = typer.Typer(no_args_is_help=True, help="The rules that choose the series to read.")
app.add_typer(cli_db.app, name="db")
app.add_typer(rules_app, name="rules")


@app.callback()
def _options(
    config: Annotated[
        Path | None, typer.Option(help="config.toml to use; else $DICOM_NODE_CONFIG, else ./config.toml")
    ] = None,
) -> None:
    Chosen.path = config


@app.command()
def serve(
    role: Annotated[str, typer.Option(help="all, listener or sweeper")] = "all",
) -> None:
    """Run the node: listener, sweeper and workers, each in its own process, started again when it dies."""
    config = the_config()
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
    the_config()
    with_config = ["--config", str(Chosen.path)] if Chosen.path else []
    # In place of this process: signals and the exit code are the worker's own.
    os.execv(sys.executable, [sys.executable, "-m", "worker", *with_config])  # noqa: S606  (no shell is wanted)


@app.command()
def status(as_json: AsJson = False) -> None:
    """The ledger: where every study, result and delivery is. Exit 3 when it does not balance."""
    with the_database(the_config()).reading() as session:
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
    with the_database(the_config()).reading() as session:
        print_list("studies", reports.studies(session, limit=limit), as_json=as_json)


@app.command()
def show(study_instance_uid: str, as_json: AsJson = False) -> None:
    """Everything about one study: series and why, jobs, results, deliveries, history."""
    with the_database(the_config()).reading() as session:
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
    with the_database(the_config()).reading() as session:
        rows = reports.jobs(session, state=state, limit=limit)
    short = [{key: value for key, value in row.items() if key not in ("summary", "series_reason")} for row in rows]
    print_list("jobs", rows if as_json else short, as_json=as_json)


@app.command()
def retry(job: JobNumber, as_json: AsJson = False) -> None:
    """Run a failed, quarantined, cancelled or rejected job again. Where no series was eligible, choose again."""
    print_done({"job": job, "done": jobs.retry(the_database(the_config()), job)}, as_json=as_json)


@app.command()
def cancel(job: JobNumber, as_json: AsJson = False) -> None:
    """Cancel a queued or running job; what its worker does after that is thrown away."""
    jobs.cancel(the_database(the_config()), job, why="cancelled by an administrator")
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
    config = the_config()
    database = the_database(config)
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
    config = the_config()
    given = {"images_days": images_days, "results_days": results_days, "transactions_days": transactions_days}
    rules = config.retention.model_copy(update={key: days for key, days in given.items() if days is not None})
    if not any((rules.images_days, rules.results_days, rules.transactions_days)):
        kept = "names no days" if rules.make_room_below_bytes else "keeps everything"
        raise NotPossible(f"[retention] {kept}; set a number of days there, or give --images-days")
    database = the_database(config)
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


app.command()(cli_peers.echo)
app.command()(cli_peers.send)


@rules_app.command("test")
def rules_test_command(folder: Annotated[Path, typer.Argument(exists=True)], as_json: AsJson = False) -> None:
    """Say which series of a folder would be read, and why, without running anything. Exit 3 when none would."""
    choice = rules_trial.choose_in(folder, the_config().eligibility)
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
    print_list("bundles", registry.bundles(the_config().worker.bundle), as_json=as_json)


@app.command("doctor")
def run_doctor(as_json: AsJson = False) -> None:
    """Check disk, database, broker, destinations, certificates, bundle and decoders. Exit 3 when something is wrong."""
    findings = doctor.examine(the_config())
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
