"""A copy of the store while it is written: one instant, with the files that it needs and the dots that were out."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Connection

from relay.database.snapshot import copy_store
from relay.mail.errors import StorageFailed
from relay.queue.model import Settlement, State
from tests.store import TAKEN, Store, arrival, open_store

BODY = b"Subject: x\r\n\r\n" + b"0123456789abcdef" * 3000 + b"\r\n"


async def _large(store: Store) -> str:
    draft = store.queue.draft()
    draft.add(b"x" * 100_000 + b"\r\n")
    content = await draft.finish()
    given = arrival("large@x.org")
    await store.queue.accept(type(given)("s@x.org", ("large@x.org",), content, 1, "", "c", False, False))
    assert content.spool is not None
    return content.spool


def _ids(path: Path) -> set[int]:
    with sqlite3.connect(path) as copy:
        return {row[0] for row in copy.execute("SELECT id FROM messages")}


async def test_what_is_committed_between_two_steps_is_in_the_copy(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        for _ in range(80):  # some mebibytes: several steps
            await store.queue.accept(arrival("a@x.org", body=BODY))
        loop, late = asyncio.get_running_loop(), []
        steps = 0

        def copy(connection: Connection, go_on: object) -> None:
            def between() -> None:
                nonlocal steps
                steps += 1
                if steps == 1:  # from the loop, as always, and waited for: it is committed in this very call
                    arriving = asyncio.run_coroutine_threadsafe(store.queue.accept(arrival("late@x.org")), loop)
                    while not arriving.done():
                        go_on()  # type: ignore[operator]
                    late.append(arriving.result())

            copy_store(connection, tmp_path / "copy", between)

        await store.database.write_long(copy)
        after = await store.queue.accept(arrival("after@x.org"))
        assert steps > 1
        assert late[0] in _ids(tmp_path / "copy")
        assert after not in _ids(tmp_path / "copy")


async def test_a_snapshot_keeps_the_files_that_go_afterwards(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        kept, settled = await _large(store), await _large(store)
        await store.queue.settle(store.fresh[1], [Settlement(store.fresh[1].deliveries[0], State.RELAYED, 0, TAKEN)])
        store.queue.dot(store.fresh[0].id)
        (tmp_path / "stage").mkdir()
        snapshot = await store.queue.snapshot(tmp_path / "stage")
        assert snapshot.in_dot == {store.fresh[0].id}
        assert (snapshot.files, snapshot.missing) == ({kept}, set())
        await store.queue.settle(store.fresh[0], [Settlement(store.fresh[0].deliveries[0], State.RELAYED, 0, TAKEN)])
        await store.queue.drop_content(store.fresh[0])
        assert not (tmp_path / "spool" / kept).exists()
        assert [path.name for path in (tmp_path / "stage" / "spool").iterdir()] == [kept]
        assert settled != kept


async def test_a_file_that_is_gone_is_named_and_the_rest_is_copied(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        gone, kept = await _large(store), await _large(store)
        (tmp_path / "spool" / gone).unlink()
        (tmp_path / "stage").mkdir()
        snapshot = await store.queue.snapshot(tmp_path / "stage")
        assert (snapshot.missing, snapshot.files) == ({gone}, {kept})


async def test_a_long_operation_that_fails_harms_no_other(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:

        def fail(connection: Connection, go_on: object) -> None:
            connection.exec_driver_sql("INSERT INTO nodes (started_at, lease_until) VALUES (1, 1)")
            raise StorageFailed("on purpose")

        with pytest.raises(StorageFailed, match="on purpose"):
            await store.database.write_long(fail)
        assert await store.queue.accept(arrival("a@x.org"))
        assert await store.database.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM nodes").scalar()) == 1


async def test_a_copy_ends_when_the_store_is_closed(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait(_: Connection, go_on: object) -> None:
            loop.call_soon_threadsafe(started.set)
            while True:
                go_on()  # type: ignore[operator]

        waiting = asyncio.ensure_future(store.database.write_long(wait))
        await started.wait()
        await store.queue.accept(arrival("a@x.org"))  # still served
    with pytest.raises(StorageFailed):
        await waiting
