"""The admin CLI: help and documentation, JSON, exit codes, errors as one sentence, and no patient on the screen."""

from __future__ import annotations

import errno
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
import typer
from typer.testing import CliRunner

from dicom_node import cli, jobs, read_facts, retention, schema
from dicom_node.commitment_messages import Reference, Request
from dicom_node.config_sections import RetentionConfig
from dicom_node.db import now
from dicom_node.owed_reports import owe
from dicom_node.states import DeliveryState, JobState, ResultKind
from dicom_node.tables import Delivery, Result, Study
from tests.dicom_factory import ct_series, write
from tests.dicom_node.house import STUDY, House, head_ct
from tests.peers import StoreScp, free_port

REPO = Path(__file__).parents[2]
PHI = ("Phantom", "PHANTOM1", "19500101")
# pynetdicom drops the socket of a connection that failed without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
Run = Callable[..., "Done"]


class Done:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """What it printed."""
        return json.loads(self.out)


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command by its full name."""
    top: Any = group or typer.main.get_command(cli.app)
    for name, command in top.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())
WITH_JSON = sorted(n for n, c in COMMANDS.items() if any("--json" in p.opts for p in c.params))


@pytest.fixture
def house(make_small_house: Callable[..., House]) -> House:
    """A node with one study that was read and whose results wait, in a folder with its config.toml."""
    house = make_small_house(CONFIG.format(port=free_port()))
    house.finish(house.claimed(), summary={"line": "ICH [suspected]: 0.97", "finding": "positive"})
    return house


CONFIG = (
    '[[delivery.destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\ntimeout_s = 2.0\n'
)


@pytest.fixture
def run(house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`run("status", "--json")`: as the shell runs it, within this process."""
    path = house.folder / "config.toml"
    port = house.config.delivery.destination[0].port
    path.write_text(f'[node]\ndata_dir = "data"\n[logging]\nformat = "json"\n{CONFIG.format(port=port)}')
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: object, config: Path = path) -> Done:
        monkeypatch.setattr(sys, "argv", ["dicom-node", "--config", str(config), *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        assert not any(secret in out + err for secret in PHI)
        assert "Traceback" not in err
        return Done(code, out, err)

    yield run
    logging.captureWarnings(capture=False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_is_documented(name: str) -> None:
    """Each option and argument too."""
    command = COMMANDS[name]
    assert command.help
    assert re.search(rf"^\| `{re.escape(name)}[ `]", (REPO / "docs" / "cli.md").read_text(), flags=re.MULTILINE)
    for parameter in command.params:
        if parameter.name not in ("help", "study_instance_uid", "folder"):
            assert getattr(parameter, "help", None), (name, parameter.name)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_shown_word_by_word(name: str) -> None:
    """What stands in brackets is no markup."""
    command = COMMANDS[name]
    said = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
    shown = CliRunner().invoke(cli.app, [*name.split(), "--help"], env={"COLUMNS": "240"}).output.split()
    assert not {word for text in said for word in (text or "").split()}.difference(shown)


def test_no_command_is_documented_that_is_not_there() -> None:
    """The first words of each table row are a command."""
    rows = re.findall(r"^\| `([^`]+)`", (REPO / "docs" / "cli.md").read_text(), flags=re.MULTILINE)
    assert rows
    for row in rows:
        assert any(row.split()[: len(name.split())] == name.split() for name in COMMANDS), row


def test_every_state_that_can_be_asked_for_is_documented() -> None:
    """`deliver --list --state committed` and the like."""
    (row,) = re.findall(r"^\| `deliver --list`.*$", (REPO / "docs" / "cli.md").read_text(), flags=re.MULTILINE)
    assert {state for state in DeliveryState if not re.search(rf"\b{state}\b", row)} == set()


def test_json_is_all_that_is_printed(run: Run, house: House, tmp_path: Path) -> None:
    """For every command that has --json."""
    write(ct_series(slices=3, rows=4, columns=4), tmp_path / "ct")
    arguments: dict[str, list[object]] = {
        "show": [STUDY],
        "retry": [99],
        "cancel": [99],
        "send": [tmp_path / "ct", "--port", free_port()],
        "rules test": [tmp_path / "ct"],
        "db downgrade": ["base"],
        "bundles": [],
    }
    parsed = []
    for name in WITH_JSON:
        done = run(*name.split(), *arguments.get(name, []), "--json")
        if done.out:
            assert done.json is not None
            parsed.append(name)
        else:
            assert done.err, name
            assert done.code in (1, 2), name
    assert {"status", "studies", "show", "jobs", "deliver", "echo", "check-config", "doctor", "db check"} <= set(parsed)


def test_tables_are_for_people(run: Run, house: House) -> None:
    """What stands in square brackets is text, not markup, and an AE title may have them."""
    house.change(Study, calling_ae_title="[/CT]")
    assert "SUCCEEDED" in run("studies").out
    shown = run("show", STUDY)
    assert shown.out.count("ICH [suspected]: 0.97") == 2
    assert re.search(r"^calling ae title +\[/CT\]$", shown.out, flags=re.MULTILINE)
    assert "12" in run("jobs").out
    assert "PENDING" in run("deliver", "--list").out


def test_what_waits_to_be_confirmed_or_reported_is_told(run: Run, house: House) -> None:
    """How many, and for how long; and the peers that wait for this node's word. Nothing of it when nothing waits."""
    assert "confirmed" not in run("status").out
    an_hour_ago = now() - timedelta(hours=1)
    house.change(Delivery, state=DeliveryState.SENT, sent_at=an_hour_ago, confirm_at=now() + timedelta(hours=1))
    owe(house.database, "CT1", Request("2.25.9", (Reference("1.2", "1.2.3"),)), hold_s=0.0)
    told = run("status").out
    assert re.search(r"deliveries that wait to be confirmed: 2; the oldest for 36\d\d", told)
    assert "commitment reports that peers wait for: 1; given up: 0" in told
    (job,) = run("jobs", "--json").json
    assert (job["arrived"], job["done_at"]) == ("unconfirmed", None)


def test_the_ledger_balances_or_exit_is_3(run: Run, house: House) -> None:
    """Received = processed + rejected + under way."""
    done = run("status", "--json")
    assert (done.code, done.json["balances"], done.json["studies"]["processed"]) == (0, True, 1)
    with house.database.session() as session:
        session.query(Delivery).delete()
        session.query(Result).delete()
    done = run("status")
    assert done.code == 3
    assert "does not balance" in done.out


def test_purge_says_what_it_does_and_what_it_leaves(run: Run, house: House) -> None:
    """First only what it would do; config keeps everything, so that the command must say how old."""
    done = run("purge")
    assert (done.code, "[retention] keeps everything" in done.err) == (1, True)
    house.age(s=86_400 * 3)
    waits = run("purge", "--images-days", 2, "--json").json
    assert (waits["removed"]["studies"], waits["kept"]) == (0, {"results not arrived": 1})
    assert "old enough, but kept: 1 studies (results not arrived)" in run("purge", "--images-days", 2).out
    house.change(Delivery, state=DeliveryState.SENT)
    assert run("purge", "--images-days", 4, "--json").json["removed"]["instances"] == 0
    would = run("purge", "--images-days", 2, "--dry-run", "--json").json
    assert (would["would_be_removed"]["studies"], would["would_be_removed"]["instances"]) == (1, 12)
    assert "images of 1 studies (12 instances) and 0 result files" in run("purge", "--images-days", 2).out
    assert run("purge", "--images-days", 2, "--json").json["removed"]["instances"] == 0
    status = run("status", "--json")
    assert (status.code, status.json["instances"]["held"], status.json["removed"]["images_of_studies"]) == (0, 0, 1)
    assert "images removed" in run("show", STUDY).out


def test_no_room_is_told_with_the_command_that_says_why(run: Run, house: House) -> None:
    """It works as it stands in the log: config may name no days, only the room that is wanted."""
    rules = RetentionConfig(make_room_below_bytes=10**18)
    house.age(s=1.1 * house.config.completion.max_wait_s)
    with structlog.testing.capture_logs() as logged:
        retention.make_room(house.database, house.archive, house.config.model_copy(update={"retention": rules}))
    (command,) = re.findall("`dicom-node (.*?)`", str(logged))
    assert "old enough, but kept: 1 studies (results not arrived)" in run(*command.split()).out
    path = house.folder / "room.toml"
    path.write_text("[retention]\nmake_room_below_bytes = 1000000000000000000\n")
    done = run("purge", config=path)
    assert (done.code, "keeps everything" in done.err, "--images-days" in done.err) == (1, False, True)


def test_what_is_not_there_is_one_sentence_and_exit_1(run: Run) -> None:
    """With what to look at."""
    for arguments in (
        ["show", "1.2.3"],
        ["retry", 99],
        ["cancel", 99],
        ["echo", "nobody"],
        ["deliver", 99],
        ["deliver", "--destination", "nobody"],
    ):
        done = run(*arguments)
        assert (done.code, done.out) == (1, "")
        assert len(done.err.strip().splitlines()) == 1
        assert done.err.startswith(("NOT_FOUND: ", "NOT_POSSIBLE: "))


def test_wrong_usage_is_exit_2(run: Run, tmp_path: Path) -> None:
    """And says what would be right."""
    (tmp_path / "x").write_text("x")
    for arguments, hint in (
        (["jobs", "--state", "lost"], "quarantined"),
        (["serve", "--role", "x"], "sweeper"),
        (["send", tmp_path / "none"], "Usage"),
        (["send", tmp_path / "x", "--called", "A\\B"], "ae_title"),
        (["db", "downgrade", "base"], "--yes"),
        (["purge", "--images-days", 1_000_000], "36500"),
        (["retry", 20261127001234], "2147483647"),
        (["cancel", 20261127001234], "2147483647"),
        (["deliver", 20261127001234], "2147483647"),
        (["jobs", "--limit", -1], "--limit"),
        (["nonsense"], "nonsense"),
    ):
        done = run(*arguments)
        assert done.code == 2, arguments
        assert hint in done.err


def test_a_wrong_configuration_is_exit_2_with_its_line(run: Run, tmp_path: Path) -> None:
    """Brackets in the message are not markup."""
    (tmp_path / "c.toml").write_text('[[delivery.route]]\ndestinations = ["pacs"]\n')
    done = run("check-config", config=tmp_path / "c.toml")
    assert done.code == 2
    assert "[[delivery.route]] names 'pacs'" in done.err
    (tmp_path / "c.toml").write_text("[node]\nae_titel = 'X'\n")
    assert (
        "c.toml:2: unknown key 'node.ae_titel'; did you mean 'ae_title'?"
        in run("status", config=tmp_path / "c.toml").err
    )
    (tmp_path / "c.toml").write_text(f"{99 * chr(10)}[nodes]\n")
    assert "c.toml:100: unknown key 'nodes'" in run("check-config", config=tmp_path / "c.toml").err, ":100: is no emoji"
    assert run("status", config=tmp_path / "none.toml").code == 2


def test_a_database_that_is_gone_is_one_sentence(run: Run, tmp_path: Path) -> None:
    """Without its password."""
    (tmp_path / "c.toml").write_text(f'[database]\nurl = "postgresql://n:s3cret@127.0.0.1:{free_port()}/x"')
    done = run("status", config=tmp_path / "c.toml")
    assert done.code == 1
    assert done.err.startswith("DATABASE_UNREACHABLE: ")
    assert "s3cret" not in done.err + run("doctor", config=tmp_path / "c.toml").out
    assert "s3cret" not in run("check-config", "--json", config=tmp_path / "c.toml").out


def test_a_data_directory_that_cannot_be_used_is_one_sentence(run: Run, tmp_path: Path) -> None:
    """The folder of the embedded database cannot be made: a file lies there, or another user owns it."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "c.toml").write_text('[node]\ndata_dir = "file/data"')
    done = run("status", config=tmp_path / "c.toml")
    assert (done.code, done.err.startswith("DATABASE_UNREACHABLE: ")) == (1, True)


def test_retry_and_cancel(run: Run, house: House) -> None:
    """As the rows say."""
    house.receive(head_ct(slices=1, spacing_mm=[]))
    house.age(s=1001)
    (job_id,) = house.sweep()
    assert run("cancel", job_id).out.strip() == f"job {job_id}: it is cancelled"
    assert house.row(job_id).state is JobState.CANCELLED
    assert run("cancel", job_id).code == 1
    assert run("retry", job_id, "--json").json == {"job": job_id, "done": "it is queued again"}
    assert house.row(job_id).state is JobState.QUEUED
    assert jobs.claim(house.database, job_id, worker="w", lease_s=9) is not None


def test_deliver_starts_dead_ones_again(run: Run, house: House) -> None:
    """One or all; lists by state."""
    house.change(Delivery, state="DEAD", last_error="accepts no [SEG]")
    listed = run("deliver", "--list", "--state", "dead", "--json").json
    assert [row["kind"] for row in listed] == [ResultKind.SR, ResultKind.SEG]
    assert "accepts no" in run("deliver", "--list").out
    lists = {name: run("deliver", "--list", "--destination", name, "--json").json for name in ("pacs", "other")}
    assert [len(lists[name]) for name in ("pacs", "other")] == [2, 0]
    assert run("deliver", 1).out.strip() == "deliveries 1: they will be tried now"
    assert run("deliver", "--json").json["deliveries"] == 2
    assert [d.state for d in house.all(Delivery)] == ["PENDING", "PENDING"]


@pytest.mark.peer("dcmtk")
def test_send_and_echo_reach_a_real_peer(run: Run, storescp: StoreScp, tmp_path: Path) -> None:
    """A progress bar for people; what is no object is counted; a refusal is exit 1. A preamble is not asked for."""
    first, *_ = write(ct_series(slices=3, rows=4, columns=4), tmp_path / "ct")
    first.write_bytes(first.read_bytes()[132:])
    (tmp_path / "ct" / "README").write_text("no DICOM")
    to = ["--port", storescp.port, "--called", storescp.ae_title]
    done = run("send", tmp_path / "ct", *to)
    assert (done.code, done.out.strip()) == (0, "3 of 3 files were taken; 1 were no DICOM objects")
    assert "sending" in done.err
    assert len(storescp.files()) == 3
    with storescp.out_of_space():
        done = run("send", tmp_path / "ct", *to, "--json")
    assert done.code == 1
    assert done.json["taken"] == 0
    assert {row["error"] for row in done.json["not_taken"]} == {"C-STORE answered 0xA700"}
    assert run("send", tmp_path / "ct" / "README", *to).code == 1


def test_send_says_what_to_look_at_when_nobody_is_there(run: Run, tmp_path: Path) -> None:
    """Whom it called, and where."""
    write(ct_series(slices=1, rows=4, columns=4), tmp_path)
    done = run("send", tmp_path, "--port", free_port(), "--called", "PACS")
    assert done.code == 1
    assert "no association with the peer (PACS at 127.0.0.1:" in done.err
    assert "does it run, and is this its address?" in done.err


@pytest.mark.peer("dcmtk")
def test_echo_says_who_answers(run: Run, house: House) -> None:
    """Exit 1 as long as one does not."""
    done = run("echo")
    assert (done.code, "no association" in done.out) == (1, True)
    with StoreScp(port=house.config.delivery.destination[0].port):
        done = run("echo", "pacs", "--json")
    assert (done.code, done.json[0]["answer"]) == (0, "0x0000")


def test_rules_test_explains(run: Run, tmp_path: Path) -> None:
    """Exit 0 with a series to read, 3 without."""
    write(head_ct(), tmp_path / "head")
    assert run("rules", "test", tmp_path / "head", "--json").json["chosen"] == "2.25.2"
    write(head_ct(modality="MR", extra={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}), tmp_path / "mr")
    assert run("rules", "test", tmp_path / "mr").code == 3
    (tmp_path / "empty").mkdir()
    assert run("rules", "test", tmp_path / "empty").code == 1
    write(head_ct(study_uid="2.25.5"), tmp_path / "two" / "other")
    write(head_ct(), tmp_path / "two" / "head")
    done = run("rules", "test", tmp_path / "two")
    assert (done.code, "holds 2 studies" in done.err) == (1, True)


def test_a_file_that_may_not_be_read_is_one_sentence(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's, say."""
    write(ct_series(slices=3, rows=4, columns=4), tmp_path / "ct")

    def refused(_file: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(read_facts, "map_file", refused)
    done = run("rules", "test", tmp_path / "ct")
    assert (done.code, done.err.startswith("NOT_POSSIBLE: ")) == (1, True)
    assert "Permission denied" in done.err


def test_db_commands(run: Run) -> None:
    """Check, down, check, up."""
    newest = run("db", "check", "--json").json["needs"]
    assert run("db", "check").code == 0
    assert run("db", "downgrade", "base", "--yes").code == 0
    done = run("db", "check", "--json")
    assert (done.code, done.json["revision"], done.json["needs"]) == (3, None, newest)
    assert run("db", "upgrade", "--json").json["revision"] == newest
    assert run("db", "check").code == 0


def test_db_check_names_the_revision_that_is_needed(run: Run, house: House) -> None:
    """Of a database that a later release has upgraded, whose tables may be as they were."""
    with house.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    newest = schema.newest(house.engine)
    done = run("db", "check")
    assert (done.code, done.out) == (3, f"revision 9999, but this release needs {newest}\n")


def test_conformance_is_markdown(run: Run) -> None:
    """Of the running configuration."""
    assert run("conformance").out.startswith("# DICOM conformance statement")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "| pacs | PACS at 127.0.0.1:" in run("conformance").out
