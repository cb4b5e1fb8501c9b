"""What can be set of the console: where it is, under which names, for whom."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from relay.config.fields import Count, ExistingFile, Form, Host, Networks, Port, Seconds, Section, YesNo, items
from relay.config.wording import Wrong

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


Issuer = Annotated[
    str,
    Field(max_length=1024, pattern=r"^(?:https://[A-Za-z0-9.\[\]-]{1,255}(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?)?$"),
    Form("an issuer", "https://…, exactly as the provider calls itself"),
]
ClientId = Annotated[
    str, Field(max_length=255, pattern=r"^[!-~]*$"), Form("the id of an app", "what the provider shows, without spaces")
]
_PROVIDERS = {"login.microsoftonline.com": "Microsoft", "accounts.google.com": "Google"}


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
    oidc_issuer: Issuer = Field(
        default="", description="OpenID provider where people sign in as well, exactly as it calls itself"
    )
    oidc_client_id: ClientId = Field(default="", description="id of your app registration there")
    oidc_client_secret: Annotated[SecretStr | None, Form("a secret", "what the provider gave with the id")] = Field(
        default=None, description="its secret; better as a file in the secrets folder"
    )
    oidc_domains: Hosts = Field(default=(), description="only people with an address in these domains (none: any)")
    oidc_owners: YesNo = Field(
        default=False, description="whoever owns an account's address may sign in uninvited, and sees that account"
    )
    oidc_trust_email: YesNo = Field(
        default=False, description="addresses count that the provider did not verify: only for your own organisation's"
    )
    requests_per_minute: Count = Field(default=1200, description="requests from one address, a fourth of them at once")
    session_s: Seconds = Field(default=43_200, description="longest time that somebody stays signed in")
    idle_s: Seconds = Field(default=3_600, description="time without a page after which they are signed out")

    @property
    def oidc_name(self) -> str:
        """The provider for people; "": there is none."""
        host = urlsplit(self.oidc_issuer).hostname or ""
        return _PROVIDERS.get(host, host)

    @property
    def told(self) -> dict[str, Any]:
        """What the console's process is given, as JSON has it: all but the secret, which only the daemon uses."""
        return self.model_dump(mode="json", exclude={"oidc_client_secret"})

    @model_validator(mode="after")
    def _closed(self) -> Self:
        if self.tls_key is not None and self.tls_cert is None:
            raise Wrong("tls_key", "set without RELAY_CONSOLE__TLS_CERT; give both, or neither")
        if bool(self.oidc_issuer) != bool(self.oidc_client_id):
            missing = "oidc_client_id" if self.oidc_issuer else "oidc_issuer"
            raise Wrong(missing, "missing; give OIDC_ISSUER and OIDC_CLIENT_ID, or neither")
        return self
