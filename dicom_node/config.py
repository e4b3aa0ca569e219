"""The frozen configuration: one class per section of config.toml, every default and unit stated there too.

Unknown keys are refused with their line and the nearest valid name. `${NAME}` inside a string is taken
from the environment, so that passwords need not stand in the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import sqlalchemy as sa
from pydantic import Field, ValidationError, field_validator, model_validator

from dicom_node.config_lines import explain, find_line, nearest
from dicom_node.eligibility import EligibilityRules
from dicom_node.errors import ConfigError
from dicom_node.profiles import BUILT_IN, STANDARD, ProfileConfig, Variant, variants, with_what_they_refer_to
from dicom_node.section import Section
from dicom_node.states import ResultKind

AE_TITLE = re.compile(r"^(?=.*\S)[ -\[\]-~]{1,16}$")
"""PS3.5 section 6.2, VR AE: 16 characters of the default repertoire, no backslash, not only spaces."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class NodeConfig(Section):
    """Who this node is and where it keeps things."""

    ae_title: str = "ICHNODE"
    data_dir: Path = Path("var")
    institution_name: str = ""
    timezone_offset: str = "+0000"

    @field_validator("ae_title")
    @classmethod
    def _ae(cls, value: str) -> str:
        return _ae_title(value)

    @field_validator("timezone_offset")
    @classmethod
    def _offset(cls, value: str) -> str:
        if not re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", value):
            raise ValueError("write it as +HHMM or -HHMM, for example +0100")
        return value


class TlsConfig(Section):
    """DICOM TLS, mutual: both sides show a certificate (PS3.15 B.12, BCP 195). For HTTPS our own one is optional."""

    certificate: Path | None = None
    private_key: Path | None = None
    ca_certificates: Path | None = None

    @property
    def enabled(self) -> bool:
        """TLS is on when a certificate is named."""
        return self.certificate is not None


def _with_certificate(tls: TlsConfig) -> TlsConfig:
    """Raises ValueError when DICOM TLS is half configured."""
    if tls.certificate is None and (tls.private_key or tls.ca_certificates):
        raise ValueError("TLS needs `certificate`; without it the connection would be plain text")
    return tls


class PeerConfig(Section):
    """A calling AE title that may open associations."""

    ae_title: str
    addresses: tuple[str, ...] = ()
    max_associations: int = Field(default=8, ge=1)
    host: str = ""
    port: int = Field(default=0, ge=0, le=65535)
    timeout_s: float = Field(default=30.0, gt=0)
    tls: TlsConfig = TlsConfig()

    @field_validator("ae_title")
    @classmethod
    def _ae(cls, value: str) -> str:
        return _ae_title(value)

    @field_validator("addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            ip_network(address, strict=False)
        return value

    @field_validator("tls")
    @classmethod
    def _whole_tls(cls, value: TlsConfig) -> TlsConfig:
        return _with_certificate(value)

    @model_validator(mode="after")
    def _whole_address(self) -> Self:
        if bool(self.host) != bool(self.port):
            raise ValueError("host and port go together: where the peer itself listens, for commitment reports")
        return self

    @property
    def destination(self) -> DestinationConfig | None:
        """Where the peer itself listens, None when config does not say."""
        if not self.port:
            return None
        return DestinationConfig(
            name=self.ae_title,
            ae_title=self.ae_title,
            host=self.host,
            port=self.port,
            timeout_s=self.timeout_s,
            tls=self.tls,
        )


class ListenerConfig(Section):
    """The C-STORE and C-ECHO SCP."""

    host: str = "127.0.0.1"
    port: int = Field(default=11112, ge=0, le=65535)
    max_pdu_bytes: int = Field(default=131072, ge=0)
    max_associations: int = Field(default=64, ge=1)
    acceptor_processes: int = Field(default=1, ge=1, le=16)
    allow_loopback: bool = True
    check_called_ae_title: bool = True
    idle_timeout_s: float = Field(default=60.0, gt=0)
    negotiation_timeout_s: float = Field(default=10.0, gt=0)
    shutdown_grace_s: float = Field(default=10.0, ge=0)
    max_object_bytes: int = Field(default=2_147_483_648, ge=1024)
    min_free_bytes: int = Field(default=2_147_483_648, ge=0)
    same_uid_other_bytes: Literal["keep_first", "replace", "refuse"] = "keep_first"
    report_hold_s: float = Field(default=0.5, ge=0)
    sop_classes: tuple[str, ...] = (
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.2.1",
        "1.2.840.10008.5.1.4.1.1.4",
        "1.2.840.10008.5.1.4.1.1.7",
        "1.2.840.10008.5.1.4.1.1.66.4",
        "1.2.840.10008.5.1.4.1.1.88.33",
        "1.2.840.10008.5.1.4.1.1.66.7",
        "1.2.840.10008.5.1.4.1.1.88.34",
        "1.2.840.10008.5.1.4.1.1.88.59",
        "1.2.840.10008.5.1.4.1.1.104.1",
        "1.2.840.10008.5.1.4.1.1.88.67",
    )
    transfer_syntaxes: tuple[str, ...] = (
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.5",
    )
    tls: TlsConfig = TlsConfig()
    peer: tuple[PeerConfig, ...] = ()

    def allows(self, ae_title: str, host: str) -> bool:
        """Whether that calling AE title can be let in from that host, as far as names tell."""
        is_here = host == "localhost" or host.startswith("127.") or host == "::1"
        return (is_here and self.allow_loopback) or any(peer.ae_title == ae_title for peer in self.peer)

    @field_validator("tls")
    @classmethod
    def _whole_tls(cls, value: TlsConfig) -> TlsConfig:
        return _with_certificate(value)


class DatabaseConfig(Section):
    """Where the rows are."""

    url: str = ""
    pool_size: int = Field(default=10, ge=1)
    lock_timeout_s: float = Field(default=5.0, gt=0)

    @field_validator("url")
    @classmethod
    def _supported(cls, value: str) -> str:
        if not value:
            return value
        try:
            url = sa.make_url(value)
        except sa.exc.ArgumentError as error:
            raise ValueError("not an SQLAlchemy URL: driver://user:password@host:port/database") from error
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        if url.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
            raise ValueError("use sqlite:///file or postgresql+psycopg://user:password@host/database")
        return url.render_as_string(hide_password=False)


class BrokerConfig(Section):
    """How job ids reach workers."""

    url: str = ""
    queue: str = Field(default="ich-inference", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}$")
    poll_interval_s: float = Field(default=0.1, gt=0)

    @field_validator("url")
    @classmethod
    def _supported(cls, value: str) -> str:
        if value and urlsplit(value).scheme not in ("amqp", "amqps", "redis", "rediss", "folder"):
            raise ValueError("use amqp://, amqps://, redis:// or rediss://, or leave it empty")
        return value


class CompletionConfig(Section):
    """When a study is complete."""

    settle_s: float = Field(default=0.5, ge=0)
    quiet_s: float = Field(default=30.0, gt=0)
    max_wait_s: float = Field(default=900.0, gt=0)
    sweep_interval_s: float = Field(default=0.25, gt=0)
    min_coverage_mm: float = Field(default=100.0, ge=0)
    min_slices: int = Field(default=8, ge=1)


class WorkerConfig(Section):
    """How a job is run."""

    bundle: str = "default"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "torch", "openvino"] = "auto"
    threads: int = Field(default=0, ge=0)
    processes: int = Field(default=1, ge=0)
    lease_s: float = Field(default=30.0, gt=1)
    time_limit_s: float = Field(default=900.0, gt=1)
    max_attempts: int = Field(default=8, ge=1)
    max_worker_deaths: int = Field(default=3, ge=1)
    retry_first_s: float = Field(default=2.0, gt=0)
    retry_longest_s: float = Field(default=600.0, gt=0)


class ResultsConfig(Section):
    """What the result objects look like."""

    first_series_number: int = Field(default=9001, ge=1, le=2_147_483_000)
    seg_series_description: str = Field(default="AI ICH SEG - RESEARCH, not for diagnosis", max_length=64)
    sr_series_description: str = Field(default="AI ICH report - RESEARCH, not for diagnosis", max_length=64)
    kos_series_description: str = Field(default="AI ICH key images - RESEARCH, not for diagnosis", max_length=64)
    sc_series_description: str = Field(default="AI ICH summary - RESEARCH, not for diagnosis", max_length=64)
    pdf_series_description: str = Field(default="AI ICH document - RESEARCH, not for diagnosis", max_length=64)
    send_sr_when_rejected: bool = True
    send_seg_when_negative: bool = True
    profile: tuple[ProfileConfig, ...] = ()


class DestinationConfig(Section):
    """Where results go: a PACS by C-STORE (`host`, `port`, `ae_title`) or a DICOMweb server by STOW-RS (`url`)."""

    name: str = Field(min_length=1, max_length=64)
    ae_title: str = ""
    host: str = ""
    port: int = Field(default=0, ge=0, le=65535)
    calling_ae_title: str = ""
    url: str = ""
    username: str = ""
    password: str = ""
    token: str = ""
    profile: str = STANDARD
    timeout_s: float = Field(default=30.0, gt=0)
    commitment: bool = False
    read_back: bool = False
    tls: TlsConfig = TlsConfig()

    @field_validator("ae_title", "calling_ae_title")
    @classmethod
    def _ae(cls, value: str) -> str:
        return _ae_title(value) if value else value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.url:
            self._check_web()
            return self
        missing = [key for key in ("host", "port", "ae_title") if not getattr(self, key)]
        if missing:
            raise ValueError(
                f"{' and '.join(missing)} missing; C-STORE needs host, port and ae_title, STOW-RS needs url"
            )
        if self.username or self.password or self.token:
            raise ValueError("username, password and token are for a destination with `url`")
        _with_certificate(self.tls)
        return self

    def _check_web(self) -> None:
        dimse = [key for key in ("host", "port", "ae_title", "calling_ae_title") if getattr(self, key)]
        if dimse:
            raise ValueError(f"{' and '.join(dimse)} beside url; a destination is reached in one way")
        if self.commitment or self.read_back:
            raise ValueError("commitment and read_back are for C-STORE; STOW-RS answers for each instance")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("url: write it as https://host/path, up to where /studies begins")
        if parts.username or parts.password:
            raise ValueError("url: credentials go into username and password, or token")
        if self.token and (self.username or self.password):
            raise ValueError("either username and password, or token")
        secret = self.token or self.username
        if secret and parts.scheme == "http" and parts.hostname not in LOOPBACK_NAMES:
            raise ValueError("url: credentials would travel in plain text; use https")

    @property
    def confirms(self) -> bool:
        """Whether a result is done only when the destination said, or showed, that it keeps it."""
        return self.commitment or self.read_back

    @property
    def address(self) -> str:
        """For people: the URL, or AE title and address."""
        return self.url or f"{self.ae_title} at {self.host}:{self.port}"


class RouteConfig(Section):
    """Which results go where; every condition given must hold, an empty one always does."""

    destinations: tuple[str, ...]
    calling_ae_titles: tuple[str, ...] = ()
    findings: tuple[Literal["positive", "negative", "rejected"], ...] = ()
    kinds: tuple[ResultKind, ...] = ()
    series_description: str = ""

    @field_validator("series_description")
    @classmethod
    def _regex(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class DeliveryConfig(Section):
    """How hard the node tries to deliver."""

    poll_interval_s: float = Field(default=0.2, gt=0)
    retry_first_s: float = Field(default=5.0, gt=0)
    retry_longest_s: float = Field(default=900.0, gt=0)
    give_up_after_s: float = Field(default=172_800.0, gt=0)
    lease_s: float = Field(default=120.0, gt=1)
    destination: tuple[DestinationConfig, ...] = ()
    route: tuple[RouteConfig, ...] = ()


class ConfirmationConfig(Section):
    """How long the node waits for a destination's word that it keeps a result, and what it does without."""

    report_wait_s: float = Field(default=2.0, ge=0)
    report_timeout_s: float = Field(default=600.0, gt=0)
    max_rounds: int = Field(default=3, ge=0)


class LoggingConfig(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Config(Section):
    """The whole of config.toml, checked, with paths and URLs filled in."""

    node: NodeConfig = NodeConfig()
    listener: ListenerConfig = ListenerConfig()
    database: DatabaseConfig = DatabaseConfig()
    broker: BrokerConfig = BrokerConfig()
    completion: CompletionConfig = CompletionConfig()
    eligibility: EligibilityRules = EligibilityRules()
    worker: WorkerConfig = WorkerConfig()
    results: ResultsConfig = ResultsConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    confirmation: ConfirmationConfig = ConfirmationConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def archive_dir(self) -> Path:
        """Where received files and results lie."""
        return self.node.data_dir / "archive"

    @property
    def digest(self) -> str:
        """SHA-256 over the sections that can change what every result says; part of every result UID.

        What a profile changes is in its variants, so that a profile for one PACS renames nothing for another.
        """
        parts = {
            "results": self.results.model_dump(mode="json", exclude={"profile", "first_series_number"}),
            "eligibility": self.eligibility.model_dump(mode="json"),
            "node": self.node.model_dump(mode="json", include={"ae_title", "institution_name", "timezone_offset"}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def shown(self) -> dict[str, Any]:
        """The configuration as it is understood, for people: passwords in URLs are masked."""
        whole = self.model_dump(mode="json")
        whole["database"]["url"] = sa.make_url(self.database.url).render_as_string(hide_password=True)
        for destination in whole["delivery"]["destination"]:
            destination |= {key: "***" for key in ("password", "token") if destination[key]}
        whole["broker"]["url"] = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", self.broker.url)
        return whole

    @property
    def profiles(self) -> dict[str, ProfileConfig]:
        """Every profile by name: the built-in ones, and those of config.toml, which win."""
        return {profile.name: profile for profile in (*BUILT_IN, *self.results.profile)}

    def variants(self, profile: str, kind: ResultKind, *, segmented: bool = True) -> tuple[Variant, ...]:
        """What a profile wants of a kind, the preferred one first."""
        first = self.results.first_series_number
        return variants(self.profiles[profile], kind, first_series_number=first, segmented=segmented)

    def wanted(self, *, segmented: bool = True) -> tuple[Variant, ...]:
        """Every variant that some destination may get; without any destination those of `standard`."""
        names = [destination.profile for destination in self.delivery.destination] or [STANDARD]
        per_kind = [self.variants(name, kind, segmented=segmented) for name in names for kind in ResultKind]
        return with_what_they_refer_to(variant for found in per_kind for variant in found)

    def peer(self, ae_title: str) -> PeerConfig | None:
        """The peer of that AE title, first one that says where it listens; None when config has none that does."""
        return next((p for p in self.listener.peer if p.ae_title == ae_title and p.port), None)

    def destination(self, name: str) -> DestinationConfig | None:
        """The destination of that name, or None when config no longer has it."""
        return next((d for d in self.delivery.destination if d.name == name), None)


def load_config(path: Path | None = None) -> Config:
    """The configuration in `path`, in $DICOM_NODE_CONFIG, in ./config.toml, or the defaults, in this order.

    Raises ConfigError with file and line.
    """
    chosen = path or Path(os.environ.get("DICOM_NODE_CONFIG", "config.toml"))
    if not chosen.exists():
        if path or "DICOM_NODE_CONFIG" in os.environ:
            raise ConfigError(f"{chosen}: there is no such file")
        return parse_config("", source="defaults", base=Path.cwd())
    try:
        text = chosen.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{chosen}: cannot be read as UTF-8 text: {type(error).__name__}") from error
    return parse_config(text, source=str(chosen), base=chosen.resolve().parent)


def parse_config(text: str, *, source: str, base: Path) -> Config:
    """The configuration in `text`; relative paths are taken from `base`. Raises ConfigError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    try:
        config = Config.model_validate(_expand(raw, text, source))
    except ValidationError as error:
        # A misspelt key that is required is also a missing one: the spelling comes first.
        items = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        lines = [explain(item, text, source=source, root=Config) for item in items]
        raise ConfigError("\n".join(lines)) from error
    _check_names(config, text, source)
    return _fill(config, base)


def _fill(config: Config, base: Path) -> Config:
    """Make paths absolute and give the embedded defaults their place below the data directory."""
    data_dir = (base / config.node.data_dir).resolve()
    database = config.database
    if not database.url:
        database = database.model_copy(update={"url": f"sqlite:///{data_dir / 'node.sqlite'}"})
    broker = config.broker
    if not broker.url:
        broker = broker.model_copy(update={"url": f"folder://{data_dir / 'broker'}"})
    peers = tuple(p.model_copy(update={"tls": _tls_below(p.tls, base)}) for p in config.listener.peer)
    listener = config.listener.model_copy(update={"tls": _tls_below(config.listener.tls, base), "peer": peers})
    destinations = tuple(d.model_copy(update={"tls": _tls_below(d.tls, base)}) for d in config.delivery.destination)
    worker, bundle = config.worker, base / config.worker.bundle
    if (bundle / "bundle.json").exists():
        worker = worker.model_copy(update={"bundle": str(bundle.resolve())})
    return config.model_copy(
        update={
            "node": config.node.model_copy(update={"data_dir": data_dir}),
            "listener": listener,
            "database": database,
            "broker": broker,
            "worker": worker,
            "delivery": config.delivery.model_copy(update={"destination": destinations}),
        }
    )


def _tls_below(tls: TlsConfig, base: Path) -> TlsConfig:
    """The same with absolute paths."""
    named = {name: path for name, path in tls if path is not None}
    return tls.model_copy(update={name: (base / path).resolve() for name, path in named.items()})


def _check_names(config: Config, text: str, source: str) -> None:
    """Routes and destinations must name what exists, and names must differ."""
    names = [d.name for d in config.delivery.destination]
    _check_unique(names, "[[delivery.destination]]", source)
    _check_unique([profile.name for profile in config.results.profile], "[[results.profile]]", source)
    for route in config.delivery.route:
        for name in route.destinations:
            if name not in names:
                raise ConfigError(f"{source}: [[delivery.route]] names {name!r}; {nearest(name, names)}")
    for index, destination in enumerate(config.delivery.destination):
        if destination.profile not in config.profiles:
            line = find_line(text, ("delivery", "destination", index, "profile"))
            hint = nearest(destination.profile, list(config.profiles))
            raise ConfigError(f"{source}:{line}: there is no profile {destination.profile!r}; {hint}")


def _check_unique(names: list[str], what: str, source: str) -> None:
    for name in {n for n in names if names.count(n) > 1}:
        raise ConfigError(f"{source}: two {what} are called {name!r}; names must differ")


def _expand(value: Any, text: str, source: str) -> Any:
    """Replace ${NAME} in every string by the environment's value. Raises ConfigError when it is not set."""
    if isinstance(value, dict):
        return {key: _expand(item, text, source) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, text, source) for item in value]
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda match: _from_environment(match.group(1), text, source), value)
    return value


def _from_environment(name: str, text: str, source: str) -> str:
    if name not in os.environ:
        lines = [line.partition("#")[0] for line in text.splitlines()]
        line = next((number for number, line in enumerate(lines, start=1) if f"${{{name}}}" in line), 1)
        raise ConfigError(f"{source}:{line}: ${{{name}}} is not set in the environment")
    return os.environ[name]


def _ae_title(value: str) -> str:
    """The AE title without padding spaces. Raises ValueError."""
    if not AE_TITLE.match(value):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters, no backslash (PS3.5 section 6.2)")
    return value.strip()
