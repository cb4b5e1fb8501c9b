"""What time asks for: the lease is renewed, a clock that was set is followed, the old expires or is forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from relay.mail.errors import StorageFailed, StorageFull
from relay.queue.model import Delivery, Message
from relay.queue.store import Queue
from relay.telemetry import get_logger

log = get_logger()

_TICK_S = 20.0  # a third of the lease
_AGED = 500  # messages or deliveries at a time
_AUDIT_MS = 400 * 86_400_000  # more than a year: the store itself refuses to lose less
_AGE_S = 2.0  # of each tick, for what time has done
_SET_MS = 60_000  # a clock that moved so far from the time passed was set; less is what NTP does all day


def uptime_ms() -> int:
    """Milliseconds since some moment, on a clock that nobody sets and that counts through suspension."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


class Upkeep:
    """`run` until cancelled.

    `expired` is called for each delivery whose lifetime ended in the store, `delayed` for each (its row) that waits for
    `delay_ms` (0: never) and of which its sender is told, `moved` with by how much the clock was set.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        lifetime_ms: int,
        history_ms: int,
        delay_ms: int,
        expired: Callable[[Message, Delivery], None],
        delayed: Callable[[Any], None],
        moved: Callable[[int], None],
        failed: Callable[[str, BaseException], None],
        clock: Callable[[], int],
        uptime: Callable[[], int] = uptime_ms,
    ) -> None:
        self._queue = queue
        self._lifetime_ms = lifetime_ms
        self._history_ms = history_ms
        self._delay_ms = delay_ms
        self._looked_at = 0  # the id of the last message of which it was seen that it waits
        self._expired = expired
        self._delayed = delayed
        self._moved = moved
        self._clock, self._uptime = clock, uptime
        self._began = clock() - uptime()
        self._failed = failed

    def configure(self, *, lifetime_ms: int, history_ms: int) -> None:
        """Other ages from the next tick on."""
        self._lifetime_ms, self._history_ms = lifetime_ms, history_ms

    def unfollowed_ms(self) -> int:
        """By how much the clock was set, as long as the store does not know of it; 0: it was not."""
        moved = self._clock() - self._uptime() - self._began
        return moved if abs(moved) >= _SET_MS else 0

    async def run(self) -> None:
        """Never ends by itself, whatever fails."""
        while True:
            await asyncio.sleep(_TICK_S)
            for duty in (self._renew, self.follow_clock, self._age):
                try:
                    await duty()
                except (StorageFull, StorageFailed) as error:
                    log.error("storage.failed", where="tick", detail=str(error))
                except Exception as error:  # outermost loop: without it leases end and nothing is sent any more
                    self._failed("tick", error)

    async def _renew(self) -> None:
        if not await self._queue.renew():
            log.error("daemon.fault", where="lease", detail="another node declared this one dead")

    async def follow_clock(self) -> None:
        """Let the store follow a clock that was set: no mail expires or waits longer for it."""
        by_ms = self.unfollowed_ms()
        if not by_ms:
            self._began = self._clock() - self._uptime()
            return
        await self._queue.follow_clock(by_ms)
        self._began += by_ms
        self._moved(by_ms)
        log.warning("daemon.clock_set", by_s=by_ms // 1000)

    async def _age(self) -> None:
        if self.unfollowed_ms():
            return
        until = time.monotonic() + _AGE_S
        for message, delivery in await self._queue.expire(self._lifetime_ms, limit=_AGED):
            self._expired(message, delivery)
        await self._tell_of_delays(until)
        swept = 0
        while (pruned := await self._queue.prune(self._history_ms, limit=_AGED)) and time.monotonic() < until:
            swept += pruned
        await self._queue.prune_audit(_AUDIT_MS, limit=_AGED)
        if swept + pruned:
            log.info("queue.swept", messages=swept + pruned)
        await self._queue.shrink()

    async def _tell_of_delays(self, until: float) -> None:
        if not self._delay_ms:
            return
        while True:
            found, self._looked_at, done = await self._queue.delay(self._delay_ms, after=self._looked_at, limit=_AGED)
            for row in found:
                self._delayed(row)
            if done or time.monotonic() >= until:
                return
