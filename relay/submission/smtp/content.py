"""Content on its way to the socket: octets in slices, files in chunks read off the event loop, never a whole file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from relay.mail.content import Stored
from relay.mail.errors import RelayError, StorageFailed
from relay.submission.smtp.wire import Wire

CHUNK = 262144  # octets
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class ContentMissing(RelayError):
    """The file cannot be read, or is not what was stored."""


class Streamed:
    """A content of `size` octets that is read piece by piece."""

    size: int

    def read(self, at: int) -> bytes:
        """The next octets from `at`, which is below `size`; never empty. Blocking. Raises ContentMissing."""
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent."""

    async def chunk(self, at: int) -> bytes | memoryview:
        """As `read`, without blocking the loop."""
        return await asyncio.to_thread(self.read, at)

    async def send(self, wire: Wire, *, block_s: float) -> None:
        """Write all of it, at the pace the peer takes it. Raises WireFault, ContentMissing."""
        at, ending = 0, b""
        while at < self.size:
            chunk = await self.chunk(at)
            wire.check()  # octets from the other side before the dot are a fault
            wire.put(chunk)
            at += len(chunk)
            ending = (ending + chunk[-2:])[-2:]
            await wire.drained(block_s)
        check_ending(ending)


def open_stored(content: Path | Stored, size: int) -> Streamed:
    """A content that is not in memory, ready to be sent; close it. Raises ContentMissing."""
    return SpoolFile(content, size) if isinstance(content, Path) else SpoolRows(content, size)


class SpoolRows(Streamed):
    """Content that somebody reads for us."""

    def __init__(self, stored: Stored, size: int) -> None:
        self.size = size
        self._stored = stored

    def read(self, at: int) -> bytes:
        """See `Streamed.read`."""
        try:
            return self._stored.read(at, min(CHUNK, self.size - at))
        except StorageFailed as error:
            raise ContentMissing(f"the content cannot be read: {error}") from error


class SpoolFile(Streamed):
    """An open content file of `size` octets. Raises ContentMissing when it is not there or has another length."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self._nowait = _NOWAIT
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ContentMissing(f"{path.name}: {error.strerror}") from error
        found = os.fstat(self._handle).st_size
        if found != size:
            self.close()
            raise ContentMissing(f"{path.name} has {found} octets instead of {size}")

    def close(self) -> None:
        """Idempotent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    async def chunk(self, at: int) -> bytes | memoryview:
        """The next octets from `at`, which is below `size`; never empty. Raises ContentMissing."""
        cached = self._read_cached(at)
        return cached if cached is not None else await asyncio.to_thread(self.read, at)

    def _read_cached(self, at: int) -> memoryview | None:
        """What the page cache holds, without waiting for a disk; None: a thread has to wait for it."""
        if not self._nowait:
            return None
        buffer = bytearray(min(CHUNK, self.size - at))
        try:
            count = os.preadv(self._handle, [buffer], at, self._nowait)
        except BlockingIOError:
            return None
        except OSError:
            self._nowait = 0  # a file system that cannot tell
            return None
        return memoryview(buffer)[:count] if count else None

    def read(self, at: int) -> bytes:
        """As `chunk`, waiting for the disk."""
        try:
            chunk = os.pread(self._handle, min(CHUNK, self.size - at), at)
        except OSError as error:
            raise ContentMissing(f"the content cannot be read: {error.strerror}") from error
        if not chunk:
            raise ContentMissing("the content ends too early")
        return chunk


async def send_octets(wire: Wire, content: bytes, *, block_s: float) -> None:
    """Write `content` at the pace the peer takes it. Raises WireFault, ContentMissing."""
    check_ending(content[-2:])
    view = memoryview(content)
    for at in range(0, len(view), CHUNK):
        wire.check()
        wire.put(view[at : at + CHUNK])
        await wire.drained(block_s)


def check_ending(ending: bytes) -> None:
    """Raise ContentMissing unless wire form ends here: a dot behind anything but CRLF would end nothing."""
    if ending not in (b"", b"\r\n"):
        raise ContentMissing("the content does not end with CRLF")
