"""Which way a destination is reached."""

from __future__ import annotations

from dicom_node import scu, stow
from dicom_node.config_peers import DestinationConfig
from dicom_node.transport import Transport


def transport_of(destination: DestinationConfig) -> Transport:
    """STOW-RS where there is a URL, else C-STORE."""
    return stow if destination.url else scu
