"""Large contents as rows of the database itself, for a store that several machines share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from functools import partial

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, insert, or_, select, text

from relay.database.engine import Database
from relay.database.postgresql.store import PostgresDatabase
from relay.database.schema import chunks, messages, nodes
from relay.database.writer import Call
from relay.mail.content import Content
from relay.mail.errors import StorageFailed
from relay.queue.owed import unfinished
from relay.queue.spool import HIGH_WATER

SWEEP = 0x72656C617973  # "relays": the advisory lock of who sweeps; shared by all who make a large content theirs
CHUNK = HIGH_WATER  # octets of a row: what a connection holds in memory
_OLD_MS = 86_400_000  # no content takes longer to receive
_AT_ONCE = 100


def rows_of(database: Database) -> PostgresDatabase:
    """The same store, known to be in PostgreSQL."""
    assert isinstance(database, PostgresDatabase)
    return database


class RowSpool:
    """A spool of rows. They are durable with the row of their message: it is committed later, in the same log.

    A chunk without a message is swept once its node is gone, or after a day.
    """

    def __init__(self, database: PostgresDatabase, *, inline_bytes: int) -> None:
        self._database = database
        self.inline_bytes = inline_bytes
        self.node = 0  # who receives

    def open(self) -> None:
        """The migration made the table."""

    def draft(self) -> RowDraft:
        """A new content being received."""
        return RowDraft(self)

    def source(self, name: str) -> _RowContent:
        """See `Spool.source`."""
        return _RowContent(self, name)

    def read(self, name: str, at: int, length: int) -> bytes:
        """See `Spool.read`."""
        if length <= 0:
            return b""
        first, last = at // CHUNK, (at + length - 1) // CHUNK
        here = (chunks.c.spool == name, chunks.c.number >= first, chunks.c.number <= last)
        query = select(chunks.c.body).where(*here).order_by(chunks.c.number)
        rows = self._database.read_soon(lambda connection: connection.scalars(query).all())
        start = at - first * CHUNK
        found = b"".join(rows)[start : start + length]
        if len(rows) != last - first + 1 or len(found) != length:
            raise StorageFailed(f"{name} has less than {at + length} octets")
        return found

    def holds(self, name: str) -> bool:
        """See `Spool.holds`."""
        query = select(chunks.c.number).where(chunks.c.spool == name).limit(1)
        return self._database.read_soon(lambda connection: connection.scalar(query)) is not None

    def remove(self, names: Iterable[str]) -> None:
        """See `Spool.remove`."""
        every = list(names)
        for start in range(0, len(every), _AT_ONCE):
            self._database.write_blocking(partial(_remove, names=every[start : start + _AT_ONCE]))

    def sweep(self, known: set[str]) -> int:
        """See `Spool.sweep`. `known` is not asked: the database knows best."""
        now = self._database.now_ms()
        alive = exists(select(nodes.c.id).where(nodes.c.id == chunks.c.node, nodes.c.lease_until > now))
        named = exists(select(messages.c.id).where(messages.c.spool == chunks.c.spool, unfinished()))
        orphan = and_(~named, or_(~alive, chunks.c.at < now - _OLD_MS))
        names = self._database.read_blocking(lambda c: c.scalars(select(chunks.c.spool).where(orphan).distinct()).all())
        return sum(
            self._database.write_blocking(partial(_sweep, orphan=orphan, names=names[start : start + _AT_ONCE]))
            for start in range(0, len(names), _AT_ONCE)
        )

    def forget(self, name: str) -> None:
        """Remove a draft that was given up, by and by; what fails is swept later."""

        def removed(done: asyncio.Future[None]) -> None:
            if not done.cancelled():
                done.exception()

        removing: Call[None] = Call(lambda connection: _remove(connection, [name]))
        self._database.submit_patiently(removing).add_done_callback(removed)

    def store(self, name: str, first: int, bodies: list[bytes]) -> None:
        """Rows of a draft. Blocking."""
        now = self._database.now_ms()
        rows = [
            {"spool": name, "number": first + number, "node": self.node, "at": now, "body": body}
            for number, body in enumerate(bodies)
        ]
        self._database.write_blocking(lambda connection: connection.execute(insert(chunks), rows), soon=True)


class RowDraft:
    """A ContentDraft that becomes rows."""

    __slots__ = ("_chunks", "_held", "_name", "_rows", "_spool", "size")

    def __init__(self, spool: RowSpool) -> None:
        self._spool = spool
        self._chunks: list[bytes] = []
        self._held = 0
        self._rows = 0
        self._name: str | None = None
        self.size = 0

    def add(self, chunk: bytes) -> bool:
        """See `ContentDraft.add`."""
        self._chunks.append(chunk)
        self._held += len(chunk)
        self.size += len(chunk)
        return self._held >= CHUNK

    async def drain(self) -> None:
        """See `ContentDraft.drain`."""
        if self._held >= CHUNK:
            await asyncio.to_thread(self._store, False)

    async def finish(self) -> Content:
        """See `ContentDraft.finish`."""
        if self._name is None and self.size <= self._spool.inline_bytes:
            return Content(self.size, inline=b"".join(self._chunks))
        await asyncio.to_thread(self._store, True)
        name, self._name = self._name, None  # from here on it belongs to whoever accepts the content
        return Content(self.size, spool=name)

    def discard(self) -> None:
        """See `ContentDraft.discard`."""
        self._chunks.clear()
        if self._name is not None:
            self._spool.forget(self._name)
            self._name = None

    def _store(self, last: bool) -> None:
        held = b"".join(self._chunks)
        whole = len(held) if last else len(held) - len(held) % CHUNK
        self._chunks, self._held = [held[whole:]], len(held) - whole
        if self._name is None:
            self._name = secrets.token_hex(16)
        bodies = [held[at : at + CHUNK] for at in range(0, whole, CHUNK)]
        self._spool.store(self._name, self._rows, bodies)
        self._rows += len(bodies)


def _sweep(connection: Connection, orphan: ColumnElement[bool], names: Sequence[str]) -> int:
    """Its node may live, and be about to name what is thought to be an orphan: in turn with whoever accepts.

    Who accepts misses what is swept before; what is named before is seen here.
    """
    connection.execute(text("SET LOCAL lock_timeout = '1s'"))  # who accepts would have to wait behind us
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SWEEP})
    return connection.execute(delete(chunks).where(orphan, chunks.c.spool.in_(names))).rowcount


def _remove(connection: Connection, names: list[str]) -> None:
    connection.execute(delete(chunks).where(chunks.c.spool.in_(names)))


class _RowContent:
    """A content for whoever sends it (mail.content.Stored)."""

    def __init__(self, spool: RowSpool, name: str) -> None:
        self._spool, self._name = spool, name

    def read(self, at: int, length: int) -> bytes:
        """See `Stored.read`."""
        return self._spool.read(self._name, at, length)
