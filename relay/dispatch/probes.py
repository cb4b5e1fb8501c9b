"""When suspended accounts' logins are tried again: one timer for each, whoever asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relay.dispatch.lane import Lane


class Probes:
    """`begin(lane)` is called `after_s` after the first `later(lane)`; 0: never."""

    def __init__(self, after_s: float, begin: Callable[[Lane], None]) -> None:
        self._after_s, self._begin = after_s, begin
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def configure(self, after_s: float) -> None:
        """Another wait for those that begin now; 0 ends them all."""
        self._after_s = after_s
        if not after_s:
            self.stop()

    def later(self, lane: Lane) -> None:
        """Try its login after a while, with the next message that waits."""
        if self._after_s and lane.account_id not in self._timers:
            timer = asyncio.get_running_loop().call_later(self._after_s, self._due, lane)
            self._timers[lane.account_id] = timer

    def stop(self) -> None:
        """No more timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _due(self, lane: Lane) -> None:
        del self._timers[lane.account_id]
        self._begin(lane)
