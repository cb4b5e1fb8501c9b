"""The one thread that writes: everything that waits goes into one transaction, committed and synced once."""

from __future__ import annotations

import asyncio
import collections
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from relay.mail.errors import StorageFailed, StorageFull

T = TypeVar("T")

_MAX_BATCH = 1024  # operations; bounds how long the first caller of a batch waits for the last
_PATIENCE_S = 0.005  # how long an operation that can wait does, when nothing else makes a batch


class Operation(Generic[T]):
    """One unit of a group commit. Subclasses say how many of them run together.

    Operations of one batch may run in any order with respect to each other: who needs an order awaits the
    first before submitting the second.
    """

    __slots__ = ()
    prepared: ClassVar[bool] = False  # runs `Prepared` statements only: the transaction needs no part of Core

    @classmethod
    def apply_all(cls, connection: Connection, operations: Sequence[Any]) -> list[Any]:
        """Run `operations` inside the current transaction; one result each, in their order.

        Raising undoes all of them; they are then run again one at a time, so that one at fault fails alone.
        """
        raise NotImplementedError


class Call(Operation[T]):
    """Any function over the write connection, for what is not on the hot path."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Connection], T]) -> None:
        self.function = function

    @classmethod
    def apply_all(cls, connection: Connection, operations: Sequence[Call[T]]) -> list[T | Failure]:
        """Each in a savepoint of its own."""
        return [_in_savepoint(connection, operation.function) for operation in operations]


class Failure:
    """The result of an operation that failed alone."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def _in_savepoint(connection: Connection, function: Callable[[Connection], T]) -> T | Failure:
    savepoint = connection.begin_nested()
    try:
        result = function(connection)
    except Exception as error:
        if _damaged(error):  # the transaction itself is gone: the batch answers for it
            raise
        savepoint.rollback()
        return Failure(error)
    savepoint.commit()
    return result


def _sqlite_code(error: BaseException) -> int:
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", None)
    return (code & 0xFF) if isinstance(code, int) else 0


_FULL = sqlite3.SQLITE_FULL
_LOST = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_NOMEM}


def _damaged(error: BaseException) -> bool:
    """SQLite rolls the whole transaction back on these (sqlite.org/lang_transaction.html, 3)."""
    code = _sqlite_code(error)
    return code == _FULL or code in _LOST or code in _REFUSED


_NOTHING: Any = object()  # wakes the thread for what waits patiently


class Writer:
    """Hand it operations from the event loop; each future completes when its operation is durable, or failed.

    After an I/O error of the store `on_lost` is called once, from the loop, and every further operation
    fails with StorageFailed: a failed fsync is never retried, because the kernel may have dropped the
    pages it could not write (the "fsyncgate" of 2018).  The process has to end and recover.
    """

    def __init__(self, engine: Engine, *, on_lost: Callable[[BaseException], None]) -> None:
        self._engine = engine
        self._on_lost = on_lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: queue.SimpleQueue[tuple[Operation[Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._patient: collections.deque[tuple[Operation[Any], asyncio.Future[Any]]] = collections.deque()
        self._nudge: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
        self._lost: BaseException | None = None
        self._closing = False
        self.batches = 0
        self.operations = 0

    def start(self) -> None:
        """Start the thread; futures complete on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Commit what waits, end the thread."""
        if self._closing or not self._thread.is_alive():
            return
        self._closing = True
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue `operation`; it will run and commit even when nobody awaits the future any more."""
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        if self._lost is not None or self._closing:
            future.set_exception(StorageFailed("the store is closed"))
        else:
            self._waiting.put((operation, future))
        return future

    def submit_patiently(self, operation: Operation[T]) -> asyncio.Future[T]:
        """As `submit`, but the operation goes along with the next batch, or alone after some milliseconds."""
        assert self._loop is not None
        if self._lost is not None or self._closing:
            return self.submit(operation)
        future: asyncio.Future[T] = self._loop.create_future()
        self._patient.append((operation, future))
        if self._nudge is None:
            self._nudge = self._loop.call_later(_PATIENCE_S, self._patience_ends)
        return future

    def _patience_ends(self) -> None:
        self._nudge = None
        if self._patient and not self._closing:
            self._waiting.put(_NOTHING)

    def _run(self) -> None:
        assert self._loop is not None
        connection = self._engine.connect()
        try:
            last = False
            while not last:
                item = self._waiting.get()
                batch: list[tuple[Operation[Any], asyncio.Future[Any]]] = []
                while True:
                    if item is None:
                        last = True
                        break
                    if item is not _NOTHING:
                        batch.append(item)
                    if len(batch) >= _MAX_BATCH:
                        break
                    try:
                        item = self._waiting.get_nowait()
                    except queue.Empty:
                        break
                while self._patient:
                    batch.append(self._patient.popleft())
                if batch:
                    results = self._commit(connection, [operation for operation, _ in batch])
                    try:
                        self._loop.call_soon_threadsafe(self._wake, batch, results)
                    except RuntimeError:  # the loop is closed: nobody waits any more
                        return
        finally:
            connection.close()

    def _wake(self, batch: list[tuple[Operation[Any], asyncio.Future[Any]]], results: list[Any]) -> None:
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if isinstance(result, Failure):
                future.set_exception(result.error)
            else:
                future.set_result(result)

    def _commit(self, connection: Connection, operations: list[Operation[Any]]) -> list[Any]:
        """Run and commit a batch; a result or a Failure for each operation."""
        if self._lost is not None:
            return [Failure(StorageFailed(str(self._lost))) for _ in operations]
        self.batches += 1
        self.operations += len(operations)
        try:
            return self._transaction(connection, operations)
        except Exception as error:
            if _damaged(error):
                return self._damage(error, operations)
        try:  # somebody's operation is at fault: each alone, so that only that one fails
            return self._transaction(connection, operations, alone=True)
        except Exception as error:
            return self._damage(error, operations)

    def _transaction(
        self, connection: Connection, operations: list[Operation[Any]], *, alone: bool = False
    ) -> list[Any]:
        if alone:
            with connection.begin():
                return [
                    _in_savepoint(connection, lambda c, o=operation: type(o).apply_all(c, [o])[0])  # type: ignore[misc]
                    for operation in operations
                ]
        kinds: dict[type[Operation[Any]], list[int]] = {}
        for place, operation in enumerate(operations):
            kinds.setdefault(type(operation), []).append(place)
        results: list[Any] = [None] * len(operations)
        with self._prepared(connection) if all(kind.prepared for kind in kinds) else connection.begin():
            for kind, places in kinds.items():
                of_kind = kind.apply_all(connection, [operations[place] for place in places])
                for place, result in zip(places, of_kind, strict=True):
                    results[place] = result
        return results

    @contextmanager
    def _prepared(self, connection: Connection) -> Iterator[None]:
        """A transaction around prepared statements alone: no more than the driver's own BEGIN and COMMIT."""
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN IMMEDIATE")
        try:
            yield
            driver.execute("COMMIT")
        except BaseException:
            if driver.in_transaction:  # after some errors SQLite has rolled back already
                driver.execute("ROLLBACK")
            raise

    def _damage(self, error: Exception, operations: list[Operation[Any]]) -> list[Any]:
        """The batch as a whole failed: tell what that means for each operation in it."""
        code = _sqlite_code(error)
        if code == _FULL:
            return [Failure(StorageFull("no room on the device of the store")) for _ in operations]
        if code in _REFUSED:
            return [Failure(StorageFailed(str(error))) for _ in operations]
        self._lost = error
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._on_lost, error)
        return [Failure(StorageFailed(str(error))) for _ in operations]
