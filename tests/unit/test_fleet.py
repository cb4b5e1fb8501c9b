"""Two nodes of a fleet in one process, on a real PostgreSQL: who has what, who hears what, what moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from relay.config.database import DatabaseSettings
from relay.credentials.oauth.errors import TokenUnavailable
from relay.database.bell import Bell
from relay.database.engine import open_store
from relay.database.postgresql.connecting import Place
from relay.dispatch import fleet as fleet_module
from relay.dispatch.fleet import Fleet
from relay.queue import nodes as nodes_module
from relay.queue.leases import Lease, of_account, of_token, take
from relay.queue.nodes import Identity
from tests.postgresql import server

LIMIT_S = 10


@dataclass
class Recorder:
    """Hands that write down what they are told."""

    told: list[tuple[str, int]] = field(default_factory=list)
    withdrawn: list[int] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def _note(self, what: str, account_id: int = 0) -> None:
        self.told.append((what, account_id))
        self.heard.set()

    async def until(self, what: str, account_id: int = 0) -> None:
        async with asyncio.timeout(LIMIT_S):
            while (what, account_id) not in self.told:
                self.heard.clear()
                await self.heard.wait()

    def granted(self, account_id: int, lease: Lease) -> None:
        self._note("granted", account_id)

    def refused(self, account_id: int) -> None:
        self._note("refused", account_id)

    def due(self, account_id: int) -> None:
        self._note("due", account_id)

    def wake(self, account_id: int) -> None:
        self._note("wake", account_id)

    def idle(self, account_id: int, since: float) -> bool:
        return False

    def flow(self) -> None:
        self._note("flow")

    def lost(self) -> None:
        self._note("lost")

    async def vacate(self, account_id: int) -> None:
        self._note("vacated", account_id)

    async def withdraw(self, ids: Iterable[int]) -> None:
        self.withdrawn += ids


@dataclass
class Member:
    fleet: Fleet
    hands: Recorder
    url: str


@asynccontextmanager
async def member(
    name: str, folder: Path, settings: DatabaseSettings, *, lease_s: float = 30.0
) -> AsyncIterator[Member]:
    """A node that listens, and beats when it is told to."""
    async with open_store(settings, folder / name, alone=False) as database:
        fleet = Fleet(database, database.now_ms, Identity(name, f"home of {name}", "1", 1), lease_s=lease_s, idle_s=60)
        await fleet.join()
        hands = Recorder()
        fleet.hands = hands
        listening = asyncio.Event()
        bell = Bell(
            lambda: Place(settings).connect(application="test bell"), heard=fleet.calls.heard, missed=listening.set
        )
        task = asyncio.create_task(bell.run())
        try:
            async with asyncio.timeout(LIMIT_S):
                await listening.wait()
            yield Member(fleet, hands, settings.url)
        finally:
            task.cancel()
            await asyncio.wait((task,))
            await fleet.close()


@asynccontextmanager
async def two(folder: Path, *, lease_s: float = 30.0) -> AsyncIterator[tuple[Member, Member]]:
    settings = DatabaseSettings(url=server().fresh())
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(member("one", folder, settings, lease_s=lease_s))
        other = await stack.enter_async_context(member("other", folder, settings, lease_s=lease_s))
        yield one, other


async def test_who_does_not_have_the_account_tells_who_has(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        assert await one.fleet.obtain(7)
        assert not await other.fleet.obtain(7)
        await one.hands.until("due", 7)
        assert ("granted", 7) not in other.hands.told
        other.fleet.say("wake 7")
        await one.hands.until("wake", 7)


async def test_an_orderly_end_hands_over_at_once(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        assert await one.fleet.obtain(7)
        await one.fleet.retire(LIMIT_S)
        assert ("vacated", 7) in one.hands.told
        assert not await one.fleet.obtain(7)
        assert await other.fleet.obtain(7)
        await one.fleet.leave()
        assert not one.fleet.alive()
        number = one.fleet.node
        await one.fleet.beat()  # as the call that it has left makes it do
        assert (one.fleet.node, one.fleet.alive()) == (number, False)


async def test_a_node_with_more_than_its_share_hands_over_to_the_one_with_less(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        for account_id in range(1, 5):
            assert await one.fleet.obtain(account_id)
        await one.fleet.beat()
        await other.hands.until("granted", 1)
        assert other.fleet.holds(1)
        assert not one.fleet.holds(1)


async def test_the_dead_are_buried_by_the_stores_clock_and_who_comes_back_is_somebody_else(tmp_path: Path) -> None:
    async with two(tmp_path, lease_s=1) as (one, other):
        assert await one.fleet.obtain(7)
        before = one.fleet.node
        async with asyncio.timeout(LIMIT_S):
            while other.fleet.standings.get(7) is None or other.fleet.standings[7].node == before:
                await other.fleet.beat()
        assert not one.fleet.holds(7)  # by its own clock, before anybody told it
        await one.fleet.beat()
        assert ("lost", 0) in one.hands.told
        assert one.fleet.node > before
        await other.fleet.beat()
        assert other.fleet.leads()


@pytest.mark.parametrize("amid_a_pipeline", [False, True])
async def test_a_node_that_stopped_in_the_midst_of_a_transaction_keeps_nothing_from_whoever_buries_it(
    tmp_path: Path, amid_a_pipeline: bool
) -> None:
    async with two(tmp_path, lease_s=1.2) as (one, other):
        before = one.fleet.node
        url = other.url
        with psycopg.connect(url, autocommit=True) as owed:
            owed.execute(
                "INSERT INTO deliveries (message_id, number, recipient, account_id, state, due_at, attempts, owner, "
                "token) VALUES (70, 0, 'ann@example.org', 7, 'queued', 0, 0, %s, 1)",
                (before,),
            )
        await one.fleet.beat()
        # What its writer had open when it stopped. Nothing more is ever sent over it.
        stopped = psycopg.connect(url, autocommit=True, application_name="relay writer")
        try:
            changed = b"UPDATE deliveries SET attempts = attempts + 1 WHERE message_id = 70"
            if amid_a_pipeline:
                stopped.pgconn.enter_pipeline_mode()
                for statement in (b"BEGIN", changed):
                    stopped.pgconn.send_query_params(statement, None)
                stopped.pgconn.send_flush_request()
                stopped.pgconn.flush()
            else:
                stopped.execute("BEGIN")
                stopped.execute(changed)
            async with asyncio.timeout(4):  # less than the 5 s that anybody waits for a row
                while _nodes(url) != [other.fleet.node]:
                    await other.fleet.beat()
        finally:
            stopped.close()
        with psycopg.connect(url) as owed:
            assert owed.execute("SELECT owner, attempts FROM deliveries").fetchall() == [(None, 0)]


@pytest.mark.parametrize("by_s", [86_400, -86_400])
async def test_a_clock_of_the_store_that_is_set_buries_nobody_who_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_s: int
) -> None:
    """Whether it was set, or a standby with another clock took over."""
    async with two(tmp_path, lease_s=3) as (one, other):
        judging = time.monotonic() + 1.1  # a third of the lease after its start a node judges
        while time.monotonic() < judging:
            await one.fleet.beat()
            await other.fleet.beat()
        before = [one.fleet.node, other.fleet.node]
        clock = nodes_module.store_now
        monkeypatch.setattr(nodes_module, "store_now", lambda connection: clock(connection) + by_s * 1000)
        await other.fleet.beat()
        await one.fleet.beat()
        await other.fleet.beat()
        assert sorted(_nodes(other.url)) == before
        assert ("lost", 0) not in one.hands.told
        async with asyncio.timeout(LIMIT_S):
            while _nodes(other.url) != [other.fleet.node]:  # and then who is not heard of any more
                await other.fleet.beat()


def _nodes(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM nodes")]


async def test_one_node_at_a_time_asks_for_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two(tmp_path) as (one, other):
        inside, most = 0, 0

        async def ask(member: Member) -> None:
            nonlocal inside, most
            async with member.fleet.token_turn(7):
                inside += 1
                most = max(most, inside)
                await member.fleet.write(lambda connection: None)
                inside -= 1

        await asyncio.gather(ask(one), ask(other))
        assert most == 1
        await one.fleet.write(lambda c: take(c, one.fleet.node, [of_token(8)], now=0))
        monkeypatch.setattr(fleet_module, "_TURN_S", 0.0)
        with pytest.raises(TokenUnavailable):
            async with other.fleet.token_turn(8):
                pass


async def test_a_call_that_is_not_understood_is_left_alone(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        assert await other.fleet.obtain(7)
        for call in ("due x", "take", "dance 3", "withdrawn 1 x"):
            one.fleet.say(call)
        one.fleet.say("due 7")
        await other.hands.until("due", 7)


async def test_more_accounts_of_others_than_one_call_holds_are_all_told(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        many = range(1_000_000, 1_001_200)
        assert await one.fleet.obtain(7)
        await one.fleet.write(lambda c: take(c, one.fleet.node, [of_account(n) for n in many], now=0))
        for account_id in (*many, 7, 8):
            other.fleet.want(account_id)
        await other.hands.until("granted", 8)
        await one.hands.until("due", 7)
