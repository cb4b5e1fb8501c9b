"""The connection of a session: what stays of aiosmtpd's, how replies are written, how it ends."""

from __future__ import annotations

import asyncio
from typing import Any

from aiosmtpd.smtp import SMTP

from relay.listener import replies
from relay.listener.door import Door
from relay.listener.lines import MAX_COMMAND
from relay.listener.watch import Watch
from relay.mail.reply import Reply

LINGER_S = 10.0  # for a last reply to be read
_WRITE_BOUND = 64 * 1024  # octets of replies that a client has not read


class Connection(SMTP):
    """Of aiosmtpd it keeps: the life of a connection, reader and writer, STARTTLS, the session object.

    Replaced: the constructor (70 us of introspection), the timer (`Watch`).
    """

    def __init__(self, door: Door) -> None:
        loop = self.loop = door.loop
        asyncio.StreamReaderProtocol.__init__(
            self, asyncio.StreamReader(limit=MAX_COMMAND - 1, loop=loop), self._cb_client_connected, loop=loop
        )
        # What the parts of SMTP read that stay in use:
        self.tls_context = door.tls_context
        self.session: Any = None
        self.transport: Any = None
        self._handle_hooks: dict[str, Any] = {}
        self._tls_protocol: Any = None
        self._original_transport: Any = None
        self._handler_coroutine: asyncio.Task[None] | None = None
        # Our own:
        self._door = door
        self._watch: Watch | None = None
        self._out: list[bytes] = []  # replies not yet written: one segment for a group of commands
        self._closing = ""  # why

    def _reset_timeout(self, duration: float | None = None) -> None:
        """`Watch` takes its place."""
        if self._watch is None:
            self._watch = Watch(self.loop, self._door.settings, self._end_by_timer)

    async def push(self, status: str | bytes) -> None:
        """The one thing aiosmtpd still says: STARTTLS may begin."""
        self.transport.write(replies.TLS_READY.to_wire())

    @property
    def _buffer(self) -> bytearray:
        """What the reader holds. It has no public way to ask; aiosmtpd looks there too."""
        buffer: bytearray = self._reader._buffer  # type: ignore[attr-defined]
        return buffer

    async def _flush(self) -> None:
        """Write the replies to a group of commands (RFC 2920 3.2); wait for a client that does not read them."""
        transport = self.transport
        if transport is None:
            raise ConnectionResetError
        if self._out:
            transport.write(b"".join(self._out))
            self._out.clear()
            if transport.get_write_buffer_size() > _WRITE_BOUND:
                await self._writer.drain()

    def _end_by_timer(self, reply: Reply, reason: str) -> None:
        if self.transport is None:
            return
        if self._closing or self.transport.get_write_buffer_size():
            self._closing = self._closing or reason  # it does not read what we say
            self.transport.abort()
        else:
            self._say_last(reply.to_wire(), reason)

    def _say_last(self, reply: bytes, reason: str) -> None:
        """End the session from outside its task."""
        self._closing = reason
        self.transport.write(b"".join(self._out) + reply)
        self._out.clear()
        self._shut()

    def _shut(self) -> None:
        assert self._watch is not None
        self.transport.close()
        self._watch.linger(LINGER_S)
