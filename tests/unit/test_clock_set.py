"""A clock that is set while the relay runs: no mail expires for it, none waits longer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, insert

from relay.credentials.tries import refused_lately
from relay.database.schema import FAR_FUTURE_MS, login_tries
from relay.dispatch.clock_mark import ClockMark
from relay.dispatch.upkeep import Upkeep
from relay.queue.model import Settlement, State
from relay.queue.ours import MAIL, Told, record, told_since
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


def upkeep(store: Store, clock: Clock, moves: list[int], mark: ClockMark | None = None) -> Upkeep:
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
        mark=mark,
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
        assert [message.id for message, _ in await store.queue.aging.expire(LIFETIME, limit=10)] == [old.id]


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


async def test_set_forward_while_nothing_ran_nothing_expires_early(tmp_path: Path) -> None:
    clock, moves = Clock(), list[int]()
    mark = ClockMark(tmp_path / "clock", "boot-1")
    async with open_store(tmp_path) as store:
        keeper = upkeep(store, clock, moves, mark)
        await deferred(store, clock.wall + HOUR)
        await keeper.follow_clock()
    clock.passes(2 * HOUR)
    clock.wall += DAY
    async with open_store(tmp_path) as store:
        keeper = upkeep(store, clock, moves, mark)
        assert keeper.unfollowed_ms() == DAY
        await keeper._age()  # expires nothing before the clock was followed
        await keeper.follow_clock()
        await keeper._age()
        [old], _ = await store.queue.claim_due(1, limit=10)
        assert clock.wall - old.accepted_at == 2 * HOUR
        await store.queue.give_back([old])
        assert upkeep(store, clock, moves, mark).unfollowed_ms() == 0, "followed once"
    assert moves == [DAY]


async def test_set_back_while_nothing_ran_nothing_waits_longer_over_a_reboot_either(tmp_path: Path) -> None:
    clock, moves = Clock(), list[int]()
    async with open_store(tmp_path) as store:
        keeper = upkeep(store, clock, moves, ClockMark(tmp_path / "clock", "boot-1"))
        await deferred(store, clock.wall + HOUR)
        await keeper.follow_clock()
    clock.wall -= DAY
    clock.uptime = 10_000
    async with open_store(tmp_path) as store:
        keeper = upkeep(store, clock, moves, ClockMark(tmp_path / "clock", "boot-2"))
        await keeper.follow_clock()
        assert moves == [-DAY]
        assert await store.queue.claim_due(1, limit=10) == ([], clock.wall + HOUR)


async def test_set_back_what_was_told_and_tried_lies_no_longer_ahead(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        clock = Clock()
        keeper = upkeep(store, clock, [])
        at = clock.wall

        def write(connection: Connection) -> None:
            record(connection, Told("bounce", 1, "x", MAIL, "ann@example.org", "queued"), at - 60_000)
            connection.execute(insert(login_tries).values(account_id=1, at=at - 60_000, by_person=0))

        await store.database.write(write)
        clock.wall -= DAY
        await keeper.follow_clock()
        now = clock.wall

        def read(connection: Connection) -> tuple[int, int, list[int]]:
            lately, ahead = (told_since(connection, since, kinds=("bounce",)) for since in (now - HOUR, now))
            return lately, ahead, refused_lately(connection, 1, now)[0]

        assert await store.database.read(read) == (1, 0, [now - 60_000])


def test_a_mark_says_only_what_can_be_known(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    here = ClockMark(path, "boot-1")
    assert here.moved_ms(1_000_000, 0) == 0, "there is none yet"
    here.keep(10 * DAY, 5 * HOUR)
    assert here.moved_ms(10 * DAY + HOUR, 6 * HOUR) == 0
    assert here.moved_ms(11 * DAY + HOUR + 30_000, 6 * HOUR) == DAY + 30_000
    assert here.moved_ms(9 * DAY + HOUR, 6 * HOUR) == -DAY
    for other in (ClockMark(path, "boot-2"), ClockMark(path, "")):
        assert other.moved_ms(20 * DAY, 0) == 0, "it may have been off for ten days"
        assert other.moved_ms(9 * DAY, 0) == -DAY
    ClockMark(path, "").keep(10 * DAY, 5 * HOUR)
    assert ClockMark(path, "").moved_ms(11 * DAY, 5 * HOUR) == 0, "without an id no two uptimes are compared"
    for torn in ("", "{", "[]", '{"boot": "boot-1"}', '{"boot": "boot-1", "began": "x", "wall": 1}'):
        path.write_text(torn)
        assert here.moved_ms(1, 1) == 0
    ClockMark(tmp_path / "gone" / "clock", "x").keep(1, 1)  # no failure matters
