"""Accounts, senders and clients in memory: one immutable view, replaced as a whole on reload."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from relay.accounts import store
from relay.accounts.model import Account, Client, Route, Sender, Upstream
from relay.accounts.normalise import normalise
from relay.accounts.routes import Explanation, RouteTable, candidates, matches, matches_recipient
from relay.accounts.store import Snapshot
from relay.accounts.upstream import ApiPlaces, fill
from relay.database.engine import Database
from relay.mail.tolerance import DEFAULT, Tolerance, tolerance

if TYPE_CHECKING:
    from relay.config.settings import UpstreamDefaults

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class _Rules:
    """What one client entry says, ready for look-up; `recipients` None: it says nothing of them."""

    senders: frozenset[str]
    tolerance: Tolerance
    mapped: dict[str, str]
    recipients: tuple[frozenset[str], frozenset[str]] | None  # allowed, denied


def _rules(client: Client) -> _Rules:
    limited = bool(client.recipients or client.denied)
    return _Rules(
        frozenset(client.senders),
        tolerance(client.tolerate),
        dict(client.sender_map),
        (frozenset(client.recipients), frozenset(client.denied)) if limited else None,
    )


class _View:
    """A snapshot with its indexes. Never changed once made."""

    def __init__(self, snapshot: Snapshot, defaults: UpstreamDefaults, places: ApiPlaces) -> None:
        self.snapshot = snapshot
        self.accounts = {account.id: account for account in snapshot.accounts}
        self.addresses = {normalise(account.address): account for account in snapshot.accounts}
        self.upstreams = {account.id: fill(account, defaults, places) for account in snapshot.accounts}
        self.routes = RouteTable(snapshot.senders)
        self.clients = {client.name: client for client in snapshot.clients}
        self.logins = {client.login: client for client in snapshot.clients if client.login}
        self.rules = {client.name: _rules(client) for client in snapshot.clients}
        networks: dict[tuple[int, int], dict[int, Client]] = {}
        for client in snapshot.clients:
            for network in client.networks:
                at = networks.setdefault((network.version, network.prefixlen), {})
                at[int(network.network_address)] = client
        self.networks = sorted(networks.items(), key=lambda item: -item[0][1])  # longest prefix first

    def client_for(self, address: IPAddress) -> Client | None:
        if not self.networks:
            return None
        number, width = int(address), address.max_prefixlen
        for (version, length), clients in self.networks:
            if version == address.version:
                found = clients.get(number >> (width - length) << (width - length))
                if found is not None:
                    return found
        return None


class Directory:
    """Answers from memory, at once; every answer between two `reload`s comes from the same snapshot."""

    def __init__(
        self, database: Database, defaults: UpstreamDefaults, snapshot: Snapshot, places: ApiPlaces = ApiPlaces()
    ) -> None:
        self._database = database
        self._defaults, self._places = defaults, places
        self._view = _View(snapshot, defaults, places)
        self._reloading = asyncio.Lock()

    @classmethod
    async def open(cls, database: Database, defaults: UpstreamDefaults, places: ApiPlaces = ApiPlaces()) -> Directory:
        """Read what is registered. `defaults`: the upstream of accounts that name none; `places`: of HTTP APIs."""
        return cls(database, defaults, await database.read(store.load), places)

    async def reload(self) -> None:
        """Read again; what was committed before the call is seen afterwards. On failure the old view stays."""
        async with self._reloading:  # one after the other, so that an older snapshot never replaces a newer one
            self._view = _View(await self._database.read(store.load), self._defaults, self._places)

    async def follow(self) -> bool:
        """Read again what others may have changed; False: it is as it was."""
        async with self._reloading:
            snapshot = await self._database.read(store.load)
            if snapshot == self._view.snapshot:
                return False
            self._view = _View(snapshot, self._defaults, self._places)
            return True

    async def configure(self, defaults: UpstreamDefaults) -> None:
        """Another upstream for accounts that name none, effective on return. On failure the old one stays."""
        before, self._defaults = self._defaults, defaults
        try:
            await self.reload()
        except BaseException:
            self._defaults = before
            raise

    def account(self, account_id: int) -> Account | None:
        """The account of that id."""
        return self._view.accounts.get(account_id)

    def by_address(self, address: str) -> Account | None:
        """The account of that address, in any of its spellings."""
        return self._view.addresses.get(normalise(address.strip()))

    def accounts(self) -> list[Account]:
        """Every account, by address."""
        return list(self._view.snapshot.accounts)

    def senders(self) -> list[Sender]:
        """Every sender, by pattern."""
        return list(self._view.snapshot.senders)

    def clients(self) -> list[Client]:
        """Every client entry, by name."""
        return list(self._view.snapshot.clients)

    def routing(self) -> object:
        """What routes depend on; equal: every reverse-path goes where it went."""
        accounts = [(account.id, account.address) for account in self._view.snapshot.accounts]
        return accounts, [(sender.pattern, sender.account_id) for sender in self._view.snapshot.senders]

    def route(self, reverse_path: str) -> Route | None:
        """Where mail of `reverse_path` ("": null) goes; None: no account may send as this address."""
        return self._view.routes.route(reverse_path)

    def explain_route(self, reverse_path: str) -> Explanation:
        """The same, with each step in words."""
        return self._view.routes.explain(reverse_path)

    def client_for(self, ip: str | IPAddress) -> Client | None:
        """The client entry with the longest prefix that holds `ip`; IPv4 mapped into IPv6 counts as IPv4."""
        try:
            address = ip_address(ip.partition("%")[0]) if isinstance(ip, str) else ip
        except ValueError:
            return None
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return self._view.client_for(address)

    def client_named(self, name: str) -> Client | None:
        """The client entry of that name."""
        return self._view.clients.get(name)

    def client_by_login(self, login: str) -> Client | None:
        """The client entry that logs in with this name, octet for octet. Whether it may is for its password to say."""
        return self._view.logins.get(login)

    def has_logins(self) -> bool:
        """Is there a client entry that logs in?"""
        return bool(self._view.logins)

    def tolerance_of(self, client: Client | None) -> Tolerance:
        """The switches that are on for a connection of `client` (None: no entry matched)."""
        if client is None:
            return DEFAULT
        rules = self._view.rules.get(client.name)
        return DEFAULT if rules is None else rules.tolerance

    def may_use(self, client: Client | None, reverse_path: str) -> bool:
        """May a connection of `client` (None: no entry matched) use this sender, if it is registered?

        Without any client entry everybody who may connect may; with entries, who matches none may use nothing.
        """
        view = self._view
        if client is None:
            return not view.clients
        rules = view.rules.get(client.name)
        if rules is None:  # removed since the session began
            return False
        return not rules.senders or matches(rules.senders, reverse_path)

    def may_send_to(self, client: Client | None, recipient: str) -> bool:
        """May a connection of `client` (None: no entry matched) send to `recipient`? What is denied stays denied."""
        if client is None:
            return True
        rules = self._view.rules.get(client.name)
        if rules is None:  # removed since the session began
            return False
        if rules.recipients is None:
            return True
        allowed, denied = rules.recipients
        return not matches_recipient(denied, recipient) and (not allowed or matches_recipient(allowed, recipient))

    def mapped(self, client: Client, reverse_path: str) -> str:
        """The sender that `client`'s map has for `reverse_path` ("": null): by the steps of routes, else itself."""
        rules = self._view.rules.get(client.name)
        if rules is None or not rules.mapped:
            return reverse_path
        for _, pattern in candidates(reverse_path):
            found = rules.mapped.get(pattern)
            if found is not None:
                return found
        return reverse_path

    def upstream(self, account: Account) -> Upstream:
        """Where `account` submits, every gap filled."""
        if self._view.accounts.get(account.id) is account:
            return self._view.upstreams[account.id]
        return fill(account, self._defaults, self._places)
