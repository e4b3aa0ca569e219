"""Real counterparts for the tests, each a context manager with `start`, `stop` and (servers) `restart`.

A peer that this machine lacks skips the test by name (`presence.need`); in CI it fails it. `make peers` installs all.
"""

from tests.peers.chromium import Chromium
from tests.peers.dcmtk import QueryScp, StoreScp, dcmsend, echoscu, storescu
from tests.peers.dicom3tools import Verdict, dcentvfy, dciodvfy
from tests.peers.ohif import Ohif
from tests.peers.orthanc import Orthanc, StoredSeries
from tests.peers.postgresql import PostgreSQL
from tests.peers.presence import need
from tests.peers.process import HOST, PeerError, Process, free_port, run_process, wait_until
from tests.peers.rabbitmq import RabbitMQ
from tests.peers.redis import Redis

__all__ = [
    "HOST",
    "Chromium",
    "Ohif",
    "Orthanc",
    "PeerError",
    "PostgreSQL",
    "Process",
    "QueryScp",
    "RabbitMQ",
    "Redis",
    "StoreScp",
    "StoredSeries",
    "Verdict",
    "dcentvfy",
    "dciodvfy",
    "dcmsend",
    "echoscu",
    "free_port",
    "need",
    "run_process",
    "storescu",
    "wait_until",
]
