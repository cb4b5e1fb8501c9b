"""What time asks for: the lease is renewed, old messages expire, old history is forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from relay.mail.errors import StorageFailed, StorageFull
from relay.queue.model import Delivery, Message
from relay.queue.store import Queue
from relay.telemetry import get_logger

log = get_logger()

_TICK_S = 20.0  # a third of the lease
_AGED = 500  # messages or deliveries at a time
_AGE_S = 2.0  # of each tick, for what time has done


class Upkeep:
    """`run` until cancelled. `expired` is called for each delivery whose lifetime ended in the store."""

    def __init__(
        self,
        queue: Queue,
        *,
        lifetime_ms: int,
        history_ms: int,
        expired: Callable[[Message, Delivery], None],
        failed: Callable[[str, BaseException], None],
    ) -> None:
        self._queue = queue
        self._lifetime_ms = lifetime_ms
        self._history_ms = history_ms
        self._expired = expired
        self._failed = failed

    def configure(self, *, lifetime_ms: int, history_ms: int) -> None:
        """Other ages from the next tick on."""
        self._lifetime_ms, self._history_ms = lifetime_ms, history_ms

    async def run(self) -> None:
        """Never ends by itself, whatever fails."""
        while True:
            await asyncio.sleep(_TICK_S)
            for duty in (self._renew, self._age):
                try:
                    await duty()
                except (StorageFull, StorageFailed) as error:
                    log.error("storage.failed", where="tick", detail=str(error))
                except Exception as error:  # outermost loop: without it leases end and nothing is sent any more
                    self._failed("tick", error)

    async def _renew(self) -> None:
        if not await self._queue.renew():
            log.error("daemon.fault", where="lease", detail="another node declared this one dead")

    async def _age(self) -> None:
        until = time.monotonic() + _AGE_S
        for message, delivery in await self._queue.expire(self._lifetime_ms, limit=_AGED):
            self._expired(message, delivery)
        while await self._queue.prune(self._history_ms, limit=_AGED) == _AGED and time.monotonic() < until:
            pass
        await self._queue.shrink()
