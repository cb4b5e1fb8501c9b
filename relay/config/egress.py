"""Settings of the way out: proxy, source address, IP version, authorities of one's own."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from relay.config.addresses import sources_of
from relay.config.fields import ExistingFile, Form, Section, items
from relay.config.proxy import Proxy, exception_of, parse_proxy
from relay.config.wording import Wrong

IpVersion = Literal["auto", "4", "6"]
_DIRECT = ("localhost", "127.0.0.0/8", "::1/128")


def _proxy(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_proxy(value)
    except ValueError as error:
        raise Wrong("", str(error)) from None


def _exceptions(value: object) -> object:
    members = items(value)
    if not isinstance(members, tuple | list):
        return members
    try:
        return tuple(exception_of(str(member)) for member in members)
    except ValueError as error:
        raise Wrong("", f"{error}; give names, domains or networks with commas between") from None


def _sources(value: object) -> object:
    members = items(value)
    if not isinstance(members, tuple | list) or not members:
        return members
    try:
        return sources_of(",".join(map(str, members)))
    except ValueError as error:
        raise Wrong("", str(error)) from None


class EgressSettings(Section):
    """Way out, for SMTP, IMAP and HTTPS alike; an account may have its own."""

    proxy: Annotated[
        Proxy | None, BeforeValidator(_proxy), Form("a proxy", "http://HOST:PORT or socks5://HOST:PORT")
    ] = Field(default=None, description="proxy, as http://[LOGIN@]HOST:PORT (CONNECT) or socks5://[LOGIN@]HOST:PORT")
    proxy_password: Annotated[SecretStr | None, Form("a password", "what the proxy wants with the login")] = Field(
        default=None, description="its password; better as a file in the secrets folder"
    )
    no_proxy: Annotated[
        tuple[str, ...], BeforeValidator(_exceptions), Form("a list of hosts", "names, domains or networks")
    ] = Field(default=_DIRECT, description="hosts, domains, networks (of literal addresses) reached without it")
    source_address: Annotated[
        tuple[str, ...], BeforeValidator(_sources), Form("an address", "an IP address of this machine")
    ] = Field(default=(), description="local address to connect from; one of each IP version at most")
    ip: Annotated[IpVersion, Form("an IP version", "auto, 4 or 6")] = Field(
        default="auto", description="auto: IPv6 and IPv4 side by side (RFC 8305); 4 or 6: that alone"
    )
    ca_file: ExistingFile | None = Field(
        default=None, description="CA file trusted besides the system's, as of a proxy that inspects TLS"
    )

    @field_validator("proxy_password")
    @classmethod
    def _carriable(cls, password: SecretStr | None) -> SecretStr | None:
        if password is not None and (len(password.get_secret_value()) > 255 or not password.get_secret_value()):
            raise Wrong("", "the value given is empty or longer than 255 characters; give the proxy's password")
        return password

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.proxy_password is None:
            return self
        if self.proxy is None or not self.proxy.login:
            raise Wrong("proxy_password", "there is no login that it belongs to; give PROXY as http://LOGIN@HOST:PORT")
        if self.proxy.password:
            raise Wrong("proxy_password", "PROXY holds a password as well; give one of the two")
        return self
