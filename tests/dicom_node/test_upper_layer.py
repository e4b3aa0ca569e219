"""The upper layer on a socket of its own; with peers it is tested in test_scp*.py."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import closing

import pytest

from dicom_node.upper_layer import Wire

HIGHEST_OF_SELECT = 1023
"""FD_SETSIZE - 1 (select(2))."""


def test_a_wire_waits_on_any_file_descriptor() -> None:
    """A listener with many associations has more files open than select(2) can watch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HIGHEST_OF_SELECT + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("this machine allows no process so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    opened = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while opened[-1] < HIGHEST_OF_SELECT:
            opened.append(os.dup(opened[0]))
        ours, theirs = socket.socketpair()
        with closing(ours), closing(theirs):
            wire = Wire(ours, timeout_s=1.0)
            assert ours.fileno() > HIGHEST_OF_SELECT
            assert not wire.has_more(0.01)
            theirs.sendall(b"x")
            assert wire.has_more(10.0)
            theirs.shutdown(socket.SHUT_WR)
            assert wire.has_more(10.0)
    finally:
        for one in opened:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
