"""Puts messages that are in hand back to the store: no lane needs them soon, or somebody else does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from relay.accounts.directory import Directory
from relay.dispatch.lane import Lane
from relay.mail.errors import StorageFailed, StorageFull
from relay.queue.model import Message
from relay.queue.store import Queue
from relay.telemetry import get_logger

log = get_logger()

Spawn = Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]]


class Custody:
    """One for a dispatcher. `lanes`: all there are, by account; `lane_of` makes one where there is none."""

    def __init__(
        self,
        queue: Queue,
        directory: Directory,
        *,
        lanes: Mapping[int, Lane],
        lane_of: Callable[[int], Lane],
        spawn: Spawn,
        clock: Callable[[], int],
    ) -> None:
        self._queue, self._directory, self._verdicts = queue, directory, queue.verdicts
        self._lanes, self._lane_of, self._spawn, self._clock = lanes, lane_of, spawn, clock
        self._rerouted: object = None  # the routes by which what waits was looked at last

    def put_down(self, lane: Lane) -> None:
        """Free the memory of a lane that will not send soon; the store keeps its mail."""
        self._verdicts.put_down_account(lane.account_id)
        if lane.ready:
            self._spawn(self.give_back(lane, _emptied(lane)), "give back")

    def tell_if_held_back(self, lane: Lane) -> None:
        """Nobody waits for the verdict on what is not tried now."""
        if lane.upstream is None or lane.suspended or lane.resting_until > time.monotonic():
            self._verdicts.put_down_account(lane.account_id)

    async def withdraw(self, ids: Sequence[int], *, later_ms: int = 0) -> None:
        """Put messages that wait in hand back to the store; those in an attempt stay. `later_ms`: see `give_back`."""
        wanted = set(ids)
        given: list[asyncio.Task[Any]] = []
        for lane in tuple(self._lanes.values()):
            taken = [message for message in lane.ready if message.id in wanted]
            if taken:
                kept = [message for message in lane.ready if message.id not in wanted]
                lane.ready.clear()
                lane.ready.extend(kept)
                given.append(self._spawn(self.give_back(lane, taken, later_ms=later_ms), "give back"))
        for task in given:  # goes on when the command is gone
            await asyncio.shield(task)

    async def give_back(self, lane: Lane, given: list[Message], *, later_ms: int = 0) -> None:
        """Put these, which are out of `lane.ready` already, back; they stay with the lane when the store fails.

        `later_ms`: they are due no sooner than so much later.
        """
        for message in given:
            self._verdicts.put_down(message.id)
        try:
            await self._queue.give_back(given, later_ms=later_ms)
        except (StorageFull, StorageFailed) as error:
            log.error("storage.failed", where="give back", detail=str(error))
            lane.ready.extendleft(reversed(given))
        lane.backlog(self._clock() + later_ms)

    async def reroute(self) -> None:
        """Routes changed: move what waits to the lanes its senders route to now."""
        for lane in tuple(self._lanes.values()):
            if not lane.willing() and lane.ready:  # what flows is looked at again when it is taken
                await self.give_back(lane, _emptied(lane))

        def resolve(reverse_path: str, account_id: int, replaced: bool) -> int | None:
            account = self._directory.account(account_id)
            if replaced and account is not None and account.address == reverse_path:  # see Dispatcher._is_own
                return account_id
            route = self._directory.route(reverse_path)
            return route.account_id if route is not None else None

        routes = self._directory.routing()
        if routes == self._rerouted:  # another change than of routes
            return
        moved = await self._queue.operator.reroute(resolve)
        self._rerouted = routes
        if moved:
            for account_id, due_at in (await self._queue.due_times()).items():
                self._lane_of(account_id).backlog(due_at)


def _emptied(lane: Lane) -> list[Message]:
    given = list(lane.ready)
    lane.ready.clear()
    return given
