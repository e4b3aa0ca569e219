"""config.toml against the code, and every way to get it wrong: line, key, and what to write instead."""

from __future__ import annotations

import re
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dicom_node.config import Config, load_config, parse_config
from dicom_node.errors import ConfigError

REPO = Path(__file__).parents[2]
SHIPPED = (REPO / "config.toml").read_text(encoding="utf-8")
IN_ITS_OWN_FILE = "eligibility"
"""A section whose rules and defaults are explained in dicom_node/eligibility.toml."""


def parse(text: str, base: Path = Path("/nowhere")) -> Config:
    """Config text as a file called c.toml."""
    return parse_config(text, source="c.toml", base=base)


def keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key below a section, the items of arrays included."""
    for name, field in model.model_fields.items():
        if (*path, name) == (IN_ITS_OWN_FILE,):
            continue
        inner = [part for part in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_section(part)]
        if inner:
            yield from keys(inner[0], (*path, name))
        else:
            yield (*path, name)


def _is_section(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def test_every_value_of_config_toml_is_the_default_of_the_code() -> None:
    """So that the file documents what a key that is left out has."""
    assert parse(SHIPPED) == parse("")
    assert Config.model_validate(tomllib.loads(SHIPPED)) == Config()


@pytest.mark.parametrize("path", list(keys(Config)), ids=".".join)
def test_every_key_is_in_config_toml(path: tuple[str, ...]) -> None:
    """Under its section, written out or in a comment, explained beside it or by the line above."""
    section, name = ".".join(path[:-1]), path[-1]
    parts = re.split(r"^(?:# )?\[\[?([\w.]+)\]\]?", SHIPPED, flags=re.MULTILINE)
    bodies: dict[str, str] = {}
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        bodies[heading] = bodies.get(heading, "") + body
    if section in ("delivery.destination.tls", "listener.peer.tls"):
        section, name = section.removesuffix(".tls"), f"tls.{name}"
    assert re.search(rf"^(# )?{re.escape(name)} = ", bodies[section], flags=re.MULTILINE), (section, name)


def test_no_line_of_config_toml_is_a_key_that_the_code_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the comments taken away, all examples are valid too."""
    monkeypatch.setenv("PACS_TOKEN", "secret")
    text = re.sub(r"^# (?=\[\[|[a-z_.]+ = )", "", SHIPPED, flags=re.MULTILINE)
    config = parse(text)
    assert len(config.listener.peer) == len(config.delivery.route) == 1
    assert [bool(destination.url) for destination in config.delivery.destination] == [False, True]


def test_config_toml_says_where_the_eligibility_rules_are() -> None:
    """And how to add one's own; the example is a valid one."""
    assert "[[eligibility.exclude_first]]" in SHIPPED
    assert "dicom_node/eligibility.toml" in SHIPPED
    example = SHIPPED[SHIPPED.index("# [[eligibility.exclude_first]]") : SHIPPED.index("[worker]")]
    (rule,) = parse(re.sub("^# ", "", example, flags=re.MULTILINE)).eligibility.exclude_first
    assert rule.code == "RESEARCH_PROTOCOL"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[brokr]\n", "c.toml:1: unknown key 'brokr'; did you mean 'broker'?"),
        ("[node]\n\nae_titel = 'X'\n", "c.toml:3: unknown key 'node.ae_titel'; did you mean 'ae_title'?"),
        ("[completion]\nxyz = 1", "c.toml:2: unknown key 'completion.xyz'; valid names: max_wait_s, min_coverage_mm"),
        ("listener.prot = 1", "c.toml:1: unknown key 'listener.prot'; did you mean 'port'?"),
        ("[eligibility]\nmin_coverag_mm = 3", "c.toml:2: unknown key 'eligibility.min_coverag_mm'; did you mean"),
        ("[listener.tls]\ncertifcate = 'x'", "c.toml:2: unknown key 'listener.tls.certifcate'; did you mean"),
        ("[[listener.peer]]\nae_title = 'A'\n\n[[listener.peer]]\nae_titel = 'B'", "c.toml:5: unknown key"),
        ("[listener]\npeer = [{ae_titel = 'A'}]", "c.toml:2: unknown key 'listener.peer.0.ae_titel'; did you mean"),
        (
            "[[delivery.destination]]\nname = 'a'\nae_title = 'A'\nhost = 'h'\n",
            "c.toml:1: delivery.destination.0: port m",
        ),
        ("[listener]\nport = 'http'", "c.toml:2: listener.port: Input should be a valid integer"),
        ("[listener]\nport = 70000", "c.toml:2: listener.port: Input should be less than or equal to 65535"),
        ("[listener]\nport = true", "c.toml:2: listener.port: a number is wanted"),
        ("[completion]\nquiet_s = -1", "c.toml:2: completion.quiet_s: Input should be greater than 0"),
        ("[completion]\nquiet_s = inf", "c.toml:2: completion.quiet_s: Input should be a finite number"),
        ("[completion]\nquiet_s = nan", "c.toml:2: completion.quiet_s: Input should be a finite number"),
        ("[worker]\n\nlease_s = 1e12", "c.toml:3: worker.lease_s: longer than a century; a number of"),
        ("[delivery]\nretry_longest_s = 3153600001", "c.toml:2: delivery.retry_longest_s: longer than a century"),
        ("[worker]\ndevice = 'gpu'", "c.toml:2: worker.device: Input should be 'auto', 'cpu' or 'cuda'"),
        ("node = 3", "c.toml:1: node: Input should be a valid dictionary"),
        ("[node]\nae_title = 'SEVENTEEN LETTERS'", "c.toml:2: node.ae_title: an AE title has 1 to 16"),
        ("[node]\nae_title = ' '", "c.toml:2: node.ae_title: an AE title has"),
        ("[node]\nae_title = 'A\\\\B'", "c.toml:2: node.ae_title: an AE title has"),
        ("[node]\ntimezone_offset = '1'", "c.toml:2: node.timezone_offset: write it as +HHMM"),
        ("[[listener.peer]]\nae_title = 'A'\naddresses = ['1.2.3.400']", "c.toml:3: listener.peer.0.addresses: '1.2"),
        ("[[listener.peer]]\nae_title = 'A'\nhost = 'h'", "c.toml:1: listener.peer.0: host and port go together"),
        ("[listener.tls]\nca_certificates = 'x'", "c.toml:1: listener.tls: TLS needs `certificate`"),
        ("[listener.tls]\ncertificate = 'x'", "c.toml:1: listener.tls: ca_certificates is missing: peers show a"),
        ("[database]\nurl = 'mysql://x'", "c.toml:2: database.url: use sqlite:///file or postgresql+psycopg://"),
        ("[database]\nurl = 'nonsense'", "c.toml:2: database.url: not an SQLAlchemy URL"),
        ("[broker]\nurl = 'kafka://x'", "c.toml:2: broker.url: use amqp://"),
        ("[broker]\nqueue = '../x'", "c.toml:2: broker.queue: String should match pattern"),
        ("[delivery]\n[[delivery.route]]\ndestinations = ['pcs']", "c.toml: [[delivery.route]] names 'pcs'"),
        ("[[delivery.route]]\ndestinations = []\nseries_description = '('", "c.toml:3: delivery.route.0.series_desc"),
        (
            "[[results.profile]]\nname = 'x'\nsge = []",
            "c.toml:3: unknown key 'results.profile.0.sge'; did you mean 'seg'?",
        ),
        (
            "[[results.profile]]\nname = 'x'\nseg = ['seg-binry']",
            "c.toml:3: results.profile.0.seg: 'seg-binry' is no form of SEG; did you mean 'seg-binary'?",
        ),
        (
            "[[results.profile]]\nname = 'x'\nseg = ['sr']",
            "c.toml:3: results.profile.0.seg: 'sr' is no form of SEG; valid names: seg-binary, seg-fractional",
        ),
        ("[[results.profile]]\nname = 'x'\nsr = ['sr', 'sr']", "c.toml:3: results.profile.0.sr: a form is named twice"),
        (
            "[[results.profile]]\nname = 'x'\ntransfer_syntax = '1.2.840.10008.1.2.5'",
            "c.toml:1: results.profile.0: transfer_syntax: none of its forms can be written in '1.2.840.10008.1.2.5'",
        ),
        (
            "[[delivery.destination]]\nname = 'a'\nae_title = 'A'\nhost = 'h'\nport = 1\nprofile = 'standrad'",
            "c.toml:6: there is no profile 'standrad'; did you mean 'standard'?",
        ),
        (
            "[[delivery.destination]]\nname = 'a'",
            "c.toml:1: delivery.destination.0: host and port and ae_title missing",
        ),
        (
            "[[delivery.destination]]\nname = 'a'\nurl = 'https://h'\nport = 1",
            "c.toml:1: delivery.destination.0: port beside url; a destination is reached in one way",
        ),
        (
            "[[delivery.destination]]\nname = 'a'\nurl = 'ftp://h'",
            "c.toml:1: delivery.destination.0: url: write it as https://host/path",
        ),
        (
            "[[delivery.destination]]\nname = 'a'\nurl = 'https://u:p@h'",
            "c.toml:1: delivery.destination.0: url: credentials go into username and password, or token",
        ),
        (
            "[[delivery.destination]]\nname = 'a'\nurl = 'http://h'\ntoken = 't'",
            "c.toml:1: delivery.destination.0: url: credentials would travel in plain text; use https",
        ),
        (
            "[[delivery.destination]]\nname = 'a'\nurl = 'https://h'\ntoken = \"t\\n\"",
            "c.toml:4: delivery.destination.0.token: a token is visible ASCII without blanks; does it end with the",
        ),
        (
            "[[delivery.destination]]\nname = 'a'\nurl = 'https://h'\ncommitment = true",
            "c.toml:1: delivery.destination.0: commitment and read_back are for C-STORE",
        ),
        (
            "[listener]\nmin_free_bytes = 7\n[retention]\nmake_room_below_bytes = 7",
            "c.toml:4: retention.make_room_below_bytes is 7, not above listener.min_free_bytes (7): instances would be",
        ),
        ("[retention]\nresults_days = 1e6", "c.toml:2: retention.results_days: Input should be less than or equal to"),
        ("[broker]\n# ${NO} is fine here\nurl = 'amqp://${NOT_SET}'", "c.toml:3: ${NOT_SET} is not set"),
        ("[node\n", "c.toml: not valid TOML"),
        (
            "[node]\ninstitution_name = '" + "x" * 65 + "'",
            "c.toml:2: node.institution_name: String should have at most",
        ),
        ("[node]\ninstitution_name = 'A\\B'", "c.toml:2: node.institution_name: a backslash or a control"),
        ("[results]\nsr_series_description = 'A\\B'", "c.toml:2: results.sr_series_description: a backslash or a"),
        ("[results]\nseg_series_description = '" + "x" * 65 + "'", "c.toml:2: results.seg_series_description: String"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, and what to write."""
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)
    assert "Value error" not in str(caught.value)


def test_every_mistake_is_named_at_once() -> None:
    """Nobody wants to run it ten times."""
    with pytest.raises(ConfigError) as caught:
        parse("[node]\nae_titel = 'X'\n[listener]\nport = 'x'\n")
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["2", "4"]


def test_routes_name_destinations_and_names_are_unique() -> None:
    """The nearest name is offered."""
    one = "[[delivery.destination]]\nname = 'pacs'\nae_title = 'A'\nhost = 'h'\nport = 1\n"
    with pytest.raises(ConfigError, match=r"two .* are called 'pacs'"):
        parse(one + one)
    with pytest.raises(ConfigError, match=r"names 'pasc'; did you mean 'pacs'\?"):
        parse(one + "[[delivery.route]]\ndestinations = ['pasc']")


def test_secrets_come_from_the_environment_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check-config --json` is pasted into tickets."""
    monkeypatch.setenv("DB_PASSWORD", "s3cret%40")
    monkeypatch.setenv("PORT", "104")
    config = parse(
        '[database]\nurl = "postgresql://n:${DB_PASSWORD}@db/x"\n[listener]\nport = "${PORT}"\n'
        '[broker]\nurl = "amqp://n:${DB_PASSWORD}@mq//"'
    )
    assert config.database.url == "postgresql+psycopg://n:s3cret%40@db/x"
    assert config.listener.port == 104
    assert "s3cret" not in str(config.shown())
    web = "[[delivery.destination]]\nname = 'a'\nurl = 'https://h'\n"
    for secret in ("token = '${DB_PASSWORD}'", "username = 'u'\npassword = '${DB_PASSWORD}'"):
        assert "s3cret" not in str(parse(web + secret).shown())
        assert "s3cret" in str(parse(web + secret))
    assert config.shown()["broker"]["url"] == "amqp://n:***@mq//"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Wherever the service was started."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "bundle.json").write_text("{}")
    (tmp_path / "config.toml").write_text(
        "[node]\ndata_dir = 'd'\n[listener.tls]\ncertificate = 'c.crt'\nca_certificates = 'ca.pem'\n"
        "[worker]\nbundle = 'mine'\n"
    )
    config = load_config(tmp_path / "config.toml")
    assert config.node.data_dir == tmp_path / "d"
    assert config.database.url == f"sqlite:///{tmp_path}/d/node.sqlite"
    assert config.broker.url == f"folder://{tmp_path}/d/broker"
    assert config.listener.tls.certificate == tmp_path / "c.crt"
    assert config.worker.bundle == str(tmp_path / "mine")


def test_an_embedded_database_and_broker_of_ones_own_are_relative_to_the_file_too(tmp_path: Path) -> None:
    """Else a command that is run from another folder makes a database there, and says that there are no studies."""
    config = parse('database.url = "sqlite:///my.sqlite"\nbroker.url = "folder://my/queue"\n', tmp_path)
    assert config.database.url == f"sqlite:///{tmp_path}/my.sqlite"
    assert config.broker.url == f"folder://{tmp_path}/my/queue"
    for url in ("sqlite:////srv/my.sqlite", "sqlite://", "postgresql+psycopg://node:secret@db/node"):
        assert parse(f'database.url = "{url}"\nbroker.url = "folder:///srv/queue"', tmp_path).database.url == url


def test_the_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, else $DICOM_NODE_CONFIG, else ./config.toml, else the defaults; one that was named must be there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DICOM_NODE_CONFIG", raising=False)
    assert load_config().node.ae_title == "ICHNODE"
    (tmp_path / "config.toml").write_text("[node]\nae_title = 'HERE'")
    assert load_config().node.ae_title == "HERE"
    (tmp_path / "other.toml").write_text("[node]\nae_title = 'OTHER'")
    monkeypatch.setenv("DICOM_NODE_CONFIG", "other.toml")
    assert load_config().node.ae_title == "OTHER"
    monkeypatch.setenv("DICOM_NODE_CONFIG", "none.toml")
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such file"):
        load_config()
    (tmp_path / "latin.toml").write_bytes(b"[node]\ninstitution_name = '\xe9'")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        load_config(tmp_path / "latin.toml")


def test_a_file_that_an_editor_of_windows_saved_is_read(tmp_path: Path) -> None:
    """It begins with a byte order mark; lines are counted as without it."""
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[node]\r\nae_title = 'A'\r\n")
    assert load_config(path).node.ae_title == "A"
    path.write_bytes(b"\xef\xbb\xbf[node]\r\nae_titel = 'A'\r\n")
    with pytest.raises(ConfigError, match=r"config\.toml:2: unknown key 'node\.ae_titel'"):
        load_config(path)


def test_the_digest_follows_what_can_change_a_result_and_nothing_else() -> None:
    """It is part of every result UID: equal on every machine and run."""
    profile = "[[results.profile]]\nname = 'x'\nempty_frames = true"
    same = (profile, "[listener]\nport = 1", "[worker]\nthreads = 3", "[node]\ndata_dir = 'elsewhere'")
    other = (
        "[results]\nsend_seg_when_negative = false",
        "[node]\ninstitution_name = 'X'",
        "[eligibility]\nmin_coverage_mm = 1.0",
        "[worker]\nexam_threshold = 0.8",
    )
    assert {parse(text).digest for text in same} == {parse("").digest}
    assert len({parse(text).digest for text in other} | {parse("").digest}) == 5


def test_the_eligibility_rules_can_be_written_down_without_a_warning() -> None:
    """Defaults are of the types that they are declared with."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dumped = Config().model_dump(mode="json")
    assert Config.model_validate(dumped) == Config()
