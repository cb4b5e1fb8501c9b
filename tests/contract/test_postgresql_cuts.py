"""PostgreSQL goes away, in every way: what was confirmed is there, what was refused is not, and work goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, text

from relay.config.database import DatabaseSettings
from relay.database.engine import StoreLocked
from relay.database.engine import open_store as open_any
from relay.database.postgresql import store as store_module
from relay.database.postgresql.connecting import ServerUnfit
from relay.database.schema import chunks, messages
from relay.mail.errors import CommitUnknown, StorageFailed
from relay.queue.model import Settlement, State
from relay.queue.spool_rows import CHUNK
from tests.peers.tcp_proxy import TcpProxy
from tests.postgresql import another_server, server
from tests.store import POSTGRESQL, TAKEN, Store, arrival, name_store, open_store, spooled, use_engine


@pytest.fixture(autouse=True)
def _postgresql() -> AsyncIterator[None]:
    server()
    before = use_engine(POSTGRESQL)
    yield
    use_engine(before)


@asynccontextmanager
async def behind_proxy(folder: Path) -> AsyncIterator[tuple[Store, TcpProxy]]:
    """A store whose every connection goes through a proxy."""
    url = server().fresh()
    async with TcpProxy("127.0.0.1", server().port) as proxy:
        name_store(folder, url.replace(f":{server().port}/", f":{proxy.port}/"))
        async with open_store(folder, clean_end=False) as store:
            yield store, proxy


async def ids(store: Store) -> set[int]:
    return await store.database.read(lambda c: set(c.scalars(select(messages.c.id))))


async def available(store: Store) -> None:
    """Wait until something can be stored again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await store.database.write(lambda connection: None)
            except StorageFailed:
                await asyncio.sleep(0.05)
            else:
                return


async def test_a_commit_whose_reply_is_lost_is_found_and_confirmed(tmp_path: Path) -> None:
    async with behind_proxy(tmp_path) as (store, proxy):
        await store.queue.accept(arrival())
        proxy.cut_after(b"COMMIT")
        first, second = await asyncio.gather(store.queue.accept(arrival()), store.queue.accept(arrival()))
        assert proxy.cut.is_set()
        assert {first, second} < await ids(store)
        assert len(store.fresh) == 3
        proxy.cut_after(b"COMMIT")
        assert await store.database.write(lambda c: c.scalar(select(func.count()).select_from(messages))) == 3
        assert proxy.cut.is_set()


async def test_a_commit_that_never_came_is_refused_and_nothing_is_there(tmp_path: Path) -> None:
    async with behind_proxy(tmp_path) as (store, proxy):
        kept = await store.queue.accept(arrival())
        proxy.cut_before(b"COMMIT")
        with pytest.raises(StorageFailed) as refused:
            await store.queue.accept(arrival())
        assert not isinstance(refused.value, CommitUnknown)
        assert proxy.cut.is_set()
        again = await store.queue.accept(arrival())
        assert await ids(store) == {kept, again}


async def test_what_cannot_be_settled_is_refused_and_found_later_in_nobodys_hand(tmp_path: Path) -> None:
    async with behind_proxy(tmp_path) as (store, proxy):
        [message] = [await store.queue.accept(arrival()), store.fresh.pop()][1:]
        proxy.cut_after(b"COMMIT")
        proxy.refusing = True
        settled = store.queue.settle(message, [Settlement(message.deliveries[0], State.RELAYED, 0, TAKEN)])
        began = time.monotonic()
        with pytest.raises(CommitUnknown):
            await store.queue.accept(arrival())
        assert time.monotonic() - began < 10
        assert not store.database.available
        assert "refused" in store.database.trouble or "closed" in store.database.trouble
        assert not store.queue.leased(), "no final dot goes out now"
        assert not settled.done(), "nobody waits for it but us, so it waits until it is known"
        proxy.refusing = False
        await available(store)
        async with asyncio.timeout(5):
            await settled
        assert await store.queue.renew()
        claimed, _ = await store.queue.claim_due(1, limit=10)
        assert len(claimed) == 1, "it was committed, so it is owed"


async def test_a_restart_of_the_server_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with another_server() as other:
        name_store(tmp_path, other.fresh())
        async with open_store(tmp_path, clean_end=False) as store:
            confirmed: set[int] = set()
            doubtful = 0
            ending = asyncio.Event()

            async def client() -> None:
                nonlocal doubtful
                while not ending.is_set():
                    try:
                        confirmed.add(await store.queue.accept(arrival()))
                    except CommitUnknown:
                        doubtful += 1
                    except StorageFailed:
                        await asyncio.sleep(0.02)

            clients = [asyncio.create_task(client()) for _ in range(8)]
            for mode in ("fast", "immediate"):
                before = len(confirmed)
                async with asyncio.timeout(20):
                    while len(confirmed) < before + 20:
                        await asyncio.sleep(0.01)
                await asyncio.to_thread(other.stop, mode)
                await asyncio.to_thread(other.start)
            before = len(confirmed)
            async with asyncio.timeout(20):
                while len(confirmed) < before + 20:
                    await asyncio.sleep(0.01)
            ending.set()
            await asyncio.gather(*clients)
            there = await ids(store)
            assert confirmed <= there
            assert len(there - confirmed) <= doubtful


async def test_a_server_that_hangs_ends_no_wait_too_late(tmp_path: Path) -> None:
    with another_server() as other:
        name_store(tmp_path, other.fresh())
        async with open_store(tmp_path, clean_end=False) as store:
            await store.queue.accept(arrival())
            [pid] = [
                row[0]
                for row in other.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'relay writer'")
            ]
            os.kill(int(str(pid)), signal.SIGSTOP)
            try:
                began = time.monotonic()
                with pytest.raises(StorageFailed):
                    await store.queue.accept(arrival())
                assert time.monotonic() - began < 13
            finally:
                os.kill(int(str(pid)), signal.SIGCONT)
            await available(store)
            await store.queue.accept(arrival())


async def test_a_kept_connection_that_hangs_is_replaced_in_time(tmp_path: Path) -> None:
    with another_server() as other:
        name_store(tmp_path, other.fresh())
        async with open_store(tmp_path, clean_end=False) as store:
            await ids(store)
            kept = [
                int(str(row[0]))
                for row in other.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'relay reader'")
            ]
            assert kept
            for pid in kept:
                os.kill(pid, signal.SIGSTOP)
            try:
                async with asyncio.timeout(13):
                    assert await ids(store) == set()
            finally:
                for pid in kept:
                    os.kill(pid, signal.SIGCONT)


async def test_a_look_at_the_clock_of_a_server_that_hangs_keeps_no_other_wait_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_CLOCK_S", 0.05)
    with another_server() as other:
        name_store(tmp_path, other.fresh())
        async with open_store(tmp_path, clean_end=False) as store:
            await store.queue.accept(arrival())
            every = [
                int(str(row[0]))
                for row in other.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name IN ('relay writer', 'relay reader')"
                )
            ]
            assert len(every) >= 2
            for pid in every:
                os.kill(pid, signal.SIGSTOP)
            try:
                async with asyncio.timeout(13):
                    with pytest.raises(StorageFailed):
                        await store.queue.accept(arrival())
            finally:
                for pid in every:
                    os.kill(pid, signal.SIGCONT)
            await available(store)


async def test_a_large_message_of_which_a_crash_took_a_part_is_not_confirmed(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        draft = store.queue.draft()
        body = b"x" * (CHUNK * 2 + 5)
        draft.add(body)
        await draft.drain()
        await store.database.write(lambda c: c.execute(delete(chunks).where(chunks.c.number == 0)))
        content = await draft.finish()
        small = arrival()
        torn = replace(small, content=content)
        refused, kept = await asyncio.gather(
            store.queue.accept(torn), store.queue.accept(small), return_exceptions=True
        )
        assert isinstance(refused, StorageFailed)
        assert await ids(store) == {kept}
        assert await spooled(store) == 0, "what is left of it is gone"
        whole = store.queue.draft()
        whole.add(body)
        assert await store.queue.accept(replace(small, content=await whole.finish()))
        assert store.database.available


async def test_no_node_beside_a_store_that_moves_and_a_server_that_would_lose_mail_is_refused(tmp_path: Path) -> None:
    url = server().fresh()
    settings = DatabaseSettings(url=url)
    async with open_any(settings, tmp_path / "a") as node:
        with pytest.raises(StoreLocked):
            async with open_any(settings, tmp_path / "a"):
                pass
        async with open_any(settings, tmp_path / "b"):
            with pytest.raises(StoreLocked):
                await node.keep_out()
        await node.keep_out()
        with pytest.raises(StoreLocked):
            async with open_any(settings, tmp_path / "b"):
                pass
        async with open_any(settings, tmp_path / "a", alone=False) as visiting:
            assert await visiting.write(lambda c: c.scalar(text("SELECT 1"))) == 1
    latin = f"latin_{os.getpid()}"
    server().execute(f"CREATE DATABASE {latin} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(ServerUnfit, match="LATIN1"):
        async with open_any(DatabaseSettings(url=server().url(latin)), tmp_path / "c", alone=False):
            pass
