"""A node as an administrator runs it: `dicom-node serve` in its own processes, seen from outside only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from dicom_node import reports
from dicom_node.config import load_config
from dicom_node.db import Database, make_engine
from dicom_node.errors import NotFound
from tests.peers import HOST, Process, echoscu, free_port, wait_until

REPO = Path(__file__).parents[2]
ENDED = {"SUCCEEDED", "REJECTED", "FAILED", "QUARANTINED", "CANCELLED"}


class Node:
    """`with Node(folder, destinations={"pacs": ("ORTHANC", port)}) as node:` is up when C-ECHO answers."""

    ae_title = "ICHNODE"

    def __init__(
        self,
        folder: Path,
        *,
        destinations: dict[str, tuple[str, int]],
        database_url: str = "",
        broker_url: str = "",
        sections: Mapping[str, Mapping[str, object]] | None = None,
        of_each_destination: Mapping[str, object] | None = None,
    ) -> None:
        """`sections` adds keys to sections of config.toml, e.g. {"completion": {"quiet_s": 2.0}}.

        `of_each_destination` does to every [[delivery.destination]], e.g. {"commitment": True}.
        """
        self.port = free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config_path = folder / "config.toml"
        tables: dict[str, dict[str, object]] = {
            "node": {"ae_title": self.ae_title, "data_dir": str(folder / "data")},
            "listener": {"port": self.port, "min_free_bytes": 100_000_000},
            "database": {"url": database_url},
            "broker": {"url": broker_url},
            "completion": {"quiet_s": 3.0},
            "worker": {"threads": 1},
            "delivery": {"retry_first_s": 0.5, "retry_longest_s": 2.0},
            "logging": {"format": "json"},
        }
        for name, keys in (sections or {}).items():
            tables.setdefault(name, {}).update(keys)
        lines = []
        for name, keys in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        for name, (ae_title, port) in destinations.items():
            lines += ["[[delivery.destination]]", f'name = "{name}"', f'ae_title = "{ae_title}"']
            lines += [f'host = "{HOST}"', f"port = {port}"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in (of_each_destination or {}).items()]
        self.config_path.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "dicom_node", "--config", str(self.config_path), "serve"]
        self.process = Process(command, name="node", folder=folder, cwd=REPO)

    @property
    def archive(self) -> Path:
        """Where its files lie."""
        return self.folder / "data" / "archive"

    def start(self) -> Self:
        """Start it and wait until it answers C-ECHO."""
        if self.cli("db", "upgrade", check=False).returncode != 0:
            raise AssertionError(self.cli("db", "upgrade", check=False).stderr)
        self._database = Database(make_engine(load_config(self.config_path).database))
        self.process.start()
        wait_until(self.answers, what="the node answers C-ECHO", process=self.process)
        return self

    def answers(self) -> bool:
        """Whether the listener is up."""
        return echoscu(self.port, called=self.ae_title, check=False).returncode == 0

    def parts(self, *words: str) -> list[psutil.Process]:
        """Its child processes whose command line has one of these words: "listener", "sweeper", "worker"."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            if any(word in line for word in words):
                found.append(child)
        return found

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`dicom-node` with this node's configuration."""
        done = subprocess.run(
            [sys.executable, "-m", "dicom_node", "--config", str(self.config_path), *arguments],
            capture_output=True, text=True, cwd=REPO, env=dict(os.environ), check=False, timeout=120,
        )  # fmt: skip
        assert not (check and done.returncode), (
            f"dicom-node {arguments} ended with {done.returncode}: {done.stderr}{done.stdout}"
        )
        return done

    def json(self, *arguments: str) -> Any:
        """The JSON that a command prints, whatever its exit code."""
        done = self.cli(*arguments, "--json", check=False)
        assert done.stdout.strip(), f"dicom-node {arguments} printed nothing: {done.stderr}"
        return json.loads(done.stdout)

    def study(self, study_instance_uid: str) -> dict[str, Any]:
        """What `dicom-node show` prints, without its start-up time; {} before the study is known."""
        try:
            with self._database.reading() as session:
                return reports.show(session, study_instance_uid)
        except NotFound:
            return {}

    def ledger(self) -> dict[str, Any]:
        """What `dicom-node status` prints."""
        with self._database.reading() as session:
            return reports.ledger(session)

    def wait_for_end(self, study_instance_uid: str, *, generation: int = 1, timeout_s: float = 120.0) -> dict[str, Any]:
        """The study once its job of this generation has ended and nothing waits to be delivered or confirmed."""
        latest: dict[str, Any] = {}

        def ended() -> bool:
            latest.clear()
            latest.update(self.study(study_instance_uid))
            if latest.get("generation") != generation or not latest["jobs"]:
                return False
            job = latest["jobs"][-1]
            waiting = [d for r in job["results"] for d in r["deliveries"] if _is_under_way(d)]
            return job["state"] in ENDED and not waiting and latest["state"] == "COMPLETE"

        wait_until(ended, what=f"the end of generation {generation}", timeout_s=timeout_s, process=self.process)
        return latest

    def stop(self) -> None:
        """SIGTERM, as a service manager does."""
        self.process.stop(timeout_s=40)
        self._database.engine.dispose()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _is_under_way(delivery: dict[str, Any]) -> bool:
    """To be sent, or sent and not yet confirmed by a destination that is asked to."""
    return delivery["state"] == "PENDING" or (delivery["state"] == "SENT" and delivery["next_try_at"] is not None)
