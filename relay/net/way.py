"""The way out: through which proxy, from which address, by which version of IP, trusting whom besides the system."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from relay.config.proxy import Proxy, is_exception
from relay.net.guard import UNGUARDED, Guard

IpVersion = Literal["auto", "4", "6"]


@dataclass(frozen=True, slots=True)
class Way:
    """How connections leave this machine.

    `source`: local addresses, at most one of each IP version; `exceptions`: hosts reached without the proxy (see
    `config.proxy`).  With a proxy, `source` and `ip` are for the connection to it, and the proxy resolves names.
    `ca_file`: authorities trusted besides the system's, for whoever names no trust of its own.
    `guard`: where hosts may not lead that were named through the web.
    """

    proxy: Proxy | None = None
    source: tuple[str, ...] = ()
    ip: IpVersion = "auto"
    exceptions: tuple[str, ...] = ()
    ca_file: Path | None = None
    guard: Guard = UNGUARDED

    def proxy_for(self, host: str) -> Proxy | None:
        """The proxy that leads to `host`; None: it is reached without one."""
        return None if self.proxy is None or is_exception(host, self.exceptions) else self.proxy

    def described(self, host: str) -> str:
        """For people: empty when there is nothing to tell, else such as `through proxy http://proxy:3128`."""
        proxy = self.proxy_for(host)
        words = [f"through proxy {proxy}"] if proxy is not None else []
        words += [f"from {' or '.join(self.source)}"] if self.source else []
        words += [f"by IPv{self.ip}"] if self.ip != "auto" else []
        return " ".join(words)


DIRECT = Way()

# The way of an account, by its id. May raise any CredentialError: a proxy's password is a secret.
WayOf = Callable[[int], Awaitable[Way]]


async def direct(_account_id: int) -> Way:
    """A `WayOf` that knows one way only."""
    return DIRECT
