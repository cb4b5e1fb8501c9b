"""Idle connections, kept for the account identity they were logged in as and for no other."""

from __future__ import annotations

import asyncio
from collections import Counter

from relay.accounts.model import Upstream
from relay.submission.smtp.deadlines import QUIT_S
from relay.submission.smtp.opening import Connection
from relay.telemetry import get_logger

log = get_logger()

_UNLIMITED = 50  # idle connections of an account that has no limit


class _Shelf:
    """The idle connections of one account, all of one identity, the last used one last."""

    __slots__ = ("idle", "upstream")

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.idle: list[Connection] = []


class Pool:
    """How many connections are open at a time is the lane's to say; this only keeps what it gives back.

    A kept connection is watched: whatever its upstream says, or its end, or `idle_s` without use, drops it.
    RSET stands in front of the next MAIL then, in the same write, so that it costs no round trip.
    """

    def __init__(self, *, idle_s: float, most_messages: int) -> None:
        self._idle_s, self._most_messages = idle_s, most_messages
        self._shelves: dict[int, _Shelf] = {}
        self._open: Counter[int] = Counter()
        self._ends: dict[int, asyncio.Event] = {}  # set when the last connection of an account has ended
        self._ages: dict[int, int] = {}  # how often an account was forgotten while connections of it were open
        self._closed = False

    def configure(self, *, idle_s: float, most_messages: int) -> None:
        """Other bounds for what is put back from now on."""
        self._idle_s, self._most_messages = idle_s, most_messages

    def opened(self, account_id: int) -> int:
        """A connection is being made. Its age, for `Connection.age`."""
        self._open[account_id] += 1
        return self._ages.get(account_id, 0)

    def ended(self, account_id: int, connection: Connection | None) -> None:
        """It is gone, or was never made."""
        self._open[account_id] -= 1
        if not self._open[account_id]:
            del self._open[account_id]
            self._ages.pop(account_id, None)
            if account_id in self._ends:
                self._ends.pop(account_id).set()
        if connection is None:
            return
        log.debug("upstream.closed", account=connection.upstream.account, messages=connection.messages)
        shelf = self._shelves.get(account_id)
        if shelf is not None and connection in shelf.idle:
            shelf.idle.remove(connection)
            if not shelf.idle:
                del self._shelves[account_id]

    async def drained(self, account_id: int) -> None:
        """Wait until no connection of the account is open."""
        while account_id in self._open:
            await self._ends.setdefault(account_id, asyncio.Event()).wait()

    def counts(self) -> dict[int, int]:
        """Open connections by account id, idle ones included."""
        return dict(self._open)

    def idle(self, account_id: int) -> int:
        """Connections that wait to be used again."""
        shelf = self._shelves.get(account_id)
        return len(shelf.idle) if shelf is not None else 0

    def take(self, upstream: Upstream) -> Connection | None:
        """The connection of exactly this identity that was used last; those of the account's former ones are closed."""
        shelf = self._shelves.get(upstream.account_id)
        if shelf is None:
            return None
        if not _same(shelf.upstream, upstream):
            self._clear(shelf)
            return None
        connection = shelf.idle.pop()
        if not shelf.idle:
            del self._shelves[upstream.account_id]
        connection.wire.wake_from_idle()
        connection.reused = connection.needs_reset = True
        return connection

    def put(self, connection: Connection) -> None:
        """Keep it for the next message, if it is good for one; otherwise QUIT."""
        upstream, wire = connection.upstream, connection.wire
        if wire.fault is not None:
            return
        shelf = self._shelves.get(upstream.account_id)
        same = shelf is not None and _same(shelf.upstream, upstream)
        if shelf is not None and not same and shelf.upstream.revision <= upstream.revision:
            self._clear(shelf)
            shelf = None
        if shelf is None:
            shelf, same = _Shelf(upstream), True
        if (
            self._closed
            or connection.age != self._ages.get(upstream.account_id, 0)
            or not same
            or connection.messages >= self._most_messages
            or len(shelf.idle) >= (upstream.max_connections or _UNLIMITED)
        ):
            wire.farewell()
            return
        self._shelves[upstream.account_id] = shelf
        shelf.idle.append(connection)
        wire.watch_idle(self._idle_s)

    def forget(self, account_id: int) -> None:
        """Every connection that is open or being made has had its time: idle ones QUIT now, others when given back."""
        if account_id in self._open:
            self._ages[account_id] = self._ages.get(account_id, 0) + 1
        shelf = self._shelves.get(account_id)
        if shelf is not None:
            self._clear(shelf)

    async def close(self) -> None:
        """QUIT them all; keep none from now on."""
        self._closed = True
        idle = [connection for shelf in self._shelves.values() for connection in shelf.idle]
        self._shelves.clear()
        await asyncio.gather(*(connection.quit(QUIT_S) for connection in idle))

    def _clear(self, shelf: _Shelf) -> None:
        self._shelves.pop(shelf.upstream.account_id, None)
        for connection in shelf.idle:
            connection.wire.farewell()


def _same(one: Upstream, other: Upstream) -> bool:
    """Equal; most often they are the very same, which spares comparing every field."""
    return one is other or one == other
