"""The one thread that writes to PostgreSQL: group commits over a connection that may break and comes back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from relay.database.postgresql.connecting import Driver
from relay.database.postgresql.faults import (
    FENCED_WRITER,
    FORBIDDEN,
    TORN,
    broken,
    refused,
    said,
    sqlstate,
    storage_error,
)
from relay.database.postgresql.guard import Guard
from relay.database.statements import Batch, Statement
from relay.database.writer import Failure, Operation, Together, Writer
from relay.mail.errors import CommitUnknown, RelayError, StorageFailed
from relay.telemetry import get_logger

log = get_logger()

T = TypeVar("T")

_BATCH_S = 6.0  # for a group commit of the hot path; an application waits for it
_CALLS_S = 30.0  # for any other
_SETTLE_S = 4.0  # in which what became of a commit is looked for before its callers hear that nobody knows
_FIRST_AGAIN_S, _LONGEST_AGAIN_S = 0.1, 2.0  # between attempts to connect again
_LOCK = 0x72656C6179  # "relay": the advisory lock of the one process that may write

# The one row of this writer, in every transaction.  0 rows: a later connection of ours came in between, and what this
# one still sends (as a server may read it from a connection that is long gone) must change nothing.
_MARK = (
    "WITH mark AS (UPDATE writers SET batch = %s WHERE id = %s AND epoch = %s RETURNING 1) "
    "SELECT relay_expect(count(*), 1, 'RY002') FROM mark"
)
_ENTER = "UPDATE writers SET epoch = epoch + 1, at = %s WHERE id = %s RETURNING epoch, batch"
_BEGIN = "INSERT INTO writers (epoch, batch, at) VALUES (1, %s, %s) RETURNING id, epoch"
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"

_OPEN = object()  # the result of an operation whose commit nobody knows the end of yet


class Held(RelayError):
    """Another process writes to this database."""


class PostgresWriter(Writer):
    """As `Writer`; a lost connection is made again, and what became of a COMMIT whose reply was lost is looked up.

    A row in `writers` counts the batches.  It changes in the transaction of each, so that it tells the fate of all of
    it, and an epoch in it shuts out what an earlier connection still sends.  After a fail-over to a standby that lacks
    the batch it lacks the count as well.  `available` False: nothing can be stored; `trouble` says why.
    """

    def __init__(self, engine: Engine, guard: Guard, *, alone: bool, on_lost: Callable[[BaseException], None]) -> None:
        """`alone`: among nodes, and while one is, `keep_out` is refused. `engine` makes a new connection each time."""
        super().__init__(engine, on_lost=on_lost)
        self._guard = guard
        self._alone = alone
        self._up: Connection | None = None
        self._id: int | None = None  # of our row
        self._epoch = 0
        self._number = 0  # of the last batch that was begun
        self._pid = 0  # of the server's process
        self._committed = False  # was that batch, as the last connection found
        self._next_try = 0.0  # monotonic
        self._again_s = _FIRST_AGAIN_S
        self._open_ends: list[tuple[Operation[Any], asyncio.Future[Any]]] = []
        self._pause = threading.Event()
        self.on_available: Callable[[bool], None] = lambda available: None  # from the loop
        self.available = False
        self.trouble = "not connected yet"

    def open(self) -> None:
        """Connect for the first time. Blocking. Raises StorageFailed, ServerUnfit, Held."""
        self._connect()

    async def close(self) -> None:
        """See `Writer.close`; what nobody knows the end of fails."""
        self._pause.set()
        await super().close()
        for _, future in self._open_ends:
            if not future.done():
                future.set_exception(CommitUnknown("the store was closed before it could be asked"))
        self._open_ends.clear()

    def nudge(self) -> None:
        """Try to connect again now, if that is wanting; from the loop."""
        if not self.available and not self._closing:
            self._wakes.put(True)

    # -- in the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._loop is not None
        try:
            last = False
            while not last:
                last = not self._wakes.get()
                if self._up is None and not last:
                    self._reconnect()
                self._commit_pending()
        except RuntimeError:  # the loop is closed: nobody waits any more
            if not self._loop.is_closed():
                raise
        finally:
            self._leave()

    def _commit_pending(self) -> None:
        assert self._loop is not None
        while batch := self._take():
            results = self._commit([operation for operation, _ in batch])
            if _OPEN in results:
                self._open_ends += [pair for pair, result in zip(batch, results, strict=True) if result is _OPEN]
                known = [(pair, result) for pair, result in zip(batch, results, strict=True) if result is not _OPEN]
                batch, results = [pair for pair, _ in known], [result for _, result in known]
            self._loop.call_soon_threadsafe(self._wake, batch, results)

    def _commit(self, operations: list[Operation[Any]]) -> list[Any]:
        """See `Writer._commit`; _OPEN in the results: as the name says."""
        if self._up is None and not self._reconnect():
            return [Failure(StorageFailed(self.trouble)) for _ in operations]
        self.batches += 1
        self.operations += len(operations)
        self._number += 1
        batch = operations[0].batch
        if batch is not None and all(operation.batch is batch for operation in operations):
            rows = Together(batch, operations).rows()
            done = self._commit_rows(batch.statements(rows), operations)
            if done is None:
                return self._results(operations)
            if done:
                return done
        return self._commit_apart(operations)

    def _commit_rows(self, statements: list[Statement], operations: list[Operation[Any]]) -> list[Any] | None:
        """All of the statements in one round trip. None: committed; empty: one of them is at fault, nothing is stored.

        The pipeline (postgresql.org/docs/current/libpq-pipeline-mode.html) ends at the first error: no COMMIT then.
        """
        assert self._up is not None
        driver = _driver(self._up)
        sent = False  # the COMMIT: from then on an error of the driver's own tells nothing of the transaction
        try:
            with self._guard.limit(driver, _BATCH_S), driver.pipeline():
                driver.execute("BEGIN", prepare=False)
                driver.execute(_MARK, (self._number, self._id, self._epoch))
                for text, values in statements:
                    driver.execute(text, values)
                sent = True
                driver.execute("COMMIT", prepare=False)
            return None
        except psycopg.Error as error:
            if broken(driver) or (sent and not refused(error)):
                return self._cut(error, operations, None)
            return self._undone(error, operations)

    def _commit_apart(self, operations: list[Operation[Any]]) -> list[Any]:
        """Each operation in a savepoint of its own, or with those that get along."""
        connection = self._up
        assert connection is not None
        driver = _driver(connection)
        results: list[Any] | None = None
        try:
            with self._guard.limit(driver, _CALLS_S), connection.begin():
                driver.execute(_MARK, (self._number, self._id, self._epoch))
                results = self._in_savepoints(connection, operations)
        except Exception as error:
            if broken(driver) or (results is not None and not refused(error)):
                if results is not None:
                    return self._cut(error, operations, results)
                self._drop(error)
                return [Failure(StorageFailed(said(error))) for _ in operations]
            return self._undone(error, operations) or [Failure(error) for _ in operations]
        return results

    def _undone(self, error: Exception, operations: list[Operation[Any]]) -> list[Any]:
        """Roll the transaction back; what that means for each. Empty: the fault is in one of them."""
        assert self._up is not None
        try:
            _driver(self._up).rollback()
        except psycopg.Error as worse:
            self._drop(worse)
            return [Failure(StorageFailed(said(worse))) for _ in operations]
        if sqlstate(error) == FENCED_WRITER:
            return self._damage(error, operations)
        if sqlstate(error) == TORN:
            return []
        reason = storage_error(error)
        return [Failure(type(reason)(str(reason))) for _ in operations] if reason is not None else []

    def _damage(self, error: Exception, operations: list[Operation[Any]]) -> list[Any]:
        """Our row is somebody else's: nothing may be trusted."""
        self._lost = error
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._on_lost, error)
        return [Failure(StorageFailed(str(error))) for _ in operations]

    def _damaged(self, error: BaseException) -> bool:
        """The connection, or something of the server's that concerns every operation of the batch."""
        return storage_error(error) is not None and not sqlstate(error).startswith(("40", "55", FORBIDDEN, TORN))

    def _in_savepoint(self, connection: Connection, operation: Operation[T]) -> T | Failure:
        """See `Writer._in_savepoint`; what had to wait too long for a lock failed for a while only."""
        result = super()._in_savepoint(connection, operation)
        if isinstance(result, Failure) and (reason := storage_error(result.error)) is not None:
            return Failure(reason)
        return result

    def _store(self, connection: Connection, batch: Batch, rows: list[tuple[Any, ...]]) -> None:
        driver = _driver(connection)
        for text, values in batch.statements(rows):
            driver.execute(text, values)

    # -- the connection ------------------------------------------------------------------------------------

    def _cut(self, error: Exception, operations: list[Operation[Any]], results: list[Any] | None) -> list[Any]:
        """The connection broke while the COMMIT was under way: find out what became of it."""
        self._drop(error)
        deadline = time.monotonic() + _SETTLE_S
        while not self._reconnect():
            if time.monotonic() > deadline or self._pause.wait(_FIRST_AGAIN_S):
                unknown = f"the connection broke during the commit, and {self.trouble}"
                return [_OPEN if one.patient else Failure(CommitUnknown(unknown)) for one in operations]
        if not self._committed:
            return [Failure(StorageFailed(f"the connection broke before the commit: {said(error)}"))] * len(operations)
        return self._results(operations) if results is None else results

    def _results(self, operations: list[Operation[Any]]) -> list[Any]:
        """Of operations whose rows are durable."""
        assert self._up is not None
        results: list[Any] = []
        for operation in operations:
            try:
                results.append(operation.result(self._up))
            except Exception as error:  # a bug of that operation's, and of no other
                results.append(Failure(error))
        return results

    def _drop(self, error: BaseException) -> None:
        connection, self._up = self._up, None
        if connection is not None:
            connection.invalidate()
            connection.close()
        self._unavailable(said(error))
        self._next_try, self._again_s = 0.0, _FIRST_AGAIN_S

    def _reconnect(self) -> bool:
        """Connect if it is time to try; `_committed` tells of the last batch then. False: not connected."""
        now = time.monotonic()
        if self._lost is not None or now < self._next_try:
            return False
        try:
            self._connect()
        except (RelayError, DBAPIError, psycopg.Error, OSError) as error:
            self._unavailable(str(error) if isinstance(error, RelayError) else said(error))
            self._next_try = time.monotonic() + self._again_s
            self._again_s = min(2 * self._again_s, _LONGEST_AGAIN_S)
            return False
        self._again_s = _FIRST_AGAIN_S
        self._answer_open_ends()
        return True

    def _connect(self) -> None:
        """Take our place; what an earlier connection of ours still sends is shut out from here on."""
        connection = self._engine.connect()
        driver = _driver(connection)
        try:
            with self._guard.limit(driver, _BATCH_S):
                self._enter(driver)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        self._up = connection
        self.trouble = ""
        self.available = True
        self._tell()

    def _enter(self, driver: Driver) -> None:
        if self._pid:  # it may not have noticed that we are gone, and would hold our row and our lock
            driver.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid = %s AND application_name = current_setting('application_name') AND usename = current_user",
                (self._pid,),
            )
        if self._alone and not _one(driver, "SELECT pg_try_advisory_lock_shared(%s)", (_LOCK,)):
            raise Held("another relay works on this database")
        self._pid = _one(driver, "SELECT pg_backend_pid()")  # a pooler tells its clients other numbers
        now = _one(driver, _NOW)
        # Waits for a transaction of the earlier connection that is still under way.
        found = driver.execute(_ENTER, (now, self._id)).fetchone() if self._id is not None else None
        if found is None:
            self._committed = False
            self._id, self._epoch = driver.execute(_BEGIN, (self._number, now)).fetchone()  # type: ignore[misc]
        else:
            self._epoch, batch = found
            self._committed = batch == self._number

    @staticmethod
    def keep_out(connection: Connection) -> bool:
        """Let no node begin while this connection lasts; False: one is at work. To be run by this writer, `alone`."""
        return bool(connection.scalar(select(func.pg_try_advisory_lock(_LOCK))))

    def _leave(self) -> None:
        connection, self._up = self._up, None
        if connection is None:
            return
        try:
            with self._guard.limit(_driver(connection), _BATCH_S):
                _driver(connection).execute("DELETE FROM writers WHERE id = %s AND epoch = %s", (self._id, self._epoch))
        except psycopg.Error:
            pass  # the next start removes it
        connection.close()

    def _unavailable(self, trouble: str) -> None:
        self.trouble = trouble
        if self.available:
            self.available = False
            self._tell()

    def _tell(self) -> None:
        if not self.available:
            log.error("storage.failed", where="connection", detail=self.trouble)
        elif self._epoch > 1:
            log.info("storage.regained", where="connection")
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self.on_available(self.available))

    def _answer_open_ends(self) -> None:
        """Those whose commit nobody knew the end of."""
        open_ends, self._open_ends = self._open_ends, []
        if not open_ends:
            return
        assert self._loop is not None
        results: list[Any] = [Failure(StorageFailed("the connection broke before the commit"))] * len(open_ends)
        if self._committed:
            results = self._results([operation for operation, _ in open_ends])
        self._loop.call_soon_threadsafe(self._wake, open_ends, results)


def _driver(connection: Connection) -> Driver:
    driver: Any = connection.connection.driver_connection
    return driver  # type: ignore[no-any-return]


def _one(driver: Driver, query: str, values: tuple[Any, ...] = ()) -> Any:
    row = driver.execute(query, values).fetchone()
    assert row is not None
    return row[0]
