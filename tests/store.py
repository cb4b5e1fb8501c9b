"""A real queue over a real SQLite store in a temporary folder, for tests of any room above it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from relay.database.engine import Database, open_database
from relay.mail.content import Content
from relay.queue.ledger import DotLedger
from relay.queue.model import Arrival, AttemptRecord, Message
from relay.queue.room import Room
from relay.queue.spool import FileSpool
from relay.queue.store import Queue

MEMORY = 1 << 20
TAKEN = AttemptRecord("accepted", "done", 250, "2.0.0", "ok", "", 3)


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
async def open_store(folder: Path, *, memory_bytes: int = MEMORY, clean_end: bool = True) -> AsyncIterator[Store]:
    """Open (again) the store in `folder`; `clean_end` False leaves it as a crash would."""
    async with open_database(lay_store(folder) / "relay.db") as database:
        ledger = DotLedger(folder / "dots")
        queue = Queue(
            database,
            spool=FileSpool(folder / "spool", inline_bytes=65536),
            room=Room(folder, floor_bytes=0, max_message_bytes=1 << 20),
            ledger=ledger,
            memory_bytes=memory_bytes,
        )
        in_doubt = await queue.open()
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
