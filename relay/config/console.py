"""What can be set of the console: where it is, under which names, for whom."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from relay.config.fields import ExistingFile, Form, Host, Networks, Port, Seconds, Section, Wrong, YesNo, items

Hosts = Annotated[
    tuple[Host, ...], BeforeValidator(items), Form("a list of host names", "names with commas between, or a JSON list")
]

Ports = Annotated[
    tuple[Port, ...], BeforeValidator(items), Form("a list of ports", "ports with commas between, or a JSON list")
]

Url = Annotated[
    str,
    Field(pattern=r"^(?:https?://[A-Za-z0-9.:\[\]-]{1,255})?$"),
    Form("an address", "https://<host>, with :<port> if it is not 443, and nothing behind"),
]


class ConsoleSettings(Section):
    """Web console, REST API, metrics, health."""

    host: Host = Field(default="127.0.0.1", description="address to listen on")
    port: Port = Field(default=8025, description="port to listen on")
    enabled: YesNo = Field(default=True, description="no switches the console off")
    url: Url = Field(default="", description="its address as people type it (none: http://<host>:<port>)")
    hosts: Hosts = Field(
        default=(), description="further host names it answers to (Host header), besides its own and those of URL"
    )
    tls_cert: ExistingFile | None = Field(default=None, description="certificate chain (PEM): serve HTTPS")
    tls_key: ExistingFile | None = Field(default=None, description="its key (none: in the certificate's file)")
    metrics_networks: Networks = Field(
        default=(ip_network("127.0.0.0/8"), ip_network("::1/128")),
        description="who may read /metrics, and why /readyz says no",
        json_schema_extra={"default": "127.0.0.0/8,::1/128"},
    )
    trusted_proxies: Networks = Field(default=(), description="reverse proxies whose X-Forwarded-For counts")
    allow_private_upstreams: YesNo = Field(
        default=False, description="accounts may be given hosts in private networks through the console or the API"
    )
    upstream_ports: Ports = Field(
        default=(), description="ports they may be given there, besides 25, 465, 587 and of IMAP 143, 993"
    )
    session_s: Seconds = Field(default=43_200, description="longest time that somebody stays signed in")
    idle_s: Seconds = Field(default=3_600, description="time without a page after which they are signed out")

    @model_validator(mode="after")
    def _closed(self) -> Self:
        if self.tls_key is not None and self.tls_cert is None:
            raise Wrong("tls_key", "set without RELAY_CONSOLE__TLS_CERT; give both, or neither")
        return self


def own_names(settings: ConsoleSettings) -> frozenset[str]:
    """Under which names the console may be called."""
    own = {"localhost", "127.0.0.1", "::1", *(name.lower().strip("[]") for name in settings.hosts)}
    if settings.host not in ("0.0.0.0", "::", "[::]"):  # noqa: S104  # every address is no name
        own.add(settings.host.lower().strip("[]"))
    if settings.url:
        own.add(urlsplit(settings.url).hostname or "")
    return frozenset(own - {""})
