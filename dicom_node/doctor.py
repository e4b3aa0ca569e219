"""`dicom-node doctor`: every thing the node needs, tried once, with what to do when it is not there."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import broker, registry, schema, scu
from dicom_node.config import Config
from dicom_node.config_peers import DestinationConfig, TlsConfig
from dicom_node.db import make_engine, reading_engine
from dicom_node.errors import DeliveryError, NodeError
from dicom_node.tables import Instance
from dicom_node.transports import transport_of

CERTIFICATE_WARNING_DAYS = 30
MOST_SKEW_S = 2.0
WEEK_DAYS = 7
DISK_WARNING_DAYS = 14


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is well, and what to do if not."""

    check: str
    ok: bool
    found: str


def examine(config: Config) -> list[Finding]:
    """Run every check; none changes anything but a test file that is removed again."""
    return [finding for check in _CHECKS for finding in check(config)]


def _disk(config: Config) -> Iterator[Finding]:
    folder = config.node.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".doctor-{os.getpid()}"
        with probe.open("wb") as file:
            file.write(b"doctor")
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        yield Finding("data directory", ok=False, found=f"{folder} cannot be written: {error.strerror}")
        return
    free = shutil.disk_usage(folder).free
    low = free < config.listener.min_free_bytes
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if low:
        least = config.listener.min_free_bytes / 1e9
        text += f"; below listener.min_free_bytes ({least:.1f} GB): nothing is received (0xA700, associations refused)"
    yield Finding("data directory", ok=not low, found=text)


def _database(config: Config) -> Iterator[Finding]:
    engine = make_engine(config.database)
    name = engine.url.render_as_string(hide_password=True)
    try:
        have, need = schema.current(engine), schema.newest(engine)
        yield from _clock(engine)
    except SQLAlchemyError as error:
        found = f"{name}: {type(error).__name__}; is the server up, is the URL right?"
        yield Finding("database", ok=False, found=found)
        return
    finally:
        engine.dispose()
    hint = "" if have == need else "; run `dicom-node db upgrade`"
    yield Finding("database", ok=have == need, found=f"{name} at revision {have}, needs {need}{hint}")


def _growth(config: Config) -> Iterator[Finding]:
    """How long the disk lasts at the rate of the last week."""
    since = datetime.now(UTC) - timedelta(days=WEEK_DAYS)
    engine = make_engine(config.database)
    try:
        with reading_engine(engine).connect() as connection:
            came = sa.select(sa.func.sum(Instance.size_bytes)).where(Instance.received_at >= since)
            received = int(connection.scalar(came) or 0)
        free = shutil.disk_usage(config.node.data_dir).free - config.listener.min_free_bytes
    except (SQLAlchemyError, OSError):
        return  # said by the checks of the disk and the database
    finally:
        engine.dispose()
    rules = config.retention
    gone = [f"after {rules.images_days:g} days"] if rules.images_days else []
    gone += [f"below {rules.make_room_below_bytes / 1e9:.1f} GB free"] if rules.make_room_below_bytes else []
    found = f"{received / 1e9:.1f} GB of images came in the last {WEEK_DAYS} days and are kept; images go "
    if gone:
        yield Finding("room", ok=True, found=found + " or ".join(gone))
        return
    days = free / received * WEEK_DAYS if received else None
    lasts = "" if days is None else f"; the disk lasts {max(days, 0):.0f} more days"
    ok = days is None or days > DISK_WARNING_DAYS
    hint = "" if ok else ": set [retention] images_days"
    yield Finding("room", ok=ok, found=f"{found}never{lasts}{hint}")


def _clock(engine: sa.Engine) -> Iterator[Finding]:
    """Leases and quiet times are compared across machines: their clocks must agree. The database's is the reference."""
    if engine.dialect.name == "sqlite":
        return
    with reading_engine(engine).connect() as connection:
        theirs: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    skew_s = (datetime.now(UTC) - theirs).total_seconds()
    hint = "" if abs(skew_s) < MOST_SKEW_S else "; set both by NTP, or jobs are taken from workers that are alive"
    yield Finding("clock", ok=not hint, found=f"{skew_s:+.1f} s from the database server{hint}")


def _broker(config: Config) -> Iterator[Finding]:
    waiting = broker.waiting_messages(broker.make_celery(config.broker), config.broker.queue)
    kind = config.broker.url.split(":", 1)[0]
    if waiting is None:
        yield Finding("broker", ok=False, found=f"{kind}: unreachable; jobs wait in the database until it is back")
    else:
        yield Finding("broker", ok=True, found=f"{kind}: {waiting} messages wait in {config.broker.queue}")


def _bundle(config: Config) -> Iterator[Finding]:
    try:
        bundle = registry.find(config.worker.bundle)
    except NodeError as error:
        yield Finding("bundle", ok=False, found=str(error))
        return
    script = (
        "import sys\n"
        "from ml.bundle import load_bundle\n"
        "from ml.errors import BundleError\n"
        "try:\n"
        "    load_bundle(sys.argv[1]).make_network()\n"
        "except BundleError as error:\n"
        "    print(error)"
    )
    wrong = _said_by(script, bundle["folder"], otherwise="it cannot be loaded")
    own, chosen = bundle["exam_threshold"], config.worker.exam_threshold
    called = f"{chosen:g} by worker.exam_threshold, by itself {own}" if chosen else own
    hint = f": {wrong}; no worker starts with it" if wrong else f", calls an exam from {called}"
    yield Finding("bundle", ok=not wrong, found=f"{bundle['name']} {bundle['version']}{hint}")


def _decoders(_config: Config) -> Iterator[Finding]:
    script = (
        "from pydicom.pixels import get_decoder\n"
        "from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless\n"
        "bad = [u.name for u in (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless)"
        " if not get_decoder(u).is_available]\n"
        "print(', '.join(bad))"
    )
    missing = _said_by(script, otherwise="pydicom cannot be loaded")
    hint = "install pylibjpeg, pylibjpeg-libjpeg, pylibjpeg-openjpeg, pyjpegls"
    yield Finding("decoders", ok=not missing, found=f"missing: {missing}; {hint}" if missing else "all there")


def _said_by(script: str, *arguments: str, otherwise: str) -> str:
    """What a script prints, or `otherwise` where it fails.

    In a process of its own: it loads numpy and torch, which this package never does.
    """
    command = [sys.executable, "-c", script, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own script)
    return ran.stdout.strip() or ("" if ran.returncode == 0 else otherwise)


def _destinations(config: Config) -> Iterator[Finding]:
    if not config.delivery.destination:
        found = "none configured: results stay in the archive ([[delivery.destination]])"
        yield Finding("destinations", ok=False, found=found)
    for destination in config.delivery.destination:
        yield _echo(f"destination {destination.name}", destination, config)


def _echo(check: str, destination: DestinationConfig, config: Config) -> Finding:
    try:
        answer = transport_of(destination).echo(destination, config.node)
    except DeliveryError as error:
        return Finding(check, ok=False, found=str(error))
    return Finding(check, ok=True, found=f"{destination.address} answered {answer}")


def _commitment(config: Config) -> Iterator[Finding]:
    """A report that cannot be brought is found out here, and not when it is waited for."""
    for destination in config.delivery.destination:
        if destination.commitment and not config.listener.allows(destination.ae_title, destination.host):
            found = f"[[listener.peer]] does not list {destination.ae_title}: it cannot open an association to report"
            yield Finding(f"commitment by {destination.name}", ok=False, found=found)
    for peer in config.listener.peer:
        if (own := peer.destination) is not None:
            yield _echo(f"peer {peer.ae_title}", own, config)


def _certificates(config: Config) -> Iterator[Finding]:
    parts: list[tuple[str, TlsConfig]] = [("listener", config.listener.tls)]
    parts += [(f"destination {d.name}", d.tls) for d in config.delivery.destination]
    parts += [(f"peer {p.ae_title}", p.tls) for p in config.listener.peer]
    for name, tls in parts:
        if tls.certificate is not None:
            yield _certificate(name, tls, tls.certificate)


def _certificate(name: str, tls: TlsConfig, path: Path) -> Finding:
    """Whether a certificate can be read, has its key beside it, and how long it is still valid."""
    try:
        scu.client_context(tls)
        # The only reader of certificates in the standard library.
        decoded = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]  # noqa: SLF001
    except OSError as error:  # ssl.SSLError is one
        found = f"{path}, its key or ca_certificates cannot be used: {error}"
        return Finding(f"certificate of {name}", ok=False, found=found)
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(decoded["notAfter"]), tz=UTC)
    days = (until - datetime.now(UTC)).days
    found = f"valid for {days} more days" if days >= 0 else f"expired {-days} days ago"
    return Finding(f"certificate of {name}", ok=days > CERTIFICATE_WARNING_DAYS, found=found)


_CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _disk,
    _database,
    _growth,
    _broker,
    _bundle,
    _decoders,
    _certificates,
    _destinations,
    _commitment,
)
