"""What all sessions of one listener share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from ssl import SSLContext
from typing import TYPE_CHECKING, Protocol

from relay.listener.authentication import Authentication
from relay.listener.policy import AccessPolicy, Peer
from relay.mail.reply import Reply
from relay.queue.store import Queue

if TYPE_CHECKING:
    from relay.config.settings import ListenerSettings


class OpenSession(Protocol):
    """As far as the listener has to know a session."""

    def shut_down(self) -> None:
        """End when idle, or else behind the reply to the transaction under way."""

    def cut_off(self) -> None:
        """End now, unless a commit is under way."""


class Door:
    """Settings, collaborators, ready-made replies, and the sessions that are open."""

    def __init__(
        self,
        settings: ListenerSettings,
        policy: AccessPolicy,
        queue: Queue,
        *,
        instance_id: str,
        hostname: str,
        authentication: Authentication,
        tls: Callable[[], SSLContext] | None,
        direct_timeout_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`tls` gives the context of the next handshake."""
        self.settings = settings
        self.policy = policy
        self.queue = queue
        self.instance_id = instance_id
        self.hostname = hostname
        self.authentication = authentication
        self.direct_timeout_s = direct_timeout_s
        self.loop = loop
        self.tls_required = settings.tls_mode == "required"
        self.implicit = settings.tls_mode == "implicit"  # TLS from the first octet
        self.starttls = tls is not None and not self.implicit
        self.local = False  # a Unix socket
        self.stopping = False
        self.sessions: set[OpenSession] = set()
        self.empty = asyncio.Event()  # no session is open
        self.empty.set()
        self._tls = tls
        # RFC 2034 4: no status in the greeting and in the replies to HELO and EHLO.
        self.greeting = f"220 {hostname} ESMTP relay\r\n".encode()
        self.helo = f"250 {hostname}\r\n".encode()
        self._ehlo = {
            (starttls, auth): self._capabilities(starttls=starttls, auth=auth)
            for starttls in (False, True)
            for auth in (False, True)
        }

    def _capabilities(self, *, starttls: bool, auth: bool) -> bytes:
        limit = self.settings.max_message_bytes
        lines = [self.hostname, f"SIZE {limit}", "8BITMIME", "SMTPUTF8", "PIPELINING", "ENHANCEDSTATUSCODES", "DSN"]
        if starttls:
            lines.append("STARTTLS")
        if auth:
            lines += ["AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN"]  # the second for what was written before RFC 2554
        return Reply(250, "", "\n".join(lines)).to_wire()

    @property
    def tls_context(self) -> SSLContext | None:
        """For the next handshake; None: there is no TLS here."""
        return self._tls() if self._tls is not None else None

    def ehlo(self, peer: Peer, *, tls: bool) -> bytes:
        """The reply to EHLO; `tls`: it is active."""
        return self._ehlo[self.starttls and not tls, self.auth_offered(peer, tls=tls)]

    def auth_offered(self, peer: Peer, *, tls: bool) -> bool:
        """Whether this client may log in."""
        return self.authentication.offered(peer, safe=tls or self.settings.auth_without_tls)

    def host_of(self, peername: object) -> str:
        """The address of the other end, from what its transport calls `peername`; empty: it is gone already."""
        if isinstance(peername, tuple):
            return str(peername[0])
        return "127.0.0.1" if self.local else ""

    def is_balancer(self, host: str) -> bool:
        """Whether a connection from there begins with a PROXY header."""
        networks = self.settings.proxy_networks
        if not networks or not host:
            return False
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in networks)

    def opened(self, session: OpenSession) -> None:
        """Count a session in."""
        self.sessions.add(session)
        self.empty.clear()

    def closed(self, session: OpenSession) -> None:
        """Count a session out."""
        self.sessions.discard(session)
        if not self.sessions:
            self.empty.set()
