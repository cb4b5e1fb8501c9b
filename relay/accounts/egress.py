"""An account's way out: its own settings, else those of all. Pure; its own proxy's password is not known here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from relay.accounts.model import Account
from relay.config.addresses import sources_of
from relay.config.proxy import Proxy, parse_proxy
from relay.net.way import IpVersion, Way

if TYPE_CHECKING:
    from relay.config.egress import EgressSettings

WITHOUT = "direct"  # the value of an account's proxy that goes past the one of all


def way_of_all(settings: EgressSettings) -> Way:
    """The way of accounts that have no egress settings of their own."""
    proxy = settings.proxy
    if proxy is not None and settings.proxy_password is not None:
        proxy = replace(proxy, password=settings.proxy_password.get_secret_value())
    return Way(proxy, settings.source_address, settings.ip, settings.no_proxy, settings.ca_file)


def way_of(account: Account, of_all: Way) -> Way:
    """The way of `account`."""
    proxy = of_all.proxy
    if account.proxy == WITHOUT:
        proxy = None
    elif account.proxy is not None:
        proxy = parse_proxy(account.proxy)
    source = of_all.source if account.source_address is None else sources_of(account.source_address)
    ip = of_all.ip if account.ip is None else cast("IpVersion", account.ip)
    return replace(of_all, proxy=proxy, source=source, ip=ip)


def own_login(account: Account) -> Proxy | None:
    """The account's own proxy, if one logs in there; its password is the secret `proxy_password`."""
    if account.proxy is None or account.proxy == WITHOUT:
        return None
    proxy = parse_proxy(account.proxy)
    return proxy if proxy.login else None
