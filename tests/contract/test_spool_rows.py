"""Large contents as rows: a sweep beside whoever accepts, and a server that does not answer while one comes in."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete

from relay.database.schema import nodes
from relay.mail.content import Content
from relay.mail.errors import StorageFailed
from relay.queue.operations import Accept
from relay.queue.postgresql import plan
from relay.queue.spool_rows import CHUNK, RowSpool, rows_of
from tests.lengths import LONG
from tests.postgresql import another_server, server
from tests.store import POSTGRESQL, Store, name_store, open_store, spooled, use_engine

LIMIT_S = 10
BODY = b"x" * (CHUNK + 5)


@pytest.fixture(autouse=True)
def _postgresql() -> Iterator[None]:
    server()
    before = use_engine(POSTGRESQL)
    yield
    use_engine(before)


async def received(store: Store) -> Content:
    draft = store.queue.draft()
    draft.add(BODY)
    await draft.drain()
    return await draft.finish()


async def test_a_sweep_that_takes_a_living_node_for_dead_takes_nothing_of_what_it_accepts(tmp_path: Path) -> None:
    """It was buried, or could not renew in time, and another node starts."""
    async with open_store(tmp_path) as store:
        content = await received(store)
        await store.database.write(lambda c: c.execute(delete(nodes)))
        row = (70, 1, "app@example.com", "", "c", content.size, 0, 0, content.spool, None, None, 5)
        accept = Accept(row, None, ("ann@example.org",), None)
        stored, go_on = threading.Event(), threading.Event()

        def hold_back_the_commit(connection: Connection) -> None:
            for statement, values in plan(accept.rows()):
                connection.connection.cursor().execute(statement, values)
            stored.set()
            assert go_on.wait(LIMIT_S)

        accepting = asyncio.create_task(store.database.write(hold_back_the_commit))
        assert await asyncio.to_thread(stored.wait, LIMIT_S)
        another = RowSpool(rows_of(store.database), inline_bytes=0)
        with pytest.raises(StorageFailed):  # it does not wait for long: whoever accepts would have to wait for it
            await asyncio.to_thread(another.sweep, set())
        go_on.set()
        await accepting
        assert content.spool is not None
        assert store.queue.read_spooled(content.spool, 0, content.size) == BODY
        assert await asyncio.to_thread(another.sweep, set()) == 0
        orphan = await received(store)
        assert await spooled(store) == 2
        assert await asyncio.to_thread(another.sweep, set()) == 2, "its two rows"
        with pytest.raises(StorageFailed):
            await store.database.submit(Accept((71, *row[1:8], orphan.spool, *row[9:]), None, ("b@example.org",), None))


@pytest.mark.skipif(not LONG, reason="TESTS_LONG is not set: nine seconds of waiting")
async def test_while_the_server_hangs_nobody_waits_for_it_longer_than_ten_seconds(tmp_path: Path) -> None:
    with another_server() as other:
        name_store(tmp_path, other.fresh())
        async with open_store(tmp_path, clean_end=False) as store:
            kept = await asyncio.gather(*(received(store) for _ in range(4)))
            assert all(content.spool for content in kept)
            every = [int(str(row[0])) for row in other.execute("SELECT pid FROM pg_stat_activity WHERE datname <> ''")]
            stopped = [other.pid, *(pid for pid in every if pid != os.getpid())]
            for pid in stopped:
                _signal(pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                found = await asyncio.gather(*(received(store) for _ in range(40)), return_exceptions=True)
                assert {type(each) for each in found} == {StorageFailed}
                assert time.monotonic() - began < 10
            finally:
                for pid in reversed(stopped):
                    _signal(pid, signal.SIGCONT)
            async with asyncio.timeout(20):
                while True:
                    try:
                        assert (await received(store)).spool
                    except StorageFailed:
                        await asyncio.sleep(0.1)
                    else:
                        break


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # the connection that asked who is there
