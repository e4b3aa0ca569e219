"""RabbitMQ as a Celery broker: a node, a name server (epmd) and a cookie of its own, all on loopback."""

from __future__ import annotations

import os
import subprocess
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import amqp

from tests.peers.presence import need, program
from tests.peers.process import HOST, Process, Server, free_port, listens, own_folder, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGING = "log.file = false\nlog.console = true\nlog.console.level = warning\n"


class RabbitMQ(Server):
    """One broker whose durable queues outlive `stop` and `restart`.

    Every Erlang machine of one host shares the name server on port 4369 and would leave it running; this one brings its
    own, so that a broker of the machine and two test runs do not meet.
    """

    name = "RabbitMQ"
    patience_s = 120.0

    def __init__(self, *, port: int | None = None) -> None:
        """Not yet running: `start`, or use it as a context manager."""
        need("rabbitmq")
        self.host, self.port = HOST, port or free_port()
        self.url = self.vhost_url("/")
        home = own_folder("rabbitmq")
        (home / "enabled_plugins").write_text("[].\n")
        (home / "rabbitmq.conf").write_text(f"listeners.tcp.1 = {HOST}:{self.port}\n{LOGGING}")
        name_server_port = str(free_port())
        self.environment = {
            "HOME": str(home),
            "ERL_EPMD_PORT": name_server_port,
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"test-{uuid.uuid4().hex[:8]}@localhost",
            "RABBITMQ_CONF_ENV_FILE": str(home / "no-environment-file"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self.name_server = Process(
            [program("epmd"), "-port", name_server_port, "-address", HOST, "-relaxed_command_check"],
            name="epmd",
            folder=home,
            env=self.environment,
        )
        self.process = Process(
            [program("rabbitmq-server")], name="rabbitmq", folder=home, cwd=home, env=self.environment
        )
        self._name_server_port = int(name_server_port)

    def start(self) -> Self:
        """Starts it and waits until a client can log in."""
        if not self.name_server.running:
            self.name_server.start()
        wait_until(lambda: listens(self._name_server_port), what="epmd listens", process=self.name_server)
        return super().start()

    def stop(self) -> None:
        """Ends it: a broker that is gone. Durable queues stay on disk."""
        super().stop()
        self.name_server.stop()

    def vhost_url(self, vhost: str) -> str:
        """The broker URL of a virtual host, for Celery and kombu."""
        return f"amqp://guest:guest@{HOST}:{self.port}/{vhost}"

    def control(self, *arguments: str) -> str:
        """rabbitmqctl; about a second each."""
        done = subprocess.run(
            [program("rabbitmqctl"), *arguments],
            env={**os.environ, **self.environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"rabbitmqctl {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """The URL of a new virtual host (no queue, no message) that is deleted at the end."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        try:
            self.control("add_vhost", name)
        except AssertionError:  # epmd forgot the node, seen once on a busy machine: only a restart registers it again
            self.restart()
            self.control("add_vhost", name)
        self.control("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        try:
            yield self.vhost_url(name)
        finally:
            if not self.process.running:
                self.start()
            self.control("delete_vhost", name)

    def answers(self) -> bool:
        """See Server."""
        if not listens(self.port):
            return False
        try:
            with amqp.Connection(host=f"{HOST}:{self.port}", connect_timeout=5):
                return True
        except (OSError, amqp.AMQPError):
            return False
