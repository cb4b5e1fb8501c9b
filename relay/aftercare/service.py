"""Runs what aftercare does by itself, beside the daemon's other parts."""

from __future__ import annotations

import asyncio

from relay.aftercare.bounces import Bounces
from relay.aftercare.trouble import TroubleNotices

_CLOSING_S = 5.0


class Aftercare:
    """One per daemon: `start` once the dispatcher runs, `stop` before it does not any more."""

    def __init__(self, trouble: TroubleNotices, bounces: Bounces) -> None:
        self.trouble, self.bounces = trouble, bounces
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin with what the store holds."""
        self._tasks = [
            asyncio.create_task(self.trouble.run(), name="notices of trouble"),
            asyncio.create_task(self.bounces.run(), name="notices to senders"),
        ]

    async def stop(self) -> None:
        """End; what is being written is, what was not begun is found at the next start."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSING_S)
