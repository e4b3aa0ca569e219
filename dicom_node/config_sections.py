"""The sections of config.toml: one frozen class each, every default and unit stated there too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import sqlalchemy as sa
from pydantic import AfterValidator, Field, field_validator

from dicom_node.config_peers import DestinationConfig, PeerConfig, TlsConfig, ae_title, with_certificate
from dicom_node.profiles import ProfileConfig
from dicom_node.section import MOST_DAYS, Section
from dicom_node.states import ResultKind


def _one_value(value: str) -> str:
    """In DICOM a backslash ends a value and begins the next."""
    if "\\" in value or any(character < " " for character in value):
        raise ValueError("a backslash or a control character cannot stand in it")
    return value


LongString = Annotated[str, Field(max_length=64), AfterValidator(_one_value)]
"""One value of VR LO (PS3.5 section 6.2)."""


class NodeConfig(Section):
    """Who this node is and where it keeps things."""

    ae_title: str = "ICHNODE"
    data_dir: Path = Path("var")
    institution_name: LongString = ""
    timezone_offset: str = "+0000"

    @field_validator("ae_title")
    @classmethod
    def _ae(cls, value: str) -> str:
        return ae_title(value)

    @field_validator("timezone_offset")
    @classmethod
    def _offset(cls, value: str) -> str:
        if not re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", value):
            raise ValueError("write it as +HHMM or -HHMM, for example +0100")
        return value


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
        if value.enabled and value.ca_certificates is None:
            raise ValueError("ca_certificates is missing: peers show a certificate too, and it says whose are good")
        return with_certificate(value)


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
    exam_threshold: float = Field(default=0.0, ge=0, lt=1)
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
    seg_series_description: LongString = "AI ICH SEG - RESEARCH, not for diagnosis"
    sr_series_description: LongString = "AI ICH report - RESEARCH, not for diagnosis"
    kos_series_description: LongString = "AI ICH key images - RESEARCH, not for diagnosis"
    sc_series_description: LongString = "AI ICH summary - RESEARCH, not for diagnosis"
    pdf_series_description: LongString = "AI ICH document - RESEARCH, not for diagnosis"
    send_sr_when_rejected: bool = True
    send_seg_when_negative: bool = True
    profile: tuple[ProfileConfig, ...] = ()


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


class RetentionConfig(Section):
    """What leaves the node again, and when; 0 is never."""

    images_days: float = Field(default=0.0, ge=0, le=MOST_DAYS)
    results_days: float = Field(default=0.0, ge=0, le=MOST_DAYS)
    transactions_days: float = Field(default=0.0, ge=0, le=MOST_DAYS)
    make_room_below_bytes: int = Field(default=0, ge=0)


class LoggingConfig(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
