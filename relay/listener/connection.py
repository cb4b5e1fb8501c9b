"""The connection of a session: what stays of aiosmtpd's, how replies are written, how it ends."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from aiosmtpd.smtp import SMTP

from relay.listener import replies
from relay.listener.door import Door
from relay.listener.lines import MAX_COMMAND
from relay.listener.watch import Watch
from relay.mail.reply import Reply

LINGER_S = 10.0  # for a last reply to be read
_WRITE_BOUND = 64 * 1024  # octets of replies that a client has not read


class Connection(SMTP):
    """Of aiosmtpd it keeps: reader and writer, STARTTLS with its bookkeeping.

    Replaced: the constructor (70 us of introspection), the timer (`Watch`), and when reader, writer and the session's
    task are made: once there is something to wait for, which most sessions have for a moment only.
    """

    # What the parts of SMTP read that stay in use:
    session: Any = None
    transport: Any = None
    _handle_hooks: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    _tls_protocol: Any = None
    _original_transport: Any = None
    _handler_coroutine: asyncio.Task[None] | None = None  # not: there is nothing to wait for but the next command
    _reader: asyncio.StreamReader | None = None  # type: ignore[assignment]

    def __init__(self, door: Door, *, tls: bool) -> None:
        """`tls`: it is up already."""
        self.loop = door.loop
        self._door = door
        self._tls = tls
        self._watch: Watch | None = None
        self._out: list[bytes] = []  # replies not yet written: one segment for a group of commands
        self._closing = ""  # why
        self._half_closed = False  # the client sends no more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new connection; or the same one again, under TLS now."""
        if self._original_transport is not None:
            super().connection_made(transport)
            return
        self.transport = transport
        self._watch = Watch(self.loop, self._door.settings, self._end_by_timer)

    @property
    def begun(self) -> bool:
        """`connection_made` was called, so `connection_lost` will be, or was."""
        return self._watch is not None

    def _reset_timeout(self, duration: float | None = None) -> None:
        """`Watch` takes its place."""

    def _open_streams(self) -> asyncio.StreamReader:
        """Reader and writer, as asyncio makes them for a new connection; what comes from now on goes there."""
        if self._reader is None:
            reader = asyncio.StreamReader(limit=MAX_COMMAND - 1, loop=self.loop)
            asyncio.StreamReaderProtocol.__init__(self, reader, self._cb_client_connected, loop=self.loop)
            asyncio.StreamReaderProtocol.connection_made(self, self.transport)
            if self._half_closed:
                reader.feed_eof()
            self._reader = reader
        return self._reader

    async def push(self, status: str | bytes) -> None:
        """The one thing aiosmtpd still says: STARTTLS may begin."""
        self.transport.write(replies.TLS_READY.to_wire())

    @property
    def _buffer(self) -> bytes | bytearray:
        """What the reader holds. It has no public way to ask; aiosmtpd looks there too."""
        return self._reader._buffer if self._reader is not None else b""  # type: ignore[attr-defined]

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
        if self._tls or self.transport.get_write_buffer_size():  # else nothing can keep it open
            self._watch.linger(LINGER_S)
