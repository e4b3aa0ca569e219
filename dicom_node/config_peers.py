"""Who the node talks to, as config.toml names them: peers that may call it, and destinations of its results."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from dicom_node.profiles import STANDARD
from dicom_node.section import Section

AE_TITLE = re.compile(r"^(?=.*\S)[ -\[\]-~]{1,16}$")
"""PS3.5 section 6.2, VR AE: 16 characters of the default repertoire, no backslash, not only spaces."""
TOKEN = re.compile(r"[!-~]*")
"""What an Authorization header can carry after `Bearer `: visible ASCII (RFC 6750 section 2.1, and more)."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class TlsConfig(Section):
    """DICOM TLS, mutual: both sides show a certificate (PS3.15 B.12, BCP 195). For HTTPS our own one is optional."""

    certificate: Path | None = None
    private_key: Path | None = None
    ca_certificates: Path | None = None

    @property
    def enabled(self) -> bool:
        """TLS is on when a certificate is named."""
        return self.certificate is not None


def with_certificate(tls: TlsConfig) -> TlsConfig:
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
        return ae_title(value)

    @field_validator("addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            ip_network(address, strict=False)
        return value

    @field_validator("tls")
    @classmethod
    def _whole_tls(cls, value: TlsConfig) -> TlsConfig:
        return with_certificate(value)

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
        return ae_title(value) if value else value

    @field_validator("token")
    @classmethod
    def _token(cls, value: str) -> str:
        if not TOKEN.fullmatch(value):
            raise ValueError("a token is visible ASCII without blanks; does it end with the line end of a file?")
        return value

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
        with_certificate(self.tls)
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


def ae_title(value: str) -> str:
    """The AE title without padding spaces. Raises ValueError."""
    if not AE_TITLE.match(value):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters, no backslash (PS3.5 section 6.2)")
    return value.strip()
