"""The frozen configuration: config.toml read, checked and filled in.

Unknown keys are refused with their line and the nearest valid name. `${NAME}` inside a string is taken
from the environment, so that passwords need not stand in the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from dicom_node.config_lines import explain, find_line, nearest
from dicom_node.config_peers import DestinationConfig, PeerConfig, TlsConfig
from dicom_node.config_sections import (
    BrokerConfig,
    CompletionConfig,
    ConfirmationConfig,
    DatabaseConfig,
    DeliveryConfig,
    ListenerConfig,
    LoggingConfig,
    NodeConfig,
    ResultsConfig,
    RetentionConfig,
    WorkerConfig,
)
from dicom_node.errors import ConfigError
from dicom_node.profiles import BUILT_IN, STANDARD, ProfileConfig, Variant, variants, with_what_they_refer_to
from dicom_node.rules import EligibilityRules
from dicom_node.section import Section
from dicom_node.states import ResultKind


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
    retention: RetentionConfig = RetentionConfig()
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
            "worker": self.worker.model_dump(mode="json", include={"exam_threshold"}),
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

    def segmented(self, finding: str) -> bool:
        """Whether there is a segmentation of an exam with that finding: positive, negative or rejected."""
        return finding == "positive" or (finding == "negative" and self.results.send_seg_when_negative)

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
        text = chosen.read_text(encoding="utf-8-sig")  # editors of Windows put a byte order mark first
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
    _check_room(config, text, source)
    return _fill(config, base)


def _fill(config: Config, base: Path) -> Config:
    """Make paths absolute and give the embedded defaults their place below the data directory."""
    data_dir = (base / config.node.data_dir).resolve()
    database_url = _database_below(config.database.url, base) or f"sqlite:///{data_dir / 'node.sqlite'}"
    broker_url = _broker_below(config.broker.url, base) or f"folder://{data_dir / 'broker'}"
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
            "database": config.database.model_copy(update={"url": database_url}),
            "broker": config.broker.model_copy(update={"url": broker_url}),
            "worker": worker,
            "delivery": config.delivery.model_copy(update={"destination": destinations}),
        }
    )


def _database_below(url: str, base: Path) -> str:
    """The same with the absolute path of an SQLite file: from another folder a relative one is another database."""
    parts = sa.make_url(url) if url.startswith("sqlite") else None
    if parts is None or not parts.database or parts.database.startswith((":memory:", "file:")):
        return url
    return parts.set(database=str(base / parts.database)).render_as_string(hide_password=False)


def _broker_below(url: str, base: Path) -> str:
    """The same with the absolute path of a folder."""
    folder = url.removeprefix("folder://")
    return f"folder://{base / folder}" if folder != url else url


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


def _check_room(config: Config, text: str, source: str) -> None:
    """Room must be made before everything is refused."""
    room, least = config.retention.make_room_below_bytes, config.listener.min_free_bytes
    if 0 < room <= least:
        line = find_line(text, ("retention", "make_room_below_bytes"))
        raise ConfigError(
            f"{source}:{line}: retention.make_room_below_bytes is {room}, not above listener.min_free_bytes ({least}): "
            "instances would be refused before room is made"
        )


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
