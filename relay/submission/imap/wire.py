"""Octets of an IMAP connection: responses with their literals, each bounded in size, each wait in time."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from typing import cast

from relay.mail.errors import RelayError
from relay.net.dial import check_pin, handshake_failure
from relay.net.tls import ClientTls

MAX_LINE = 65536  # octets without literals
MAX_LITERAL = 1 << 20  # octets of one, unless the caller of a command allows more
MAX_UNREAD = 262144  # octets; above it the other side has to wait
_LITERAL = re.compile(rb"\{(\d{1,10})\+?\}\Z")


class ImapFault(RelayError):
    """The connection can't be used any more. `reason`: connection-lost, stage-timeout or protocol-error."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Response:
    """One response: `parts` alternates between text and the literals that stood between (RFC 9051 4.3)."""

    parts: tuple[bytes, ...]

    @property
    def text(self) -> bytes:
        """The line before the first literal."""
        return self.parts[0]


class ImapWire(asyncio.Protocol):
    """One connection. One coroutine at a time may wait; whoever waits gives the time at which that ends."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._data = bytearray()
        self._ended = ""
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._choked = False  # the other side does not read fast enough

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_UNREAD and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = self._ended or "the server closed the connection"
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = self._ended or f"the connection broke{f': {exc}' if exc is not None and str(exc) else ''}"
        self._wake()

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        self._wake()

    # Reading and writing

    def put(self, data: bytes) -> None:
        """Write. Raises ImapFault when the connection has ended."""
        if self._ended or self.transport is None or self.transport.is_closing():
            raise ImapFault("connection-lost", self._ended or "the connection is closed")
        self.transport.write(data)

    async def drained(self, until: float) -> None:
        """Wait until more may be written. `until` as in `response`. Raises ImapFault."""
        while self._choked:
            await self._more(until)

    async def response(self, until: float, *, most_literal: int = MAX_LITERAL) -> Response:
        """The next response. `until` is by the loop's clock. Raises ImapFault."""
        parts: list[bytes] = []
        size = 0
        while True:
            line = await self._line(until)
            size += len(line)
            if size > MAX_LINE:
                raise ImapFault("protocol-error", "a response is too long")
            parts.append(line)
            literal = _LITERAL.search(line)
            if literal is None:
                return Response(tuple(parts))
            length = int(literal[1])
            if length > most_literal:
                raise ImapFault("protocol-error", f"a literal of {length} octets is too large")
            parts[-1] = line[: literal.start()]
            parts.append(await self._octets(length, until))

    async def start_tls(self, tls: ClientTls, host: str, timeout_s: float) -> None:
        """The handshake. What came behind the answer to STARTTLS in clear is a fault. Raises DialFailed, ImapFault."""
        assert self.transport is not None
        if self._data:  # injected before the handshake, as in RFC 9051 11.1
            raise ImapFault("protocol-error", "octets came in clear behind the answer to STARTTLS")
        try:
            transport = await self._loop.start_tls(
                self.transport,
                self,
                tls.context,
                server_hostname=tls.name or host,
                ssl_handshake_timeout=timeout_s,
            )
        except OSError as error:  # ssl.SSLError and ssl.CertificateError are some of them
            raise handshake_failure(error) from error
        if transport is None:
            raise handshake_failure(ConnectionResetError())
        self.transport = transport
        check_pin(transport, tls)

    def abort(self) -> None:
        """Drop the connection."""
        self._ended = self._ended or "closed by this relay"
        if self.transport is not None:
            self.transport.abort()

    async def _line(self, until: float) -> bytes:
        start = 0
        while (end := self._data.find(b"\r\n", start)) < 0:
            if len(self._data) > MAX_LINE:
                raise ImapFault("protocol-error", "a response line is too long")
            start = max(0, len(self._data) - 1)
            await self._more(until)
        line = bytes(self._data[:end])
        self._take(end + 2)
        if b"\0" in line:
            raise ImapFault("protocol-error", "a response line holds NUL")
        return line

    async def _octets(self, count: int, until: float) -> bytes:
        found: deque[bytes] = deque()
        while count:
            while not self._data:
                await self._more(until)
            part = bytes(self._data[:count])
            self._take(len(part))
            count -= len(part)
            found.append(part)
        return b"".join(found)

    def _take(self, count: int) -> None:
        del self._data[:count]
        if self._paused and len(self._data) <= MAX_UNREAD and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()

    async def _more(self, until: float) -> None:
        if self._ended:
            raise ImapFault("connection-lost", self._ended)
        self._waiter = self._loop.create_future()
        try:
            async with asyncio.timeout_at(until):
                await self._waiter
        except TimeoutError:
            raise ImapFault("stage-timeout", "the server stopped answering") from None
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
