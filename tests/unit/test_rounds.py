"""Rounds of the aftercare: whatever fails in one, the next comes."""

from __future__ import annotations

import asyncio

import pytest

from relay.aftercare.rounds import Rounds, seconds_until
from relay.mail.errors import StorageFailed

_DEADLINE_S = 10


async def test_a_round_that_fails_does_not_end_the_rounds() -> None:
    failures: list[Exception] = [StorageFailed("the disk is gone"), RuntimeError("a fault of ours")]
    done = asyncio.Event()

    async def once() -> float | None:
        if failures:
            raise failures.pop()
        done.set()
        return None

    rounds = Rounds("notices", longest_s=0.001)
    task = asyncio.create_task(rounds.run(once))
    try:
        async with asyncio.timeout(_DEADLINE_S):
            await done.wait()
    finally:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not failures


async def test_a_poke_ends_the_wait_and_one_that_comes_during_a_round_is_not_lost() -> None:
    rounds = Rounds("notices", longest_s=3600)
    begun: asyncio.Queue[int] = asyncio.Queue()
    count = 0

    async def once() -> float | None:
        nonlocal count
        count += 1
        if count == 1:
            rounds.poke()  # while it works
        begun.put_nowait(count)
        return 1800.0

    task = asyncio.create_task(rounds.run(once))
    try:
        async with asyncio.timeout(_DEADLINE_S):
            assert [await begun.get(), await begun.get()] == [1, 2]
            rounds.poke()
            assert await begun.get() == 3
    finally:
        task.cancel()


def test_what_is_due_next_is_told_in_seconds() -> None:
    assert seconds_until(None, 1_000) is None
    assert seconds_until(3_500, 1_000) == 2.5
    assert seconds_until(0, 1_000) == -1.0
