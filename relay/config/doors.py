"""What can be set of a front door: where it is, who may come in, TLS, limits."""

from __future__ import annotations

import os
from ipaddress import ip_network
from typing import Self

from pydantic import Field, model_validator

from relay.config.fields import (
    Count,
    DoorTls,
    ExistingFile,
    FileMode,
    Host,
    Name,
    Network,
    Networks,
    Octets,
    Port,
    Seconds,
    Section,
    SocketPath,
    SomeOctets,
    TlsVersion,
    YesNo,
)
from relay.config.wording import Wrong

# Addresses that no stranger on the Internet can have (RFC 1918, RFC 4193, loopback, link-local).
_OWN = tuple(
    map(
        ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "::1",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
_LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_MAX_PATH = 107  # octets; sun_path holds 108 with the one that ends it (unix(7))


class ListenerSettings(Section):
    """Front door."""

    name: Name | None = Field(default=None, description="name of this door, for LISTEN_FDNAMES of systemd")
    host: Host = Field(default="127.0.0.1", description="address to listen on")
    port: Port = Field(default=2525, description="port to listen on")
    path: SocketPath | None = Field(
        default=None,
        description="Unix socket to listen on, in place of HOST and PORT; who comes in there counts as 127.0.0.1",
    )
    path_mode: FileMode = Field(default="0666", description="access mode of PATH")
    tls_cert: ExistingFile | None = Field(
        default=None, description="certificate chain (PEM); read again when it changes"
    )
    tls_key: ExistingFile | None = Field(default=None, description="private key (PEM) of TLS_CERT")
    tls: DoorTls | None = Field(
        default=None,
        description="none, starttls (offered), required (STARTTLS before MAIL) or implicit (from the first octet)",
        json_schema_extra={"default": "starttls with a certificate, else none"},
    )
    tls_min: TlsVersion = Field(
        default="1.2", description="oldest TLS version: 1.0, 1.1, 1.2 or 1.3; below 1.2 only for old printers"
    )
    auth_without_tls: YesNo = Field(
        default=False, description="yes offers AUTH without TLS: passwords cross the network in clear text"
    )
    proxy_networks: Networks = Field(
        default=(),
        description="balancers: they must announce each client by a PROXY header (v1 or v2), nobody else may",
    )
    allowed_networks: Networks = Field(default=_LOOPBACK, description="who may connect at all")
    allow_public: YesNo = Field(default=False, description="yes permits public networks in ALLOWED_NETWORKS")
    max_message_bytes: SomeOctets = Field(
        default=52_428_800, description="largest message, advertised as SIZE (RFC 1870)"
    )
    idle_timeout_s: Seconds = Field(
        default=300, description="silence after which a session is closed (RFC 5321 4.5.3.2.7)"
    )
    max_connections: Count = Field(default=1000, description="sessions at a time, in all")
    max_connections_per_client: Count = Field(default=50, description="sessions at a time from one address")
    backlog: Count = Field(default=1024, description="connections that the system keeps until they are accepted")
    max_recipients: Count = Field(
        default=1000, description="recipients of one message (RFC 5321 4.5.3.1.8: at least 100)"
    )
    hostname: Host | None = Field(
        default=None, description="our name in greeting and trace header (none: this machine's)"
    )
    data_min_rate_bytes_s: Octets = Field(
        default=500, description="slowest DATA that is put up with, in bytes a second"
    )
    data_rate_window_s: Seconds = Field(default=60, description="time over which that rate is measured")

    @property
    def tls_mode(self) -> DoorTls:
        """`tls`, its default filled in."""
        if self.tls is not None:
            return self.tls
        return "none" if self.tls_cert is None else "starttls"

    @property
    def address(self) -> str:
        """Where it listens, for people."""
        return str(self.path) if self.path is not None else f"{self.host} port {self.port}"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._place()
        self._encryption()
        if not self.allow_public:
            self._private("allowed_networks", self.allowed_networks)
        self._private("proxy_networks", self.proxy_networks)
        return self

    def _place(self) -> None:
        if self.path is None:
            if self.path_mode != type(self).model_fields["path_mode"].default:
                raise Wrong("path_mode", "set, but PATH is not; give a PATH, or leave it out")
            return
        if also := next((name for name in ("host", "port") if name in self.model_fields_set), ""):
            raise Wrong("path", f"set together with {also.upper()}; give one or the other")
        if len(os.fsencode(self.path)) > _MAX_PATH:
            raise Wrong("path", f"longer than {_MAX_PATH} octets; give a shorter one")

    def _encryption(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing, given = ("tls_key", "tls_cert") if self.tls_key is None else ("tls_cert", "tls_key")
            raise Wrong(missing, f"not set, but {given.upper()} is; give both or neither")
        if self.tls_cert is None:
            if self.tls not in (None, "none"):
                raise Wrong("tls", f"{self.tls} needs a certificate; give TLS_CERT and TLS_KEY, or none")
            if self.tls_min != type(self).model_fields["tls_min"].default:
                raise Wrong("tls_min", "set, but there is no certificate; give TLS_CERT and TLS_KEY, or leave it out")
        elif self.tls == "none":
            raise Wrong("tls", "none, but TLS_CERT is set; leave TLS_CERT and TLS_KEY out, or give starttls")
        if self.auth_without_tls and self.tls in ("required", "implicit"):
            raise Wrong("auth_without_tls", f"yes, but TLS is {self.tls}; give no, or another TLS")

    def _private(self, field: str, networks: Networks) -> None:
        for network in networks:
            if not any(network.version == own.version and network.subnet_of(own) for own in _OWN):  # type: ignore[arg-type]
                remedy = ", or set ALLOW_PUBLIC=yes if that is meant" if field == "allowed_networks" else ""
                raise Wrong(field, f"{network} is public; give private networks only{remedy}")
