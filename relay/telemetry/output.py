"""Writes finished lines to a descriptor: those of some milliseconds with one system call."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable

_WAIT_S = 0.01  # how long a line waits for others; what nobody must miss does not wait
_TURN_LINES = 256  # more than these do not wait any longer
_HELD_OCTETS = 1 << 20  # held for a reader that is slow; beyond it lines are dropped, and counted
_RETRY_S = 0.02
_RECENT_LINES = 500
_FLUSH_S = 5.0  # how long `flush` waits for a reader that does not read


class Output:
    """Lines come out whole, in order, once each. Safe to use from several threads.

    A blocking descriptor is waited for.  One in non-blocking mode that is full gets the rest a little later, and only
    when 1 MiB is held are further lines dropped: `dropped_line(count)` then makes a line that says so.  A descriptor
    that cannot be written (reader gone, device full) costs the lines and never an exception: mail goes on.
    """

    def __init__(self, fd: int, dropped_line: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._dropped_line = dropped_line
        self._lock = threading.RLock()
        self._lines: list[bytes] = []  # finished, in order
        self.recent: deque[bytes] = deque(maxlen=_RECENT_LINES)  # for who asks what was said last
        self._rest = b""  # handed to the system in part
        self._dropped = 0
        self._torn = False  # an unfinished line is out
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that will call `_turn`

    def write(self, line: bytes) -> None:
        """`line` ends with a newline and holds no other."""
        lines = self._lines
        lines.append(line)
        self.recent.append(line)
        if self._loop is None or not self._loop.is_running():
            try:
                self._loop = asyncio.get_running_loop()  # dear: it asks the system for the process id
            except RuntimeError:
                self.flush()
                return
            self._loop.call_later(_WAIT_S, self._turn)
        elif len(lines) >= _TURN_LINES:
            with self._lock:
                self._send(0)

    def write_now(self, line: bytes) -> None:
        """As `write`, and everything held goes out with it: for warnings and worse."""
        self._lines.append(line)
        self.recent.append(line)
        with self._lock:
            self._send(0)

    debug = info = write  # what a structlog logger calls
    warning = error = critical = write_now

    def flush(self) -> None:
        """Write all there is, waiting a few seconds at most for a slow reader."""
        with self._lock:
            self._send(_FLUSH_S)

    def _turn(self) -> None:
        loop, self._loop = self._loop, None
        with self._lock:
            self._send(0)
            if self._rest and loop is not None:
                self._loop = loop
                loop.call_later(_RETRY_S, self._turn)

    def _send(self, wait_s: float) -> None:
        lines = self._lines[:]
        del self._lines[: len(lines)]  # in place: another thread may be appending to this very list
        if self._rest and len(self._rest) + sum(map(len, lines)) > _HELD_OCTETS and not wait_s:
            self._dropped += len(lines)
            lines = []
        octets = self._rest + (b"".join(lines) if len(lines) != 1 else lines[0])
        if self._dropped and not self._rest:
            octets = self._dropped_line(self._dropped) + octets
            self._dropped = 0
        if not octets:
            return
        if self._torn:
            octets, self._torn = b"\n" + octets, False
        self._rest = self._written(octets, wait_s)

    def _written(self, octets: bytes, wait_s: float) -> bytes:
        """What could not be written within `wait_s`."""
        done = 0
        while True:
            try:
                done += os.write(self._fd, memoryview(octets)[done:] if done else octets)
            except BlockingIOError:
                if not wait_s or not self._writable(wait_s):
                    return octets[done:]
            except OSError as error:
                self._torn = done > 0 and octets[done - 1 : done] != b"\n"
                if error.errno not in (errno.EPIPE, errno.EBADF):
                    self._dropped += octets.count(b"\n", done)
                return b""
            if done >= len(octets):
                return b""

    def _writable(self, wait_s: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(wait_s * 1000))
