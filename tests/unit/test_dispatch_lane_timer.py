"""A lane's timer: whatever it finds when it fires, it is set again for what comes next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvloop

from relay.accounts.model import Account
from relay.accounts.upstream import fill
from relay.config.settings import DispatchSettings, UpstreamDefaults
from relay.dispatch.lane import Lane, Services
from relay.queue.model import Message

LANES = 200  # one firing in twelve meets uvloop's clock at its edge
UPSTREAM = fill(Account(1, "app@example.com", "custom", "none"), UpstreamDefaults())


class Emptiness:
    """The dispatcher of lanes without mail, and its queue: says when each of them has asked for what is due."""

    def __init__(self) -> None:
        self.queue = self
        self.settings = DispatchSettings()
        self.asked: set[int] = set()
        self.all_asked = asyncio.Event()

    def chance(self) -> float:
        return 0.5

    def clock(self) -> int:
        return time.time_ns() // 1_000_000

    def flowing(self) -> bool:
        return True

    def rested(self, lane: Lane, seconds: float) -> None:
        pass

    def failed(self, where: str, error: BaseException) -> None:
        raise error

    async def claim_due(self, account_id: int, **_: Any) -> tuple[list[Message], None]:
        self.asked.add(account_id)
        if len(self.asked) == LANES:
            self.all_asked.set()
        return [], None


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_what_is_due_behind_a_rest_is_asked_for(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def rest_then_ask() -> None:
        services = Emptiness()
        for number in range(LANES):
            lane = Lane(number, cast("Services", services))
            lane.configure(UPSTREAM, suspended=False)
            lane.rest(0.005 + 0.0007 * (number % 50))
            lane.backlog(int(time.time() * 1000) + 100)
        async with asyncio.timeout(5):
            await services.all_asked.wait()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(rest_then_ask())
