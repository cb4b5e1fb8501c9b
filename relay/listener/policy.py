"""Who may connect, and who may send as whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, NamedTuple

from relay.accounts.directory import Directory
from relay.accounts.model import Client, Route
from relay.listener import replies
from relay.listener.rates import Rates
from relay.mail.author import AuthorRefused, Authors, the_author
from relay.mail.reply import Reply
from relay.mail.tolerance import DEFAULT, Tolerance

if TYPE_CHECKING:
    from relay.config.settings import ListenerSettings


class Peer(NamedTuple):
    """The other end of a session. `name` is the client entry's, or the address when there is none: for logs."""

    host: str
    name: str
    client: Client | None
    tolerance: Tolerance = DEFAULT
    authenticated: bool = False


class Sender(NamedTuple):
    """Who a transaction is for: `path` is what goes upstream, `route` None until the header has decided."""

    path: str
    route: Route | None


class Occupancy:
    """How many sessions are open at a door, in all and by address; outlives a change of its settings."""

    __slots__ = ("by_host", "connections")

    def __init__(self) -> None:
        self.connections = 0
        self.by_host: dict[str, int] = {}


class AccessPolicy:
    """Decides at connection, at MAIL, at RCPT, and once the header is known; its decisions stand for good.

    `rates` is shared by all doors, `occupancy` by the policies that one door has had (None: this is its first).
    """

    def __init__(
        self,
        settings: ListenerSettings,
        directory: Directory,
        has_room: Callable[[], bool],
        rates: Rates,
        occupancy: Occupancy | None = None,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._has_room = has_room
        self._rates = rates
        self._occupancy = occupancy or Occupancy()
        self._inside = lru_cache(maxsize=1024)(self._look_up)

    def enter(self, host: str) -> Peer | Reply:
        """Count a connection in, or say why not. `leave` must follow exactly when a Peer was returned."""
        address = self._inside(host)
        if address is None:
            return replies.network_not_allowed(host)
        occupancy = self._occupancy
        if occupancy.connections >= self._settings.max_connections:
            return replies.BUSY
        here = occupancy.by_host.get(host, 0)
        if here >= self._settings.max_connections_per_client:
            return replies.BUSY_CLIENT
        occupancy.connections += 1
        occupancy.by_host[host] = here + 1
        return self.identify(host, self._directory.client_for(address))

    def identify(self, host: str, client: Client | None, *, authenticated: bool = False) -> Peer:
        """Whoever connects from `host`, under a client entry or none."""
        if client is None:
            return Peer(host, host, None)
        return Peer(host, client.name, client, self._directory.tolerance_of(client), authenticated)

    def leave(self, peer: Peer) -> None:
        """Count a connection out."""
        occupancy = self._occupancy
        occupancy.connections -= 1
        left = occupancy.by_host[peer.host] - 1
        if left:
            occupancy.by_host[peer.host] = left
        else:
            del occupancy.by_host[peer.host]

    def sender(self, peer: Peer, reverse_path: str, size: int = 0) -> Sender | Reply:
        """May this client send as `reverse_path` ("": null) now? `size` is what it declares, 0 when it does not."""
        client = peer.client
        if client is None:
            sender = self._routed(peer, reverse_path)
        elif client.auth == "login" and not peer.authenticated:
            return replies.LOGIN_FIRST
        elif client.identity == "header":
            sender = Sender(reverse_path, None)
        elif client.identity == "map":
            sender = self._routed(peer, self._directory.mapped(client, reverse_path))
        else:
            sender = self._routed(peer, reverse_path)
        if isinstance(sender, Reply):
            return sender
        if not self._has_room():
            return replies.NO_ROOM
        if client is not None:
            if (refusal := self._of_day(client, size)) is not None:
                return refusal
            if not self._rates.message(client):
                return replies.TOO_MANY_MESSAGES
        return sender

    def _routed(self, peer: Peer, reverse_path: str) -> Sender | Reply:
        route = self._directory.route(reverse_path)
        if route is None:
            return replies.no_account(reverse_path)
        if not self._directory.may_use(peer.client, reverse_path):
            return replies.not_your_sender(reverse_path, peer.name, entry=peer.client is not None)
        return Sender(reverse_path, route)

    def recipient(self, peer: Peer, recipient: str) -> Reply | None:
        """Why this client may not send to `recipient` now; None: it may."""
        client = peer.client
        if client is None:
            return None
        if not self._directory.may_send_to(client, recipient):
            return replies.not_your_recipient(recipient, peer.name)
        return None if self._rates.recipient(client) else replies.TOO_MANY_RECIPIENTS_NOW

    def octets(self, peer: Peer, size: int) -> Reply | None:
        """Why a content of `size` octets is too much for this client's day; None: it is not."""
        return None if peer.client is None else self._of_day(peer.client, size)

    def _of_day(self, client: Client, size: int) -> Reply | None:
        if self._rates.fits(client, size):
            return None
        # What no day has room for would come again for ever.
        limit = client.bytes_per_day
        return replies.larger_than_a_day(limit, client.name) if size > limit else replies.day_spent(client.name)

    def accepted(self, peer: Peer, size: int) -> None:
        """Count what was accepted."""
        if peer.client is not None:
            self._rates.spend(peer.client, size)

    def must_judge(self, peer: Peer, route: Route | None) -> bool:
        """Has the header a say in who may send?"""
        return route is None or route.from_policy != "keep" or (peer.client is not None and bool(peer.client.senders))

    def judge(self, peer: Peer, sender: Sender, authors: Authors) -> tuple[Sender, str | None]:
        """Look at the header of a transaction: who it is for in the end, and what its From must become (None: stay).

        Raises AuthorRefused.
        """
        author: str | None = None
        if sender.route is None:
            sender, author = self._by_header(peer, authors)
        elif _is_checked(peer, sender.route):
            author = self._check_authors(peer, authors)
        route = sender.route
        assert route is not None
        account = self._directory.account(route.account_id)
        if account is None:  # removed since MAIL
            raise AuthorRefused(replies.no_account(sender.path))
        if peer.client is not None and peer.client.identity == "header":
            sender = Sender(account.address, route)
        if route.from_policy == "refuse":
            self._insist(route, authors, author)
        return sender, account.address if route.from_policy == "rewrite" else author

    def _by_header(self, peer: Peer, authors: Authors) -> tuple[Sender, str | None]:
        """The sender that the header names, and what From must become."""
        author = the_author(authors)
        if author is None:
            raise AuthorRefused(replies.NO_AUTHOR)
        mapped = self._mapped(peer, author)
        found = self._routed(peer, mapped)
        if isinstance(found, Reply):
            raise AuthorRefused(found)
        if _is_checked(peer, found.route):
            return found, self._check_authors(peer, authors)
        return found, mapped if mapped != author and self._directory.route(author) is None else None

    def _check_authors(self, peer: Peer, authors: Authors) -> str | None:
        """Refuse who is not the client's to name. An address that only its map allows does not leave the house:

        From becomes what the map says, which is returned, and a Sender that differs goes.
        """
        _must_be_readable(authors)
        author: str | None = None
        for address in (*authors.addresses, authors.sender) if authors.sender else authors.addresses:
            if self._directory.may_use(peer.client, address):
                continue
            mapped = self._mapped(peer, address)
            if mapped == address or len(authors.addresses) > 1 or not self._directory.may_use(peer.client, mapped):
                raise AuthorRefused(replies.not_your_author(address, peer.name))
            author = author or mapped
        return author

    def _insist(self, route: Route, authors: Authors, author: str | None) -> None:
        """`author`: what From will be, when it is not what the application said."""
        _must_be_readable(authors)
        for address in authors.addresses if author is None else (author,):
            other = self._directory.route(address)
            if other is None or other.account_id != route.account_id:
                raise AuthorRefused(replies.not_this_author(address))

    def _mapped(self, peer: Peer, address: str) -> str:
        client = peer.client
        return self._directory.mapped(client, address) if client is not None and client.sender_map else address

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


def _is_checked(peer: Peer, route: Route | None) -> bool:
    """Must the client be allowed to use who is named in the header?

    Not where the sender's policy is `rewrite`: what the application wrote there does not leave as author.
    """
    bound = peer.client is not None and bool(peer.client.senders)
    return bound and (route is None or route.from_policy != "rewrite")


def _must_be_readable(authors: Authors) -> None:
    """A From that names nobody (RFC 6854 allows an empty group) hides the author just as an unreadable one does."""
    if not authors.readable or (authors.present and not authors.addresses):
        raise AuthorRefused(replies.UNREADABLE_AUTHOR)
