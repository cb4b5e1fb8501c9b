"""What leases mean for lanes: one that is leased sends, one that is not puts back what it has and waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping

from relay.dispatch.custody import Custody
from relay.dispatch.lane import Lane
from relay.mail.errors import StorageFailed, StorageFull
from relay.queue.leases import Lease
from relay.queue.store import Queue
from relay.submission.transport import Transport
from relay.telemetry import get_logger

log = get_logger()

_HELD_BACK_MS = 4_000  # what was put back for an operator waits for what is done with it
_CLOSING_S = 5.0  # that connections get to QUIT before another node may open its own


class Tenure:
    """One for a dispatcher that shares its store. `take_up(lane)` is called when a lane begins to be this node's."""

    def __init__(
        self,
        queue: Queue,
        transport: Transport,
        custody: Custody,
        *,
        lanes: Mapping[int, Lane],
        lane_of: Callable[[int], Lane],
        take_up: Callable[[Lane, Lease], None],
        clock: Callable[[], int],
    ) -> None:
        self._queue, self._transport, self._custody = queue, transport, custody
        self._lanes, self._lane_of, self._take_up, self._clock = lanes, lane_of, take_up, clock

    def granted(self, account_id: int, lease: Lease) -> None:
        """This node submits for the account from now on. It goes on where the one before stopped, rests included."""
        lane = self._lane_of(account_id)
        lane.leased = True
        self._take_up(lane, lease)
        left_s = (lease.rest_until - self._clock()) / 1000
        if left_s > 0:
            lane.resume_rest(left_s, lease.rest_cause, lease.rest_failures)
        lane.backlog(self._clock())

    def refused(self, account_id: int) -> None:
        """Another node submits for the account; it was told that something waits."""
        lane = self._lanes.get(account_id)
        if lane is not None and not lane.leased:
            lane.next_due = None
            self._custody.put_down(lane)

    def due(self, account_id: int) -> None:
        """Another node put mail of the account into the store."""
        self._lane_of(account_id).backlog(self._clock())

    def idle(self, account_id: int, since: float) -> bool:
        """Nothing was there to send since that time (monotonic)."""
        lane = self._lanes.get(account_id)
        return lane is None or (not lane.busy and lane.used_at < since)

    async def vacate(self, account_id: int) -> None:
        """Send nothing more for the account; return when no attempt is under way and no connection is open."""
        lane = self._lanes.get(account_id)
        if lane is not None:
            lane.leased = False
            self._custody.put_down(lane)
            while lane.workers:
                await asyncio.wait(tuple(lane.workers))
            if lane.ready:  # what an attempt gave back
                self._custody.put_down(lane)
            await lane.refilled()
        self._transport.forget(account_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_S):
                await self._transport.drained(account_id)

    def lost(self) -> None:
        """Nothing is this node's any more: what is in hand was taken over, and is forgotten here."""
        for lane in tuple(self._lanes.values()):
            lane.leased = False
            lane.next_due = None
            for message in lane.ready:
                self._queue.verdicts.put_down(message.id)
                self._queue.put_down(message)
            lane.ready.clear()
            self._transport.forget(lane.account_id)

    async def withdraw(self, ids: Iterable[int]) -> None:
        """Put messages that wait in hand back, for an operator at another node who wants to change them."""
        try:
            await self._custody.withdraw(list(ids), later_ms=_HELD_BACK_MS)
        except (StorageFull, StorageFailed) as error:
            log.error("storage.failed", where="withdraw", detail=str(error))
