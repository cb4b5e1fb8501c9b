"""Opens the store in PostgreSQL: the server proved, the schema compared, the writer; reads go beside it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool, QueuePool

from relay.database import migration
from relay.database.engine import Database, StoreLocked, lock
from relay.database.postgresql.connecting import Driver, Place, prove, prove_sessions
from relay.database.postgresql.faults import storage_error
from relay.database.postgresql.guard import Guard
from relay.database.postgresql.writer import Held, PostgresWriter
from relay.mail.errors import StorageFailed

if TYPE_CHECKING:
    from relay.config.database import DatabaseSettings

T = TypeVar("T")

_READ_S = 60.0
_SOON_S = 6.0  # for what an application waits for: with a ping and a look before it, 451 comes within ten seconds
_PING_S = 2.0
_SILENT_S = 5.0  # after a wait for nothing, of more than a ping's: whoever stands in line need not wait as well
_POOL_S = 5.0  # that a thread waits for one of the kept connections
_COPY_S = 86_400.0
_LOOK_S = 1.0
_CLOCK_S = 20.0  # between two looks at the server's clock
_PATIENCE_S = 30.0  # that a start waits for a server which does not answer yet
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_WRITES = {
    "synchronous_commit": "on",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
    "default_transaction_isolation": "read committed",
    "statement_timeout": "0",
}
_SPOOLS = {"synchronous_commit": "off", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "60s"}
_READS = {"default_transaction_read_only": "on", "statement_timeout": "50s", "lock_timeout": "5s"}


class PostgresDatabase(Database):
    """The store in PostgreSQL. Made by `open_postgresql`."""

    shared = True

    def __init__(
        self, writer: PostgresWriter, readers: Engine, spoolers: Engine, guard: Guard, folder: Path, place: Place
    ) -> None:
        super().__init__(writer, readers, folder, place.shown)
        self._postgres, self._guard, self._spoolers = writer, guard, spoolers
        self._silent_until = 0.0  # monotonic
        self._clock = (0.0, 0.0)  # of the server (ms since 1970), at that time of our monotonic clock

    @property
    def available(self) -> bool:
        """See `Database.available`."""
        return self._postgres.available

    @property
    def trouble(self) -> str:
        """See `Database.trouble`."""
        return self._postgres.trouble

    def on_available(self, tell: Callable[[bool], None]) -> None:
        """See `Database.on_available`."""
        self._postgres.on_available = tell

    def now_ms(self) -> int:
        """See `Database.now_ms`."""
        at_ms, measured = self._clock
        return int(at_ms + (time.monotonic() - measured) * 1000)

    async def read(self, function: Callable[[Connection], T]) -> T:
        """See `Database.read`. Raises StorageFailed when the server cannot be asked."""
        return await asyncio.to_thread(self.read_blocking, function)

    def read_blocking(self, function: Callable[[Connection], T]) -> T:
        """As `read`, from a thread."""
        return self._run(self._readers, function)

    def read_soon(self, function: Callable[[Connection], T]) -> T:
        """As `read_blocking`, for what an application may be waiting for: some seconds at most."""
        return self._soon(self._readers, function)

    def of_one_instant(self, function: Callable[[Connection], T]) -> T:
        """Run `function`, however long it takes, in a transaction that sees the store as it is now. From a thread.

        Raises StorageFailed.
        """

        def run(connection: Connection) -> T:
            with connection.begin():
                connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
                return function(connection)

        return self._run(self._spoolers, run, _COPY_S)

    def fill(self, function: Callable[[Connection], T]) -> T:
        """Run `function` in one transaction that is durable on return. From a thread. Raises as `write_blocking`."""

        def run(connection: Connection) -> T:
            with connection.begin():
                connection.execute(text("SET LOCAL synchronous_commit = on"))
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                return function(connection)

        return self._run(self._spoolers, run, _COPY_S)

    def write_blocking(self, function: Callable[[Connection], T], *, soon: bool = False) -> T:
        """Run `function` in a transaction beside the writer's, from a thread. Raises StorageFull, StorageFailed.

        For what may be lost until something else is committed by the writer: the commit waits for no device.
        `soon`: an application waits; see `read_soon`.
        """

        def run(connection: Connection) -> T:
            with connection.begin():
                return function(connection)

        return self._soon(self._spoolers, run) if soon else self._run(self._spoolers, run)

    def _soon(self, engine: Engine, function: Callable[[Connection], T]) -> T:
        asked = time.monotonic()
        if asked < self._silent_until:
            raise StorageFailed("the server does not answer")
        try:
            return self._run(engine, function, _SOON_S)
        except StorageFailed:
            if time.monotonic() - asked >= _PING_S:
                self._silent_until = time.monotonic() + _SILENT_S
            raise

    def _run(self, engine: Engine, function: Callable[[Connection], T], longest_s: float = _READ_S) -> T:
        try:
            with engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                with self._guard.limit(driver, longest_s):
                    return function(connection)
        except PoolTimeout:
            raise StorageFailed("every connection to the store is busy") from None
        except (DBAPIError, psycopg.Error) as error:
            if (reason := storage_error(error)) is None:
                raise
            raise reason from None

    async def size(self) -> int:
        """See `Database.size`."""
        query = text("SELECT pg_database_size(current_database())")
        return await self.read(lambda connection: int(connection.scalar(query) or 0))

    async def measure_clock(self) -> None:
        """Look at the server's clock; half of the time that takes counts as the way of the answer."""

        def look(connection: Connection) -> tuple[float, float]:
            connection.exec_driver_sql("SELECT 1")  # whatever making a connection takes is over
            asked = time.monotonic()
            at_ms = float(connection.exec_driver_sql(_NOW).scalar() or 0)
            heard = time.monotonic()
            return at_ms, (asked + heard) / 2

        self._clock = await self.read(look)

    async def keep_out(self) -> None:
        """No node works on the database until this is closed. Raises StoreLocked when one does already."""
        if not await self.write(self._postgres.keep_out):
            raise StoreLocked(self.name, "")

    async def watch(self) -> None:
        """Until cancelled: connect again, follow the server's clock."""
        following = asyncio.create_task(self._follow_clock(), name="server's clock")
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                self._postgres.nudge()
        finally:
            following.cancel()
            await asyncio.wait((following,))

    async def _follow_clock(self) -> None:
        """Beside `watch`: a server that hangs must not keep that from connecting again."""
        while True:
            await asyncio.sleep(_CLOCK_S)
            if self.available:
                with contextlib.suppress(StorageFailed):
                    await self.measure_clock()


def connect_postgresql(
    place: Place, *, session: Mapping[str, str], pooled: bool, application: str, reads: bool = False
) -> Engine:
    """An engine. `pooled`: connections are kept; else every one is new, and its server is proved to be fit.

    `reads`: nothing needs a transaction.
    """

    def connect() -> Driver:
        connection = place.connect(application=application, session=session)
        try:
            if not pooled:
                prove(connection, place.shown)
        except BaseException:
            connection.close()
            raise
        return connection

    pool: dict[str, Any] = {"poolclass": NullPool}
    if pooled:
        pool = {
            "poolclass": QueuePool,
            "pool_size": 2,
            "max_overflow": 4,
            "pool_timeout": _POOL_S,
            "pool_pre_ping": True,
            "pool_recycle": 1800,
        }
    engine = create_engine(
        "postgresql+psycopg://", creator=connect, use_native_hstore=False, hide_parameters=True, **pool
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not reads:
            connection.exec_driver_sql("BEGIN")  # the driver is in autocommit mode

    return engine


def _limit_pings(engine: Engine, guard: Guard) -> None:
    """The pool asks a kept connection for a sign of life before anybody has it: that wait ends, too."""
    ping = engine.dialect.do_ping

    def limited(connection: Any) -> bool:
        with guard.limit(connection, _PING_S):
            return ping(connection)

    engine.dialect.do_ping = limited  # type: ignore[assignment,method-assign]


@asynccontextmanager
async def open_postgresql(
    settings: DatabaseSettings,
    folder: Path,
    *,
    alone: bool,
    on_lost: Callable[[BaseException], None],
) -> AsyncIterator[PostgresDatabase]:
    """Connect, prove the server, compare the schema. `folder` is this node's own: socket, ledger.

    `alone`: as a node, of which there may be several, but one in `folder`; see `keep_out`.  Raises StorageFailed,
    ServerUnfit, StoreLocked, migration.SchemaTooNew, migration.SchemaTooOld.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place, guard = Place(settings), Guard()
    engine = connect_postgresql(place, session=_WRITES, pooled=False, application="relay writer")
    readers = connect_postgresql(place, session=_READS, pooled=True, reads=True, application="relay reader")
    spoolers = connect_postgresql(place, session=_SPOOLS, pooled=True, application="relay spool")
    for pooled in (readers, spoolers):
        _limit_pings(pooled, guard)
    held = lock(folder) if alone else None
    patience_s = _PATIENCE_S if alone else 0.0  # a command says at once what is wrong
    looking = asyncio.create_task(_look(guard), name="ends of waits")
    try:
        await _patiently(lambda: prove_sessions(place, guard), patience_s)
        await _patiently(lambda: migration.prove(engine), patience_s)
        writer = PostgresWriter(engine, guard, alone=alone, on_lost=on_lost)
        try:
            await _patiently(writer.open, patience_s)
        except Held:
            raise StoreLocked(place.shown, "") from None
        database = PostgresDatabase(writer, readers, spoolers, guard, folder, place)
        await database.measure_clock()
        writer.start()
        watching = asyncio.create_task(database.watch(), name="database watch")
        try:
            yield database
        finally:
            await writer.close()
            watching.cancel()
            await asyncio.wait((watching,))
    finally:
        looking.cancel()
        await asyncio.wait((looking,))
        readers.dispose()
        spoolers.dispose()
        engine.dispose()
        if held is not None:
            held.close()


async def _look(guard: Guard) -> None:
    """Until cancelled: end what waits too long."""
    while True:
        await asyncio.sleep(_LOOK_S)
        guard.look()


async def _patiently(ask: Callable[[], object], patience_s: float) -> None:
    """A server that starts at the same time as we, or again, gets some time. Raises what it said last."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            await asyncio.to_thread(ask)
        except StorageFailed:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)
        except DBAPIError as error:
            reason = storage_error(error)
            if reason is None or time.monotonic() > deadline:
                raise (reason or error) from None
            await asyncio.sleep(0.5)
        else:
            return
