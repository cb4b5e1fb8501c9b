"""A clock that is set while the relay runs: no mail expires for it, none waits longer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relay.database.schema import FAR_FUTURE_MS
from relay.dispatch.upkeep import Upkeep
from relay.queue.model import Settlement, State
from tests.store import TAKEN, Store, arrival, open_store

HOUR, DAY = 3_600_000, 86_400_000
LIFETIME = 5 * HOUR


@dataclass
class Clock:
    """The wall's and the machine's, in ms."""

    wall: int = 1_800_000_000_000
    uptime: int = 5_000_000

    def passes(self, ms: int) -> None:
        self.wall += ms
        self.uptime += ms


def upkeep(store: Store, clock: Clock, moves: list[int]) -> Upkeep:
    store.queue._clock = lambda: clock.wall

    def failed(where: str, error: BaseException) -> None:
        raise AssertionError(where) from error

    return Upkeep(
        store.queue,
        lifetime_ms=LIFETIME,
        history_ms=90 * DAY,
        delay_ms=0,
        expired=lambda message, delivery: None,
        delayed=lambda row: None,
        moved=moves.append,
        failed=failed,
        clock=lambda: clock.wall,
        uptime=lambda: clock.uptime,
    )


async def deferred(store: Store, due_at: int) -> None:
    """One message that waits in the store until then."""
    await store.queue.accept(arrival("ann@example.org"))
    message = store.fresh.pop()
    await store.queue.settle(message, [Settlement(message.deliveries[0], State.DEFERRED, due_at, TAKEN)])


async def test_set_forward_nothing_expires_early_and_all_does_in_time(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        clock, moves = Clock(), list[int]()
        keeper = upkeep(store, clock, moves)
        await deferred(store, clock.wall + HOUR)
        clock.passes(4 * HOUR)
        clock.wall += DAY
        assert keeper.unfollowed_ms() == DAY
        await keeper._age()
        await store.queue.accept(arrival("new@example.org"))
        await keeper.follow_clock()
        assert moves == [DAY]
        assert keeper.unfollowed_ms() == 0
        await keeper._age()
        [old], _ = await store.queue.claim_due(1, limit=10)
        assert clock.wall - old.accepted_at == 4 * HOUR
        await store.queue.give_back([old])
        clock.passes(HOUR + 1)
        assert [message.id for message, _ in await store.queue.expire(LIFETIME, limit=10)] == [old.id]


async def test_set_back_nothing_waits_longer(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        clock, moves = Clock(), list[int]()
        keeper = upkeep(store, clock, moves)
        await deferred(store, clock.wall + HOUR)
        await deferred(store, FAR_FUTURE_MS)
        clock.wall -= DAY
        await keeper.follow_clock()
        assert await store.queue.claim_due(1, limit=10) == ([], clock.wall + HOUR)
        clock.passes(HOUR)
        [message], _ = await store.queue.claim_due(1, limit=10)
        assert message.deliveries[0].recipient == "ann@example.org"
        assert moves == [-DAY]


async def test_a_clock_that_is_only_slewed_is_left_alone(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        clock, moves = Clock(), list[int]()
        keeper = upkeep(store, clock, moves)
        for _ in range(10):
            clock.passes(20_000)
            clock.wall += 10_000
            await keeper.follow_clock()
        assert moves == []
