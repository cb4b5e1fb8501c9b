"""Remembers how the counters grew, minute by minute, so that the console can draw the last hours."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NamedTuple

from relay.telemetry.counters import COUNTERS

EVERY_S = 60.0
KEPT = 24 * 60

_OUTCOMES = ("relayed", "deferred", "bounced", "held", "expired")


class Minute(NamedTuple):
    """What happened in the minute that ended at `at_s` (seconds since 1970)."""

    at_s: int
    accepted: int
    relayed: int
    deferred: int
    bounced: int
    held: int
    expired: int
    rejected: int


class Sampler:
    """The last 24 hours, in memory. `run` is a task of the daemon."""

    def __init__(self) -> None:
        self.minutes: deque[Minute] = deque(maxlen=KEPT)
        self._before = self._totals()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S - time.time() % EVERY_S)
            self.sample(int(time.time()))

    def sample(self, at_s: int) -> None:
        """A minute is over."""
        self.minutes.append(Minute(at_s, *self._grown()))
        self._before = self._totals()

    def since(self, seconds: int) -> list[Minute]:
        """The minutes of the last `seconds`, and what there is of the current one."""
        now = int(time.time())
        return [*(minute for minute in self.minutes if minute.at_s > now - seconds), Minute(now, *self._grown())]

    def _grown(self) -> list[int]:
        return [now - before for now, before in zip(self._totals(), self._before, strict=True)]

    def _totals(self) -> tuple[int, ...]:
        snapshot = COUNTERS.snapshot()
        outcomes = dict.fromkeys(_OUTCOMES, 0.0)
        for labels, count in snapshot.get("relay_deliveries_total", {}).items():
            outcome = dict(labels)["outcome"]
            if outcome in outcomes:
                outcomes[outcome] += count
        accepted = sum(snapshot.get("relay_messages_accepted_total", {}).values())
        rejected = sum(snapshot.get("relay_messages_rejected_total", {}).values())
        return (int(accepted), *(int(count) for count in outcomes.values()), int(rejected))


SAMPLER = Sampler()  # of this process, like the counters it reads
