"""Who may connect, and who may send as whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from relay.accounts.directory import Directory
from relay.accounts.model import Client, Route
from relay.config.settings import ListenerSettings
from relay.listener import replies
from relay.mail.reply import Reply


class Peer(NamedTuple):
    """The other end of a session. `name` is the client entry's, or the address when there is none: for logs."""

    host: str
    name: str
    client: Client | None


class AccessPolicy:
    """Decides at connection and at MAIL; what it decided is recorded with the message and never decided again."""

    def __init__(self, settings: ListenerSettings, directory: Directory, has_room: Callable[[], bool]) -> None:
        self._settings = settings
        self._directory = directory
        self._has_room = has_room
        self._connections = 0
        self._by_host: dict[str, int] = {}
        self._inside = lru_cache(maxsize=1024)(self._look_up)

    def enter(self, host: str) -> Peer | Reply:
        """Count a connection in, or say why not. `leave` must follow exactly when a Peer was returned."""
        address = self._inside(host)
        if address is None:
            return replies.network_not_allowed(host)
        if self._connections >= self._settings.max_connections:
            return replies.BUSY
        here = self._by_host.get(host, 0)
        if here >= self._settings.max_connections_per_client:
            return replies.BUSY_CLIENT
        self._connections += 1
        self._by_host[host] = here + 1
        client = self._directory.client_for(address)
        return Peer(host, client.name if client else host, client)

    def leave(self, peer: Peer) -> None:
        """Count a connection out."""
        self._connections -= 1
        left = self._by_host[peer.host] - 1
        if left:
            self._by_host[peer.host] = left
        else:
            del self._by_host[peer.host]

    def sender(self, peer: Peer, reverse_path: str) -> Route | Reply:
        """The route of a sender ("": null) if this client may use it now."""
        route = self._directory.route(reverse_path)
        if route is None:
            return replies.no_account(reverse_path)
        if not self._directory.may_use(peer.client, reverse_path):
            return replies.not_your_sender(reverse_path, peer.name)
        if not self._has_room():
            return replies.NO_ROOM
        return route

    def account(self, account_id: int) -> str:
        """The address of an account, for logs."""
        account = self._directory.account(account_id)
        return account.address if account else str(account_id)

    def _look_up(self, host: str) -> IPv4Address | IPv6Address | None:
        """The address of an allowed host; an IPv4 address mapped into IPv6 counts as itself."""
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return None
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return address if any(address in network for network in self._settings.allowed_networks) else None
