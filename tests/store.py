"""A real queue over a real store in a temporary folder, for tests of any room above it.

The store is SQLite's unless the fixture `engine` (tests/contract), or RELAY_TEST_DATABASE=postgresql for a whole run,
says PostgreSQL.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, func, select, text

from relay.config.database import DatabaseSettings
from relay.database.engine import Database, open_database
from relay.database.engine import open_store as open_any
from relay.database.schema import chunks
from relay.mail.content import Content
from relay.queue.ledger import DotLedger
from relay.queue.model import Arrival, AttemptRecord, Message
from relay.queue.room import Room
from relay.queue.spool import open_spool
from relay.queue.store import Queue

MEMORY = 1 << 20
TAKEN = AttemptRecord("accepted", "done", 250, "2.0.0", "ok", "", 3)


POSTGRESQL = "postgresql"
_engine = [os.environ.get("RELAY_TEST_DATABASE", "sqlite")]
_urls: dict[Path, str] = {}  # of the databases that folders stand for


def use_engine(name: str) -> str:
    """The engine of stores from now on: sqlite or postgresql. The one of before."""
    before, _engine[0] = _engine[0], name
    return before


def on_postgresql() -> bool:
    """Is that the engine right now?"""
    return _engine[0] == POSTGRESQL


def name_store(folder: Path, url: str) -> None:
    """The database that a folder stands for from now on."""
    _urls[folder] = url


def settings_of(folder: Path) -> DatabaseSettings:
    """Where the store of a folder is; made, empty, when it is not there."""
    if not on_postgresql():
        return DatabaseSettings(url=f"sqlite:///{lay_store(folder) / 'relay.db'}")
    from tests.postgresql import server

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder not in _urls:
        _urls[folder] = server().fresh()
    return DatabaseSettings(url=_urls[folder])


@dataclass
class Store:
    """An open queue and what it told on opening. `fresh` collects the messages that were handed over in memory."""

    database: Database
    queue: Queue
    in_doubt: list[int]
    fresh: list[Message]
    backlog: list[int]


@cache
def _empty_store() -> bytes:
    """An empty store at this program's schema, as the migrations make it: one run of them serves many tests."""

    async def make(path: Path) -> bytes:
        async with open_database(path):
            pass
        return path.read_bytes()  # its write-ahead log went into it on closing

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(make(Path(folder) / "relay.db"))).result()


def lay_store(folder: Path) -> Path:
    """Put an empty store into the data folder, which is made when it is not there; the folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "relay.db"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_bytes(_empty_store())
    return folder


@asynccontextmanager
async def open_store(
    folder: Path, *, memory_bytes: int = MEMORY, clean_end: bool = True, whole_start: bool = True
) -> AsyncIterator[Store]:
    """Open (again) the store in `folder`; `clean_end` False leaves it as a crash would.

    `whole_start` False: only what comes before the front doors open.
    """
    async with open_any(settings_of(folder), folder) as database:
        ledger = DotLedger(folder / "dots")
        queue = Queue(
            database,
            spool=open_spool(database, inline_bytes=65536),
            room=Room(folder, floor_bytes=0, max_message_bytes=1 << 20),
            ledger=ledger,
            memory_bytes=memory_bytes,
            clock=database.now_ms,
        )
        in_doubt = await queue.open()
        if whole_start:
            in_doubt += await queue.take_over()
            await queue.sweep()
        store = Store(database, queue, in_doubt, [], [])
        queue.willing = lambda account_id: True
        queue.on_fresh = store.fresh.append
        queue.on_backlog = store.backlog.append
        yield store
        if clean_end:
            await queue.close()
        else:
            ledger.close()


def arrival(
    *recipients: str, body: bytes = b"Subject: x\r\n\r\nhello\r\n", account: int = 1, sender: str = "app@example.com"
) -> Arrival:
    """A small message to `recipients` (one if none is named)."""
    content = Content(len(body), inline=body)
    names = recipients or ("ann@example.org",)
    return Arrival(sender, names, content, account, "<1@example.com>", "127.0.0.1", False, False)


async def spooled(store: Store) -> int:
    """How many large contents there are in the spool, whole or not."""
    if store.database.shared:
        await store.database.write(lambda connection: None)  # what was given up before is gone then
        return await store.database.read(lambda c: c.scalar(select(func.count(chunks.c.spool.distinct()))) or 0)
    return len(list((store.database.folder / "spool").iterdir()))


async def fill_up(store: Store, full: bool, *, table: str = "messages") -> None:
    """Let no message find room in the store any more, or again. `table`: that has no room, in PostgreSQL."""

    def change(connection: Connection) -> None:
        if not store.database.shared:
            pages = connection.scalar(text("PRAGMA page_count")) if full else 1_000_000
            connection.execute(text(f"PRAGMA max_page_count = {pages}"))
            return
        connection.execute(text(f"DROP TRIGGER IF EXISTS full_disk ON {table}"))
        if full:  # as the server says it, postgresql.org/docs/current/errcodes-appendix.html
            connection.execute(
                text(
                    "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                    "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; "
                    "END $$"
                )
            )
            connection.execute(text(f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} EXECUTE FUNCTION full_disk()"))

    await store.database.write(change)
