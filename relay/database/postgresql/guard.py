"""Ends what the server does not answer: no statement timeout of its own works while it is stopped or unreachable."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.database.postgresql.connecting import Driver


class Guard:
    """Who waits for the server says for how long; `look` shuts the connection of whoever waited longer.

    Why not statement_timeout for what is committed: it would end the wait for a synchronous standby with success
    (postgresql.org/docs/current/runtime-config-wal.html), and mail would be confirmed that only one machine has.
    """

    def __init__(self) -> None:
        self._waits: dict[int, tuple[float, int]] = {}  # deadline (monotonic) and file descriptor, by a number
        self._lock = threading.Lock()  # a descriptor must not be closed, and given to another file, meanwhile
        self._number = 0

    @contextlib.contextmanager
    def limit(self, connection: Driver, seconds: float) -> Iterator[None]:
        """What is asked of the server within ends in time: with an error of the driver, if not before."""
        with self._lock:
            self._number += 1
            number = self._number
            self._waits[number] = (time.monotonic() + seconds, connection.fileno())
        try:
            yield
        finally:
            with self._lock:
                del self._waits[number]

    def look(self) -> int:
        """Shut the connections of those that wait too long; how many."""
        now, ended = time.monotonic(), 0
        with self._lock:
            for number, (deadline, descriptor) in self._waits.items():
                if now > deadline:
                    self._waits[number] = (float("inf"), descriptor)
                    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as peer:
                        peer.shutdown(socket.SHUT_RDWR)
                        ended += 1
        return ended
