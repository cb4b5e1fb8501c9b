"""What time asks for: the lease is renewed, a clock that was set is followed, the old expires or is forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from relay.dispatch.clock_mark import SET_MS, ClockMark, uptime_ms
from relay.mail.errors import StorageFailed, StorageFull
from relay.queue.model import Delivery, Message
from relay.queue.store import Queue
from relay.telemetry import get_logger

log = get_logger()

_TICK_S = 20.0  # a third of the lease
_AGED = 500  # messages or deliveries at a time
_AUDIT_MS = 400 * 86_400_000  # more than a year: the store itself refuses to lose less
_AGE_S = 2.0  # of each tick, for what time has done


class Upkeep:
    """`run` until cancelled.

    `expired` is called for each delivery whose lifetime ended in the store, `delayed` for each (its row) that waits for
    `delay_ms` (0: never) and of which its sender is told, `moved` with by how much the clock was set.  `mark` remembers
    the clocks over a restart.
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
        mark: ClockMark | None = None,
    ) -> None:
        self._queue = queue
        self._lifetime_ms = lifetime_ms
        self._history_ms = history_ms
        self._delay_ms = delay_ms
        self._looked_at = 0  # the id of the last message of which it was seen that it waits
        self._expired = expired
        self._delayed = delayed
        self._moved = moved
        self._clock, self._uptime, self._mark = clock, uptime, mark
        wall, up = clock(), uptime()
        self._began = wall - up - (mark.moved_ms(wall, up) if mark is not None else 0)
        self._failed = failed
        self.leads: Callable[[], bool] | None = None  # of several nodes: is it for this one to do?

    def configure(self, *, lifetime_ms: int, history_ms: int) -> None:
        """Other ages from the next tick on."""
        self._lifetime_ms, self._history_ms = lifetime_ms, history_ms

    def unfollowed_ms(self) -> int:
        """By how much the clock was set, as long as the store does not know of it; 0: it was not."""
        moved = self._clock() - self._uptime() - self._began
        return moved if abs(moved) >= SET_MS else 0

    async def run(self) -> None:
        """Never ends by itself, whatever fails."""
        await self._do(self.follow_clock)  # it may have been set while nothing ran
        while True:
            await asyncio.sleep(_TICK_S)
            for duty in (self._renew, self.follow_clock, self._age):
                await self._do(duty)

    async def sweep(self) -> None:
        """Remove what the last run left in the spool."""
        await self._do(self._queue.sweep)

    async def _do(self, duty: Callable[[], Awaitable[None]]) -> None:
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
        if by_ms:
            if self.leads is None or self.leads():
                await self._queue.aging.follow_clock(by_ms)
            self._began += by_ms
            self._moved(by_ms)
            log.warning("daemon.clock_set", by_s=by_ms // 1000)
        else:
            self._began = self._clock() - self._uptime()
        if self._mark is not None:
            await asyncio.to_thread(self._mark.keep, self._began + self._uptime(), self._uptime())

    async def _age(self) -> None:
        if self.unfollowed_ms() or (self.leads is not None and not self.leads()):
            return
        until = time.monotonic() + _AGE_S
        for message, delivery in await self._queue.aging.expire(self._lifetime_ms, limit=_AGED):
            self._expired(message, delivery)
        await self._tell_of_delays(until)
        swept = 0
        while (pruned := await self._queue.aging.prune(self._history_ms, limit=_AGED)) and time.monotonic() < until:
            swept += pruned
        await self._queue.aging.prune_audit(_AUDIT_MS, limit=_AGED)
        if swept + pruned:
            log.info("queue.swept", messages=swept + pruned)
        await self._queue.aging.shrink()

    async def _tell_of_delays(self, until: float) -> None:
        if not self._delay_ms:
            return
        while True:
            found, self._looked_at, done = await self._queue.aging.delay(
                self._delay_ms, after=self._looked_at, limit=_AGED
            )
            for row in found:
                self._delayed(row)
            if done or time.monotonic() >= until:
                return
