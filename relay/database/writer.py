"""The one thread that writes: everything that waits goes into one transaction, committed and synced once."""

from __future__ import annotations

import asyncio
import collections
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from relay.database.statements import Batch
from relay.mail.errors import StorageFailed, StorageFull

T = TypeVar("T")

_MAX_BATCH = 1024  # operations; bounds how long the first caller of a batch waits for the last
_PATIENCE_S = 0.005  # how long an operation that can wait does, when nothing else makes a batch
_MOST_TURNS = 12  # of the loop, each bringing more, that a batch is gathered for


class Operation(Generic[T]):
    """One unit of a group commit.

    Operations of one batch may run in any order with respect to each other: who needs an order awaits the
    first before submitting the second.
    """

    __slots__ = ()
    batch: ClassVar[Batch | None] = None  # of one kind in a program
    patient: ClassVar[bool] = False  # waits for as long as it takes to learn what became of its commit

    def rows(self) -> list[tuple[Any, ...]]:
        """What it stores, as rows of `batch`, when that is set."""
        raise NotImplementedError

    def result(self, connection: Connection) -> T:
        """Its result, behind the commit of its rows; or without `batch` all of its work."""
        raise NotImplementedError

    def failure(self, error: Exception) -> Exception:
        """What its caller gets for `error`, which storing its rows alone raised."""
        return error


class Call(Operation[T]):
    """Any function over the write connection, for what is not on the hot path."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Connection], T]) -> None:
        self.function = function

    def result(self, connection: Connection) -> T:
        """See `Operation.result`."""
        return self.function(connection)


class Failure:
    """The result of an operation that failed alone."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Long(Generic[T]):
    """A function that the writer runs beside its batches."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[Connection, Callable[[], None]], T]) -> None:
        self._function = function

    def run(self, connection: Connection, go_on: Callable[[], None]) -> T | Failure:
        """Its result, or the Failure that it ended in."""
        try:
            return self._function(connection, go_on)
        except Exception as error:
            if connection.in_transaction():
                connection.rollback()
            return Failure(error)


class Together(Operation[list[Any]]):
    """Operations that are rows of one batch, as one."""

    __slots__ = ("batch", "operations")

    def __init__(self, batch: Batch, operations: Sequence[Operation[Any]]) -> None:
        self.batch = batch  # type: ignore[misc]
        self.operations = operations

    def rows(self) -> list[tuple[Any, ...]]:
        return [row for operation in self.operations for row in operation.rows()]

    def result(self, connection: Connection) -> list[Any]:
        return [operation.result(connection) for operation in self.operations]


def _sqlite_code(error: BaseException) -> int:
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", None)
    return (code & 0xFF) if isinstance(code, int) else 0


_FULL = sqlite3.SQLITE_FULL
_LOST = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_NOMEM}


class Writer:
    """Hand it operations from the event loop; each future completes when its operation is durable, or failed.

    After an I/O error of the store `on_lost` is called once, from the loop, and every further operation
    fails with StorageFailed: a failed fsync is never retried, because the kernel may have dropped the
    pages it could not write (the "fsyncgate" of 2018).  The process has to end and recover.
    """

    def __init__(self, engine: Engine, *, on_lost: Callable[[BaseException], None]) -> None:
        self._engine = engine
        self._connection: Connection  # of the thread
        self._on_lost = on_lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: collections.deque[tuple[Operation[Any], asyncio.Future[Any]]] = collections.deque()
        self._long: collections.deque[tuple[_Long[Any], asyncio.Future[Any]]] = collections.deque()
        self._wakes: queue.SimpleQueue[bool] = queue.SimpleQueue()  # False: the last one
        self._waking = False
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
        self._wakes.put(False)
        await asyncio.to_thread(self._thread.join)

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue `operation`; it will run and commit even when nobody awaits the future any more.

        The thread is woken once a turn of the loop brings no more: every batch costs a sync and several changes of
        hands of the interpreter's lock, and a busy loop brings the next operation within some 50 us.
        """
        future = self._enqueue(operation)
        if not self._waking and not future.done():
            self._waking = True
            future.get_loop().call_soon(self._wake_thread, 0, _MOST_TURNS)
        return future

    def submit_patiently(self, operation: Operation[T]) -> asyncio.Future[T]:
        """As `submit`, but the operation goes along with the next batch, or alone after some milliseconds."""
        future = self._enqueue(operation)
        if self._nudge is None and not future.done():
            self._nudge = future.get_loop().call_later(_PATIENCE_S, self._patience_ends)
        return future

    def submit_long(self, function: Callable[[Connection, Callable[[], None]], T]) -> asyncio.Future[T]:
        """Have the thread run `function` over the write connection, between batches and in no transaction.

        For what takes long and must see every change: it calls its second argument now and then, which commits
        what waits, and raises StorageFailed when the store is lost or being closed.
        """
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        if self._lost is not None or self._closing:
            future.set_exception(StorageFailed("the store is closed"))
        else:
            self._long.append((_Long(function), future))
            self._wakes.put(True)
        return future

    def _enqueue(self, operation: Operation[T]) -> asyncio.Future[T]:
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        if self._lost is not None or self._closing:
            future.set_exception(StorageFailed("the store is closed"))
        else:
            self._pending.append((operation, future))
        return future

    def _wake_thread(self, seen: int, turns: int) -> None:
        waiting = len(self._pending)
        if waiting > seen and turns:
            assert self._loop is not None
            self._loop.call_soon(self._wake_thread, waiting, turns - 1)
            return
        self._waking = False
        if waiting:  # not: gone along with the batch before
            self._wakes.put(True)

    def _patience_ends(self) -> None:
        self._nudge = None
        if self._pending:
            self._wakes.put(True)

    def _run(self) -> None:
        assert self._loop is not None
        self._connection = self._engine.connect()
        try:
            last = False
            while not last:
                last = not self._wakes.get()
                self._commit_pending()
                while self._long:
                    long, future = self._long.popleft()
                    result = long.run(self._connection, self._go_on)
                    self._loop.call_soon_threadsafe(self._wake, [(long, future)], [result])
        except RuntimeError:  # the loop is closed: nobody waits any more
            if not self._loop.is_closed():
                raise
        finally:
            self._connection.close()

    def _commit_pending(self) -> None:
        assert self._loop is not None
        while batch := self._take():
            results = self._commit([operation for operation, _ in batch])
            self._loop.call_soon_threadsafe(self._wake, batch, results)

    def _go_on(self) -> None:
        """What a long operation calls between its steps."""
        self._commit_pending()
        if self._lost is not None or self._closing:
            raise StorageFailed("the store is closed")

    def _take(self) -> list[tuple[Operation[Any], asyncio.Future[Any]]]:
        pending = self._pending
        return [pending.popleft() for _ in range(min(len(pending), _MAX_BATCH))]

    def _wake(self, batch: Sequence[tuple[object, asyncio.Future[Any]]], results: list[Any]) -> None:
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if isinstance(result, Failure):
                future.set_exception(result.error)
            else:
                future.set_result(result)

    def _commit(self, operations: list[Operation[Any]]) -> list[Any]:
        """Run and commit a batch; a result or a Failure for each operation."""
        connection = self._connection
        if self._lost is not None:
            return [Failure(StorageFailed(str(self._lost))) for _ in operations]
        self.batches += 1
        self.operations += len(operations)
        try:
            batch = operations[0].batch
            if batch is not None and all(operation.batch is batch for operation in operations):
                together = Together(batch, operations)
                batch.commit(connection, together.rows())
                return together.result(connection)
        except Exception as error:
            if self._damaged(error):
                return self._damage(error, operations)
        try:
            with connection.begin():
                return self._in_savepoints(connection, operations)
        except Exception as error:
            return self._damage(error, operations)

    def _in_savepoint(self, connection: Connection, operation: Operation[T]) -> T | Failure:
        savepoint = connection.begin_nested()
        try:
            if operation.batch is not None:
                self._store(connection, operation.batch, operation.rows())
            result = operation.result(connection)
        except Exception as error:
            if self._damaged(error):  # the transaction itself is gone: the batch answers for it
                raise
            savepoint.rollback()
            return Failure(operation.failure(error))
        savepoint.commit()
        return result

    def _in_savepoints(self, connection: Connection, operations: Sequence[Operation[Any]]) -> list[Any]:
        """Those of a batch in one savepoint if they get along, every other one in its own."""
        stored = [operation for operation in operations if operation.batch is not None]
        if 1 < len(stored) < len(operations) and (batch := stored[0].batch) is not None:  # not: one that just failed
            results = self._in_savepoint(connection, Together(batch, stored))
            if not isinstance(results, Failure):
                of_batch = iter(results)
                return [
                    self._in_savepoint(connection, operation) if operation.batch is None else next(of_batch)
                    for operation in operations
                ]
        return [self._in_savepoint(connection, operation) for operation in operations]

    def _store(self, connection: Connection, batch: Batch, rows: list[tuple[Any, ...]]) -> None:
        """Store rows within the transaction that is open."""
        batch.run(connection, rows)

    def _damaged(self, error: BaseException) -> bool:
        """SQLite rolls the whole transaction back on these (sqlite.org/lang_transaction.html, 3)."""
        code = _sqlite_code(error)
        return code == _FULL or code in _LOST or code in _REFUSED

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
