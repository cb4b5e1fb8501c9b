"""The statement of a group commit: a batch is stored whole, in any number of rows, and one at fault fails alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.database.statements import MOST_ROWS
from relay.queue.model import Settlement, State
from relay.queue.operations import Fenced
from tests.store import TAKEN, Store, arrival, open_store


async def counted(store: Store, table: str) -> int:
    return await store.database.read(lambda c: int(c.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()))


@pytest.mark.parametrize("messages", [1, 3, 4, 5, MOST_ROWS - 1, MOST_ROWS, MOST_ROWS + 1, 3 * MOST_ROWS + 2])
async def test_a_batch_of_any_size_is_stored_whole(tmp_path: Path, messages: int) -> None:
    async with open_store(tmp_path, memory_bytes=1 << 30) as store:
        ids = await asyncio.gather(*(store.queue.accept(arrival("a@x.org", "b@x.org")) for _ in range(messages)))
        assert len(set(ids)) == messages
        assert await counted(store, "messages") == await counted(store, "contents") == messages
        assert await counted(store, "deliveries") == 2 * messages


async def test_all_of_a_batch_is_settled_and_forgotten_at_once(tmp_path: Path) -> None:
    async with open_store(tmp_path, memory_bytes=1 << 30) as store:
        await asyncio.gather(*(store.queue.accept(arrival("a@x.org", "b@x.org")) for _ in range(50)))
        first = [
            store.queue.settle(message, [Settlement(message.deliveries[0], State.RELAYED, 0, TAKEN)])
            for message in store.fresh
        ]
        assert await asyncio.gather(*first) == [False] * 50
        assert await counted(store, "contents") == 50  # the other recipient is owed it still
        second = [
            store.queue.settle(message, [Settlement(message.deliveries[1], State.RELAYED, 0, TAKEN)])
            for message in store.fresh
        ]
        await asyncio.gather(*second)
        assert await counted(store, "contents") == 0
        assert await counted(store, "attempts") == 100


async def test_one_that_was_fenced_off_fails_alone(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await asyncio.gather(*(store.queue.accept(arrival("a@x.org")) for _ in range(3)))
        taken, other, third = store.fresh
        await store.queue.operator.hold([taken.id])
        taken.deliveries[0].token += 7  # claimed by somebody else since
        outcomes = await asyncio.gather(
            *(store.queue.settle(m, [Settlement(m.deliveries[0], State.RELAYED, 0, TAKEN)]) for m in (taken, other)),
            store.queue.accept(arrival("b@x.org")),
            store.database.write(lambda c: c.exec_driver_sql("SELECT 1").scalar_one()),
            store.queue.settle(third, [Settlement(third.deliveries[0], State.RELAYED, 0, TAKEN)]),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], Fenced)
        assert outcomes[1] is False
        assert isinstance(outcomes[2], int)
        assert outcomes[3] == 1
        assert outcomes[4] is False
        assert await counted(store, "attempts") == 2
        assert await counted(store, "messages") == 4
