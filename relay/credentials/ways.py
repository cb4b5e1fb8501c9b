"""The ways out of accounts, with the passwords of their proxies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from relay.accounts.directory import Directory
from relay.accounts.egress import own_login, way_of, way_of_all
from relay.credentials.errors import SecretMissing
from relay.credentials.vault import Vault
from relay.net.guard import UNGUARDED, Guard
from relay.net.way import Way
from relay.telemetry.redaction import mask

if TYPE_CHECKING:
    from relay.config.egress import EgressSettings

PROXY_PASSWORD = "proxy_password"  # noqa: S105  (the kind of a secret)


class Ways:
    """One for the process. `guard`: as it is for hosts that were named through the web."""

    def __init__(self, directory: Directory, vault: Vault, settings: EgressSettings, guard: Guard = UNGUARDED) -> None:
        self._directory, self._vault, self.guard = directory, vault, guard
        self._of_all = way_of_all(settings)

    async def of(self, account_id: int) -> Way:
        """A `net.way.WayOf`. An account that was removed meanwhile has the way of all.

        Raises SecretUnreadable, KeyMissing.  A password that was never stored is left out: the proxy will say so.
        """
        if self._of_all.proxy is not None and self._of_all.proxy.password:
            mask(self._of_all.proxy.password)
        account = self._directory.account(account_id)
        if account is None:
            return self._of_all
        way = way_of(account, self._of_all)
        if account.web_hosts:
            way = replace(way, guard=self.guard.of(account.web_hosts.split(",")))
        proxy = own_login(account)
        if proxy is None:
            return way
        try:
            password = await self._vault.fetch(account_id, PROXY_PASSWORD)
        except SecretMissing:
            return way
        return replace(way, proxy=replace(proxy, password=password))
