"""Refused logins are counted over restarts: three an hour, whatever asks for more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from relay.credentials.oauth.errors import TokenUnavailable
from relay.credentials.tries import MOST_REFUSED, SPENT, WINDOW_MS, Tries, Try, refused_lately
from relay.database.engine import Database, open_database
from tests.store import lay_store

NOW = 1_790_000_000_000
ACCOUNT = 7


class Refused(Exception):
    """The server said 535."""


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(lay_store(tmp_path) / "relay.db") as opened:
        yield opened


@pytest.fixture
async def tries(database: Database, clock: Clock) -> AsyncIterator[Tries]:
    made = Tries(database, clock)
    yield made
    await made.close()


async def fail(attempt: AbstractAsyncContextManager[Try], *, refused: bool = True) -> None:
    async def login() -> None:
        async with attempt as mine:
            mine.refused = refused
            raise Refused

    with pytest.raises(Refused):
        await login()


async def spend(tries: Tries, clock: Clock) -> None:
    for _ in range(MOST_REFUSED):
        await fail(tries.attempt(ACCOUNT))
        clock.now += 60_000


async def spent(tries: Tries) -> int:
    with pytest.raises(TokenUnavailable) as refusal:
        await tries.attempt(ACCOUNT).__aenter__()
    assert refusal.value.reason == SPENT
    assert refusal.value.retry_after_s is not None
    return int(refusal.value.retry_after_s)


async def test_a_fourth_login_within_the_hour_is_not_made(tries: Tries, clock: Clock) -> None:
    await spend(tries, clock)
    assert await spent(tries) == 3600 - 180
    clock.now = NOW + WINDOW_MS
    await fail(tries.attempt(ACCOUNT))
    await spent(tries)
    async with tries.attempt(ACCOUNT + 1):
        pass


async def test_a_restart_forgets_nothing_not_even_a_login_that_it_cut_short(
    tries: Tries, database: Database, clock: Clock
) -> None:
    cut_short = [Tries(database, clock).attempt(ACCOUNT) for _ in range(MOST_REFUSED)]
    for attempt in cut_short:
        await attempt.__aenter__()  # and the process is killed before the reply
        clock.now += 1000
    await spent(Tries(database, clock))
    await spent(tries)


async def test_what_the_server_said_nothing_of_does_not_count(tries: Tries, database: Database, clock: Clock) -> None:
    for _ in range(MOST_REFUSED + 1):
        await fail(tries.attempt(ACCOUNT), refused=False)
    await tries.close()
    assert await database.read(lambda c: refused_lately(c, ACCOUNT, clock())) == ([], [])
    async with Tries(database, clock).attempt(ACCOUNT):
        pass


async def test_a_success_ends_the_count_and_a_later_refusal_begins_it(
    tries: Tries, database: Database, clock: Clock
) -> None:
    await fail(tries.attempt(ACCOUNT))
    async with tries.attempt(ACCOUNT):
        pass
    await tries.close()
    assert tries.last_login(ACCOUNT) == NOW
    assert await database.read(lambda c: refused_lately(c, ACCOUNT, clock())) == ([], [])
    await fail(tries.attempt(ACCOUNT))  # nothing was written before this one, so it is afterwards
    assert await database.read(lambda c: refused_lately(c, ACCOUNT, clock())) == ([NOW], [])
    for _ in range(MOST_REFUSED - 1):
        await fail(tries.attempt(ACCOUNT))
    await spent(tries)


async def test_a_person_may_try_more_often_and_is_counted_apart(tries: Tries, database: Database, clock: Clock) -> None:
    for _ in range(5):
        await fail(tries.by_person(ACCOUNT))
    own, asked = await database.read(lambda c: refused_lately(c, ACCOUNT, clock()))
    assert (len(own), len(asked)) == (0, 5)
    await spend(tries, clock)
    await spent(tries)
    async with tries.by_person(ACCOUNT):
        pass
    async with tries.attempt(ACCOUNT):
        pass


async def test_another_credential_opens_all_tries(tries: Tries, database: Database, clock: Clock) -> None:
    await spend(tries, clock)
    tries.forgive(ACCOUNT)
    await fail(tries.attempt(ACCOUNT))
    await tries.close()
    own, _ = await database.read(lambda c: refused_lately(c, ACCOUNT, clock()))
    assert len(own) == 1


async def test_a_clock_that_was_set_back_does_not_lock_us_out(tries: Tries, clock: Clock) -> None:
    await spend(tries, clock)
    clock.now = NOW - 400 * 86_400_000
    async with tries.attempt(ACCOUNT):
        pass
