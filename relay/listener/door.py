"""What all sessions of one listener share."""

from __future__ import annotations

import asyncio
from ssl import SSLContext
from typing import Protocol

from relay.config.settings import ListenerSettings
from relay.listener.policy import AccessPolicy
from relay.mail.reply import Reply
from relay.queue.store import Queue


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
        tls_context: SSLContext | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.settings = settings
        self.policy = policy
        self.queue = queue
        self.instance_id = instance_id
        self.hostname = hostname
        self.tls_context = tls_context
        self.loop = loop
        self.stopping = False
        self.sessions: set[OpenSession] = set()
        self.empty = asyncio.Event()  # no session is open
        self.empty.set()
        keywords = [f"SIZE {settings.max_message_bytes}", "8BITMIME", "SMTPUTF8", "PIPELINING", "ENHANCEDSTATUSCODES"]
        # RFC 2034 4: no status in the greeting and in the replies to HELO and EHLO.
        self.greeting = f"220 {hostname} ESMTP relay\r\n".encode()
        self.helo = f"250 {hostname}\r\n".encode()
        self.ehlo = Reply(250, "", "\n".join([hostname, *keywords])).to_wire()
        self.ehlo_starttls = Reply(250, "", "\n".join([hostname, *keywords, "STARTTLS"])).to_wire()

    def opened(self, session: OpenSession) -> None:
        """Count a session in."""
        self.sessions.add(session)
        self.empty.clear()

    def closed(self, session: OpenSession) -> None:
        """Count a session out."""
        self.sessions.discard(session)
        if not self.sessions:
            self.empty.set()
