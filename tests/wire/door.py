"""A listener on a free port over a real store, and a client that says exactly what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Any

from sqlalchemy import Connection

from relay.accounts import store as accounts
from relay.accounts.directory import Directory
from relay.config.settings import ListenerSettings, UpstreamDefaults
from relay.listener.server import Listener
from relay.mail.content import unstuff
from relay.queue.model import Message
from relay.queue.store import Queue
from tests.store import Store, open_store

DEADLINE_S = 10.0
HOST = "relay.example"


class Talker:
    """A client over a plain socket: sends octets as given, reads replies line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def reply(self) -> str:
        """One whole reply, its lines joined by "\\n"; "" at the end of the connection."""
        lines = []
        async with asyncio.timeout(DEADLINE_S):
            while line := await self.reader.readline():
                assert line.endswith(b"\r\n"), line
                lines.append(line.decode().rstrip("\r\n"))
                if line[3:4] == b" ":
                    break
        return "\n".join(lines)

    async def say(self, *octets: bytes) -> str:
        """Send, each part in a segment of its own, and read one reply."""
        await self.send(*octets)
        return await self.reply()

    async def send(self, *octets: bytes) -> None:
        for part in octets:
            self.writer.write(part)
            await self.writer.drain()
            if len(octets) > 1:
                await asyncio.sleep(0)

    async def begin(self, sender: str = "app@example.com", recipient: str = "ann@example.org") -> None:
        """Up to the 354."""
        assert (await self.say(b"MAIL FROM:<%b>\r\n" % sender.encode())).startswith("250 2.1.0")
        assert (await self.say(b"RCPT TO:<%b>\r\n" % recipient.encode())).startswith("250 2.1.5")
        assert (await self.say(b"DATA\r\n")).startswith("354")

    async def rest(self) -> bytes:
        """All that still comes, up to the end of the connection."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


@dataclass
class OpenDoor:
    listener: Listener
    store: Store
    directory: Directory
    account_id: int

    @property
    def messages(self) -> list[Message]:
        """What was accepted, in order."""
        return self.store.fresh

    async def connect(self) -> Talker:
        """A connection of which nothing was read yet."""
        return Talker(*await asyncio.open_connection("127.0.0.1", self.listener.port))

    async def client(self) -> Talker:
        """Greeted, and EHLO said."""
        talker = await self.connect()
        assert (await talker.reply()).startswith("220 ")
        assert (await talker.say(b"EHLO app.example\r\n")).startswith("250")
        return talker

    def content(self, number: int = -1) -> bytes:
        """What the author of an accepted message sent, behind our trace field."""
        stored = self.messages[number].content
        wire = stored.inline if stored.inline is not None else self.store.queue.source(stored).read_bytes()
        trace, _, rest = wire.partition(b" +0000\r\n")
        assert trace.startswith(b"Received: from ")
        return unstuff(rest)

    async def is_served(self) -> None:
        """A well-behaved client gets its mail accepted."""
        talker = await self.client()
        await talker.begin()
        assert (await talker.say(b"Subject: good\r\n\r\nbody\r\n.\r\n")).startswith("250 2.0.0 Ok: queued as ")
        assert (await talker.say(b"QUIT\r\n")).startswith("221 2.0.0")
        assert await talker.rest() == b""
        talker.close()


@asynccontextmanager
async def open_door(
    folder: Path,
    *,
    tls_context: SSLContext | None = None,
    tls_contexts: Callable[[], SSLContext] | None = None,
    queue_type: type[Queue] | None = None,
    **settings: Any,
) -> AsyncIterator[OpenDoor]:
    """Settings as in ListenerSettings; the senders app@example.com and two@example.com are known."""
    async with open_store(folder, memory_bytes=1 << 30) as store:
        directory, account_id = await _register(store, "app@example.com", "two@example.com")
        if queue_type is not None:
            store.queue.__class__ = queue_type
        listener = Listener(
            ListenerSettings.model_construct(**{**ListenerSettings().model_dump(), "port": 0, **settings}),
            directory,
            store.queue,
            instance_id="i-1",
            hostname=HOST,
            tls=tls_contexts if tls_context is None else lambda: tls_context,
        )
        await listener.start()
        try:
            yield OpenDoor(listener, store, directory, account_id)
        finally:
            listener.stop_accepting()
            await listener.drain(5.0)


async def _register(store: Store, *senders: str) -> tuple[Directory, int]:
    def write(connection: Connection) -> int:
        account_id = accounts.add_account(connection, "app@example.com", now_ms=1)
        for sender in senders:
            accounts.add_sender(connection, sender, account_id, now_ms=1)
        return account_id

    account_id = await store.database.write(write)
    return await Directory.open(store.database, UpstreamDefaults()), account_id
