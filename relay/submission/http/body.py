"""A message on its way into a request: a header section of our own, then the body without its dot-stuffing."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from relay.mail.content import Unstuffer, unstuff
from relay.mail.header import MAX_HEADER
from relay.submission.smtp.content import CHUNK, ContentMissing, open_stored
from relay.submission.transport import Submission

_MOST_HEADER = 2 * MAX_HEADER  # what the front door took, and what it added


class _Stored(Protocol):
    """Content in wire form; Streamed is one."""

    size: int

    async def chunk(self, at: int) -> bytes | memoryview: ...
    def read(self, at: int) -> bytes: ...
    def close(self) -> None: ...


class Body:
    """What goes out, known to its last octet before the first is sent. Close it."""

    def __init__(self, stored: _Stored, start: int, header: bytes, mime_octets: int, *, base64: bool) -> None:
        self._stored, self._start, self._header, self._base64 = stored, start, header, base64
        self.mime_octets = mime_octets
        self.octets = -(-mime_octets // 3) * 4 if base64 else mime_octets

    async def chunks(self) -> AsyncIterator[bytes]:
        """The octets, from the beginning at each call. Raises ContentMissing, also when they are not `octets`."""
        sent, left = 0, b""
        async for plain in self._mime():
            if self._base64:
                plain = left + plain if left else plain
                whole = len(plain) - len(plain) % 3
                left = plain[whole:]
                plain = binascii.b2a_base64(memoryview(plain)[:whole], newline=False)
            if plain:
                sent += len(plain)
                yield plain
        if left:
            sent += 4
            yield binascii.b2a_base64(left, newline=False)
        if sent != self.octets:
            raise ContentMissing("the content changed while it was sent")

    def close(self) -> None:
        """Let go of the content."""
        self._stored.close()

    async def _mime(self) -> AsyncIterator[bytes]:
        yield self._header
        plain = Unstuffer()
        at = self._start
        while at < self._stored.size:
            chunk = await self._stored.chunk(at)
            at += len(chunk)
            if part := plain.feed(bytes(chunk)):
                yield part
        if part := plain.finish():
            yield part


async def open_body(submission: Submission, rewrite: Callable[[bytes], bytes], *, base64: bool) -> Body:
    """The body for `submission`, with the header section that `rewrite` makes of its own (fields alone, CRLF-ended).

    Raises ContentMissing, and what `rewrite` raises.
    """
    stored: _Stored
    if isinstance(submission.content, bytes):
        stored = _Octets(submission.content)
    else:
        stored = open_stored(submission.content, submission.size)
    try:
        section, start = await _header_of(stored)
        header = rewrite(section)
        if isinstance(stored, _Octets):
            rest = _measured(stored, start)
        else:
            rest = await asyncio.to_thread(_measured, stored, start)
        return Body(stored, start, header, len(header) + rest, base64=base64)
    except BaseException:
        stored.close()
        raise


async def _header_of(stored: _Stored) -> tuple[bytes, int]:
    """The header section without its stuffing, and where the empty line behind it begins."""
    head = b""
    while len(head) < min(stored.size, _MOST_HEADER):
        head += await stored.chunk(len(head))
        if head.startswith(b"\r\n"):
            return b"", 0
        if (end := head.find(b"\r\n\r\n")) >= 0:
            return unstuff(head[: end + 2]), end + 2
    if len(head) >= stored.size:
        return unstuff(head), stored.size
    raise ContentMissing("the header section has no end")


def _measured(stored: _Stored, at: int) -> int:
    """Octets of what begins there, without stuffing."""
    plain, octets = Unstuffer(), 0
    while at < stored.size:
        chunk = stored.read(at)
        at += len(chunk)
        octets += len(plain.feed(chunk))
    return octets + len(plain.finish())


class _Octets:
    """Content in memory, as a Streamed one has it elsewhere."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.size = len(octets)

    async def chunk(self, at: int) -> bytes:
        return self.read(at)

    def read(self, at: int) -> bytes:
        return self._octets[at : at + CHUNK]

    def close(self) -> None:
        """Nothing is open."""
