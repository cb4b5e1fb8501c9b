"""What comes before the session at some doors: the PROXY header of a balancer, the handshake of implicit TLS."""

from __future__ import annotations

import asyncio
from asyncio.sslproto import SSLProtocol
from typing import Any

from relay.listener.door import Door
from relay.listener.policy import Peer
from relay.listener.proxy import HEADER_S, BadHeader, Framing, announced
from relay.listener.session import RelaySession
from relay.mail.reply import Reply
from relay.net.server_tls import HANDSHAKE_S, tls_trouble
from relay.telemetry import get_logger

log = get_logger()


class Entrance(asyncio.BufferedProtocol):
    """Reads a header octet by octet as far as it must, then gives the untouched connection to TLS or to the session.

    Client limits count from here on: a handshake that never ends is one of its client's connections.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._transport: Any = None
        self._host = ""
        self._framing = Framing()
        self._chunk = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._admitted: Peer | None = None
        self._session: RelaySession | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection: from a balancer, or straight from a client."""
        door = self._door
        self._transport = transport
        self._host = door.host_of(transport.get_extra_info("peername"))
        door.opened(self)
        if not door.is_balancer(self._host):
            self._go_on()
        elif len(door.sessions) > door.settings.max_connections:
            self._refuse("too many connections of balancers")
        else:
            self._timer = door.loop.call_later(HEADER_S, self._refuse, f"no PROXY header in {HEADER_S:g} s")

    def get_buffer(self, sizehint: int) -> bytearray:
        """As large as what may be read."""
        self._chunk = bytearray(max(self._framing.wanted, 1))
        return self._chunk

    def buffer_updated(self, nbytes: int) -> None:
        """Some of the header."""
        try:
            self._framing.add(self._chunk[:nbytes])
            if self._framing.wanted:
                return
            self._host = announced(bytes(self._framing.header)) or self._host
        except BadHeader as error:
            self._refuse(str(error))
            return
        self._transport.pause_reading()  # for another kind of protocol to take over
        if self._go_on():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """It went before there was a session."""
        self._leave()

    def shut_down(self) -> None:
        """There is nothing yet that could be told to the client."""
        self._transport.abort()

    cut_off = shut_down

    def _go_on(self) -> bool:
        """To the session, by way of TLS at a door that has it; False: the client was turned away."""
        door = self._door
        if not door.implicit:
            self._leave()
            session = RelaySession(door, host=self._host)
            self._transport.set_protocol(session)
            session.connection_made(self._transport)
            return True
        entered = door.policy.enter(self._host)
        if isinstance(entered, Reply):
            self._refuse(entered.text)
            return False
        self._admitted = entered
        done = door.loop.create_future()
        done.add_done_callback(self._shaken)
        self._session = RelaySession(door, host=self._host, admitted=entered)
        # As aiosmtpd does for STARTTLS: `start_tls` of the loop needs a task, and would miss what comes meanwhile.
        tls = SSLProtocol(
            door.loop,
            self._session,
            door.tls_context,  # type: ignore[arg-type]
            done,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_S,
        )
        self._transport.set_protocol(tls)
        tls.connection_made(self._transport)
        return True

    def _shaken(self, done: asyncio.Future[None]) -> None:
        """The handshake is over: from here the session is its own master, or there is none."""
        assert self._admitted is not None
        assert self._session is not None
        self._leave()
        error = ConnectionAbortedError("cancelled") if done.cancelled() else done.exception()
        if error is None and not self._session.begun:
            error = ConnectionResetError("connection lost")  # the future is told of no error then
        if error is not None:
            self._door.policy.leave(self._admitted)
            log.info("session.tls_failed", client=self._admitted.name, **tls_trouble(error))

    def _refuse(self, why: str) -> None:
        log.warning("listener.refused", client=self._host, detail=why)
        self._transport.abort()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._door.closed(self)
