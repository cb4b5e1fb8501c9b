"""Which hosts of an account were named through the web, and what may not be set there at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection

from relay.accounts.managing import set_web_hosts
from relay.accounts.model import Account
from relay.control.context import Control, ControlError
from relay.control.oauth_settings import GRANTS, KEYS
from relay.net.guard import normal

_URLS = ("authority", "token_url", "authorize_url", "device_url")
# What leads elsewhere than to a mail server, or reads this machine's files, is for its operators.
_NEVER = ("proxy", "proxy_password", "source_address", "ip")
_FILES = ("sha256:", "name:")  # the values of trust that name no file


def check_by_web(control: Control, given: Mapping[str, Any]) -> None:
    """Raises ControlError (forbidden) when a request that came through the web sets what is for operators."""
    if control.principal is None:
        return
    for name in _NEVER:
        if given.get(name) is not None:
            raise _forbidden(name)
    trust = given.get("trust")
    if isinstance(trust, str) and not trust.startswith(_FILES):
        raise _forbidden("trust: a file")
    for name in ("port", "imap_port"):
        port = given.get(name)
        if port is not None and not control.ways.guard.allows_port(port):
            raise ControlError(
                f"{name} {port} cannot be set through the web",
                "give 587, 465 or 25 (IMAP: 993, 143), or let RELAY_CONSOLE__UPSTREAM_PORTS allow it",
                "invalid",
            )


def mark(connection: Connection, control: Control, before: Account | None, now: Account, named: Iterable[str]) -> None:
    """Keep the guard's list in step with a change, in the caller's transaction. `named`: hosts that the change gave.

    A host that is new by a request of the web is guarded until an operator names it, and gets no secret that was
    stored before: secrets are written through the web, never read.
    """
    hosts, had = hosts_of(now), hosts_of(before) if before is not None else frozenset()
    guarded = frozenset(before.web_hosts.split(",")) if before is not None and before.web_hosts else frozenset()
    if control.principal is not None:
        own = normal(control.settings.upstream.host)
        kept = (guarded & hosts) | (hosts - had - {own})
    else:
        kept = (guarded & hosts) - {normal(host) for host in named}
    if kept != guarded:
        set_web_hosts(connection, now.id, ",".join(sorted(kept)) or None)
    if before is not None and kept - guarded:
        for kind in ("password", *GRANTS, *KEYS):
            control.vault.forget_in(connection, now.id, kind)


def hosts_of(account: Account) -> frozenset[str]:
    """Every host that the account itself names."""
    oauth = json.loads(account.oauth) if account.oauth else {}
    named = {account.host or "", account.imap_host or "", *(host_in(oauth.get(name, "")) for name in _URLS)}
    return frozenset(normal(host) for host in named if host)


def host_in(url: object) -> str:
    """The host of a URL; "" when there is none."""
    try:
        return (urlsplit(url).hostname or "") if isinstance(url, str) else ""
    except ValueError:
        return ""


def named_in(given: Mapping[str, Any]) -> list[str]:
    """Hosts in what a command gave."""
    hosts = [given.get("host"), given.get("imap_host"), *(host_in(given.get(name)) for name in _URLS)]
    return [host for host in hosts if isinstance(host, str) and host]


def _forbidden(what: str) -> ControlError:
    return ControlError(
        f"{what} cannot be set through the web", "let an operator of the machine set it: relay account set", "forbidden"
    )
