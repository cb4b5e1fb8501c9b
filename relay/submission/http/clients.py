"""HTTPS clients with their open connections, each for one account identity and for no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relay.accounts.model import Upstream
from relay.net.https import https_client
from relay.net.way import WayOf, direct
from relay.submission.smtp.deadlines import QUIT_S, Deadlines

if TYPE_CHECKING:
    import httpx

_UNLIMITED = 50  # connections of an account that has no limit


class _Kept:
    """A client and how many use it now."""

    __slots__ = ("client", "timer", "upstream", "users")

    def __init__(self, upstream: Upstream, client: httpx.AsyncClient) -> None:
        self.upstream, self.client, self.users = upstream, client, 0
        self.timer: asyncio.TimerHandle | None = None


class Clients:
    """A client is made for the first message of an account, and closed `idle_s` after the last.

    `ca_file`: trusted besides the system's authorities; read again for the next client when it changed.
    """

    def __init__(self, deadlines: Deadlines, *, ca_file: Path | None, idle_s: float, way_of: WayOf = direct) -> None:
        self._deadlines, self._ca_file, self._idle_s, self._way_of = deadlines, ca_file, idle_s, way_of
        self._kept: dict[int, _Kept] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def configure(self, deadlines: Deadlines, *, ca_file: Path | None, idle_s: float) -> None:
        """Other settings: whoever has a client keeps it to the end of its message, the next one gets a new one."""
        self._deadlines, self._ca_file, self._idle_s = deadlines, ca_file, idle_s
        for kept in tuple(self._kept.values()):
            self._retire(kept)

    @asynccontextmanager
    async def of(self, upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
        """The client of exactly this identity; that of the account's former one is closed. Raises DialFailed."""
        kept = self._kept.get(upstream.account_id)
        if kept is None or kept.upstream != upstream:
            made = _Kept(upstream, await self._made(upstream))
            kept = self._kept.get(upstream.account_id)  # somebody else may have been faster
            if kept is not None and kept.upstream == upstream:
                self._end(made)
            else:
                if kept is not None:
                    self._retire(kept)
                kept = self._kept[upstream.account_id] = made
        if kept.timer is not None:
            kept.timer.cancel()
        kept.users += 1
        try:
            yield kept.client
        finally:
            kept.users -= 1
            if not kept.users:
                self._put_down(kept)

    async def close(self) -> None:
        """Close them all, those in use at their end; keep none from now on."""
        self._closed = True
        for kept in tuple(self._kept.values()):
            self._retire(kept)
        if self._closing:
            await asyncio.wait(self._closing, timeout=QUIT_S)

    async def _made(self, upstream: Upstream) -> httpx.AsyncClient:
        deadlines = self._deadlines
        return await https_client(
            await self._way_of(upstream.account_id),
            timeout_s=max(deadlines.connect_s, deadlines.block_s, deadlines.done_s),  # the exchange has narrower ones
            ca_file=self._ca_file,
            most_connections=upstream.max_connections or _UNLIMITED,
            keepalive_s=self._idle_s,
        )

    def _put_down(self, kept: _Kept) -> None:
        """Nobody uses it."""
        if self._closed or self._kept.get(kept.upstream.account_id) is not kept:
            self._end(kept)
        else:
            kept.timer = asyncio.get_running_loop().call_later(self._idle_s, self._retire, kept)

    def _retire(self, kept: _Kept) -> None:
        """Give it to nobody any more."""
        if self._kept.get(kept.upstream.account_id) is kept:
            del self._kept[kept.upstream.account_id]
        if kept.timer is not None:
            kept.timer.cancel()
        if not kept.users:
            self._end(kept)

    def _end(self, kept: _Kept) -> None:
        task = asyncio.create_task(kept.client.aclose(), name="close https client")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
