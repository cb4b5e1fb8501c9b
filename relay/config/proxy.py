"""A proxy on the way out: how it is written, and which hosts are reached without it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote, urlsplit

from relay.config.wording import shown

if TYPE_CHECKING:
    from pydantic import SecretStr

_PORTS: dict[str, int] = {"http": 3128, "socks5": 1080}
_SCHEMES: dict[str, Literal["http", "socks5"]] = {"http": "http", "socks5": "socks5", "socks5h": "socks5"}
_RIGHT = "give http://HOST:PORT (CONNECT) or socks5://HOST:PORT"
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_MAX_LOGIN = 255  # octets, RFC 1929 2


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where to ask for a connection. `login` empty: none is sent; names are resolved by the proxy, never here."""

    scheme: Literal["http", "socks5"]
    host: str
    port: int
    login: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """As people may see it: with the login, without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{quote(self.login, safe='') + '@' if self.login else ''}{host}:{self.port}"


def parse_proxy(text: str) -> Proxy:
    """Read `scheme://[login[:password]@]host[:port]`. Raises ValueError; its words never hold what was given.

    The port is 3128 for `http` and 1080 for `socks5` (`socks5h` is the same) unless given.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise ValueError(f"not the address of a proxy; {_RIGHT}") from None
    if "://" not in text:  # `proxy:1080` may be either kind; a guess would be found out by mail that waits
        raise ValueError(f"not the address of a proxy; {_RIGHT}")
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        raise ValueError(f"a proxy of this kind is not known; {_RIGHT}")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"more than a host and a port, or a password whose /, ? or # is not %-escaped; {_RIGHT}")
    if not _is_host(host) or port == 0:
        raise ValueError(f"without a usable host or port; {_RIGHT}")
    login, password = unquote(parts.username or ""), unquote(parts.password or "")
    for part in (login, password):
        if len(part.encode("utf-8", "replace")) > _MAX_LOGIN or not part.isprintable():
            raise ValueError("its login or password is longer than 255 octets or holds a control character")
    if ":" in login:
        raise ValueError("its login holds a colon, which no proxy can take (RFC 7617 2)")
    if password and not login:
        raise ValueError("a password without a login; give LOGIN:PASSWORD@ before the host")
    return Proxy(scheme, host, port or _PORTS[scheme], login, password)


def url_with_password(proxy: Proxy, password: SecretStr | None) -> str:
    """As a library takes it that names are resolved at the proxy for: a secret. `password` counts before its own."""
    secret = password.get_secret_value() if password is not None else proxy.password
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    login = f"{quote(proxy.login, safe='')}:{quote(secret, safe='')}@" if proxy.login else ""
    return f"{'socks5h' if proxy.scheme == 'socks5' else proxy.scheme}://{login}{host}:{proxy.port}"


def exception_of(text: str) -> str:
    """One entry of a NO_PROXY list in its stored form: `*`, a network, or a name (itself and what is below it).

    Raises ValueError.
    """
    entry = text.strip().lower()
    if entry == "*":
        return entry
    try:
        return str(ip_network(entry.strip("[]"), strict=False))
    except ValueError:
        pass
    name = entry.removeprefix("*").strip(".")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{shown(text)} is neither a host name, a domain, a network nor *")
    return name


def is_exception(host: str, exceptions: tuple[str, ...]) -> bool:
    """Is `host` reached without the proxy? A network matches addresses alone: no name is resolved for it."""
    name = host.lower().strip("[]").rstrip(".")
    try:
        address = ip_address(name)
    except ValueError:
        return any(entry == "*" or name == entry or name.endswith("." + entry) for entry in exceptions)
    return any(entry == "*" or ("/" in entry and address in ip_network(entry)) for entry in exceptions)


def _is_host(host: str) -> bool:
    if _NAME.fullmatch(host):
        return True
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False
