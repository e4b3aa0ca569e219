"""The doctor: what is well, what is not, and what to do about it; it ends whatever it finds."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from dicom_node import doctor, registry, schema
from dicom_node.config import Config
from dicom_node.config_sections import RetentionConfig
from dicom_node.db import now
from dicom_node.doctor import Finding
from dicom_node.tables import Instance
from tests.dicom_node.house import House, head_ct, make_config
from tests.peers import StoreScp, free_port

# pynetdicom drops the socket of a connection that failed without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")


def examined(house: House) -> dict[str, Finding]:
    """Findings by name."""
    return {finding.check: finding for finding in doctor.examine(house.config)}


def destination(port: int) -> str:
    """A section of config.toml."""
    return (
        f'[[delivery.destination]]\nname = "pacs"\nae_title = "P"\nhost = "127.0.0.1"\nport = {port}\ntimeout_s = 2.0\n'
    )


@pytest.mark.peer("dcmtk")
def test_a_node_that_is_well(storescp: StoreScp, make_house: Callable[..., House]) -> None:
    """Everything but a bundle, which may not be shipped here."""
    house = make_house("[listener]\nmin_free_bytes = 1\n" + destination(storescp.port))
    findings = examined(house)
    unwell = {name for name, finding in findings.items() if not finding.ok}
    assert unwell <= {"bundle"}
    assert {"data directory", "database", "broker", "decoders", "destination pacs", "bundle"} <= set(findings)
    assert ("clock" in findings) == (house.engine.dialect.name == "postgresql")
    assert list(house.config.node.data_dir.glob(".doctor*")) == []


def test_everything_that_is_wrong_is_named(make_small_house: Callable[..., House]) -> None:
    """Each with a hint, and no password."""
    house = make_small_house(f"[listener]\nmin_free_bytes = {10**18}\n{destination(free_port())}")
    config = house.config.model_copy(
        update={
            "database": house.config.database.model_copy(
                update={"url": f"postgresql+psycopg://n:s3cret@127.0.0.1:{free_port()}/x"}
            ),
            "broker": house.config.broker.model_copy(update={"url": f"redis://127.0.0.1:{free_port()}/0"}),
            "worker": house.config.worker.model_copy(update={"bundle": "nothing"}),
        }
    )
    findings = {finding.check: finding for finding in doctor.examine(config)}
    for name, hint in {
        "data directory": "0xA700",
        "database": "is the server up",
        "broker": "jobs wait in the database",
        "bundle": "dicom-node bundles",
        "destination pacs": "no association",
    }.items():
        assert not findings[name].ok, name
        assert hint in findings[name].found
    assert "s3cret" not in str(findings)


def test_a_data_directory_that_cannot_be_made_is_a_finding(tmp_path: Path) -> None:
    """With the embedded database and broker below it."""
    (tmp_path / "data").write_bytes(b"no folder")
    unwell = {finding.check: finding.found for finding in doctor.examine(make_config(tmp_path)) if not finding.ok}
    assert "cannot be written" in unwell["data directory"]
    assert "OperationalError" in unwell["database"]


def test_a_damaged_bundle_is_a_finding(tmp_path: Path) -> None:
    """No worker would start with it, and no job end: here is where that is looked for."""
    folder = tmp_path / "mine"
    shutil.copytree(registry.find("default")["folder"], folder)
    config = make_config(tmp_path, text=f'[worker]\nbundle = "{folder}"\n')
    (whole,) = doctor._bundle(config)
    assert (whole.ok, whole.found.endswith(", calls an exam from 0.7")) == (True, True)
    other = config.model_copy(update={"worker": config.worker.model_copy(update={"exam_threshold": 0.55})})
    (chosen,) = doctor._bundle(other)
    assert chosen.found.endswith(", calls an exam from 0.55 by worker.exam_threshold, by itself 0.7")
    with (folder / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    (damaged,) = doctor._bundle(config)
    assert (damaged.ok, "changed or damaged" in damaged.found) == (False, True)


def test_an_empty_database_is_told_what_to_do(make_house: Callable[..., House]) -> None:
    """Without doing it."""
    house = make_house()
    schema.downgrade(house.engine, "base")
    finding = examined(house)["database"]
    assert (finding.ok, "run `dicom-node db upgrade`" in finding.found) == (False, True)
    assert not examined(house)["destinations"].ok


def test_how_long_the_disk_lasts(make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the rate of the last week, while nothing is ever removed; and what makes room when something is."""
    house = make_house("[listener]\nmin_free_bytes = 0\n")
    assert examined(house)["room"].found == "0.0 GB of images came in the last 7 days and are kept; images go never"
    house.receive(head_ct())
    house.change(Instance, size_bytes=10**9)
    for free_gb, lasts, ok in ((12, 7, False), (120, 70, True)):
        usage = SimpleNamespace(free=free_gb * 10**9)
        monkeypatch.setattr("dicom_node.doctor.shutil.disk_usage", lambda _, usage=usage: usage)
        finding = examined(house)["room"]
        assert (finding.ok, "12.0 GB of images came in the last 7 days" in finding.found) == (ok, True)
        assert f"the disk lasts {lasts} more days" in finding.found
        assert ("set [retention] images_days" in finding.found) is not ok
    house.change(Instance, received_at=now() - timedelta(days=8))
    assert "lasts" not in examined(house)["room"].found
    rules = RetentionConfig(images_days=30, make_room_below_bytes=5 * 10**9)
    (finding,) = doctor._growth(house.config.model_copy(update={"retention": rules}))
    assert (finding.ok, finding.found.endswith("images go after 30 days or below 5.0 GB free")) == (True, True)


@pytest.mark.peer("dcmtk")
def test_commitment_reports_that_could_not_be_brought(storescp: StoreScp, tmp_path: Path) -> None:
    """By a destination that may not call, and to a peer that is not there; one that is there is well."""
    (lonely, missing, there) = doctor._commitment(
        make_config(
            tmp_path,
            text='[[delivery.destination]]\nname = "a"\nae_title = "A"\nhost = "pacs"\nport = 104\ncommitment = true\n'
            '[[delivery.destination]]\nname = "b"\nae_title = "B"\nhost = "pacs"\nport = 104\ncommitment = true\n'
            f'[[listener.peer]]\nae_title = "B"\nhost = "127.0.0.1"\nport = {free_port()}\ntimeout_s = 2.0\n'
            f'[[listener.peer]]\nae_title = "C"\nhost = "127.0.0.1"\nport = {storescp.port}\n',
        )
    )
    assert (lonely.check, lonely.ok) == ("commitment by a", False)
    assert "[[listener.peer]] does not list A" in lonely.found
    assert (missing.check, missing.ok) == ("peer B", False)
    assert (there.check, there.ok) == ("peer C", True)


@pytest.mark.parametrize("days", [365, 5, -2])
def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Valid, near their end, over; with another key, or none at all."""
    for name in ("node", "other"):
        _certificate(tmp_path / name, days=10)
    monkeypatch.setattr(doctor, "datetime", _clock(ahead=timedelta(days=10 - days)))
    tls = f"""[listener.tls]
certificate = "{tmp_path}/node.crt"
private_key = "{tmp_path}/{{}}.key"
ca_certificates = "{tmp_path}/node.crt"
"""
    finding = _of_listener(make_config(tmp_path, text=tls.format("node")))
    assert finding.ok == (days == 365)
    assert ("expired" in finding.found) == (days < 0)
    assert not _of_listener(make_config(tmp_path, text=tls.format("other"))).ok
    assert not _of_listener(make_config(tmp_path, text=tls.format("missing"))).ok


def _of_listener(config: Config) -> Finding:
    (finding,) = doctor._certificates(config)
    assert finding.check == "certificate of listener"
    return finding


def _clock(*, ahead: timedelta) -> type[datetime]:
    """A clock that runs ahead: openssl makes no certificate that is already over."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            real = datetime.now(tz) + ahead
            return cls.fromtimestamp(real.timestamp(), tz)

    return Ahead


def _certificate(path: Path, *, days: int) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", str(days),
         "-keyout", f"{path}.key", "-out", f"{path}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
