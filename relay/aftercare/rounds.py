"""Rounds of work that never end by themselves, whatever fails in one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from relay.mail.errors import StorageFailed, StorageFull
from relay.telemetry import get_logger

log = get_logger()

_SHORTEST_S = 0.05


class Rounds:
    """One round after the other until cancelled: after `longest_s`, sooner when the last one said so or at a `poke`.

    `where` names the work in the log.  `gather_s`: how long a poke waits for others, so that one round does for all.
    """

    def __init__(self, where: str, *, longest_s: float, gather_s: float = 0.0) -> None:
        self._where, self._longest_s, self._gather_s = where, longest_s, gather_s
        self._poked = asyncio.Event()

    def poke(self) -> None:
        """Do a round now."""
        self._poked.set()

    async def run(self, once: Callable[[], Awaitable[float | None]]) -> None:
        """`once` does a round, and says in how many seconds the next is due; None: nothing is waited for."""
        while True:
            wait_s = None
            self._poked.clear()
            try:
                wait_s = await once()
            except (StorageFull, StorageFailed) as error:
                log.error("storage.failed", where=self._where, detail=str(error))
            except Exception as error:  # outermost loop
                log.error("daemon.fault", where=self._where, exc_info=error)
            await self._pause(self._longest_s if wait_s is None else min(max(wait_s, _SHORTEST_S), self._longest_s))

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._poked.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._gather_s)


def seconds_until(soonest_ms: int | None, now_ms: int) -> float | None:
    """Between two instants in ms since 1970; None: the first is none."""
    return None if soonest_ms is None else (soonest_ms - now_ms) / 1000
