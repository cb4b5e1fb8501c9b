"""Opens the store: lock, pragmas, migration, the writer; reads go through connections that cannot write."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from relay.config.extras import require_driver
from relay.database import migration
from relay.database.writer import Call, Operation, Writer
from relay.mail.errors import RelayError, StorageFailed, StorageFull

if TYPE_CHECKING:
    from relay.config.database import DatabaseSettings

T = TypeVar("T")


class StoreLocked(RelayError):
    """Another process has the store open. `holder` is its process id, when known."""

    def __init__(self, place: Path | str, holder: str) -> None:
        super().__init__(f"{place} is held by another process{f' (pid {holder})' if holder else ''}")
        self.place, self.holder = place, holder


class Database:
    """The store: writes through the one writer, reads beside it. Made by `open_database` or `open_store`.

    `folder`: where this node has what is its own; `name`: what people know the store by; `shared`: other machines can
    reach it, so that all of a message has to be in it.
    """

    shared = False

    def __init__(self, writer: Writer, readers: Engine, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._readers = readers
        self.writer = writer

    @property
    def path(self) -> Path:
        """The file; of a store that is one."""
        return self.folder / Path(self.name).name

    @property
    def available(self) -> bool:
        """Can anything be written down right now? When not, nothing that must be may be begun."""
        return True

    @property
    def trouble(self) -> str:
        """Why it is not available, for people."""
        return ""

    def on_available(self, tell: Callable[[bool], None]) -> None:
        """Have `tell` called, from the loop, whenever `available` changes."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC, as every node that works on this store sees them: by the store's clock."""
        return time.time_ns() // 1_000_000

    async def size(self) -> int:
        """Octets of it on its device."""
        return (await asyncio.to_thread(self.path.stat)).st_size

    async def keep_out(self) -> None:
        """No daemon works on the store until this is closed. Raises StoreLocked when one does already."""

    async def write(self, function: Callable[[Connection], T]) -> T:
        """Run `function` in the writer, in a savepoint of its own; return what it returned once that is durable.

        Raises what `function` raised (its changes are undone), StorageFull or StorageFailed.  The change is
        made even when the caller is cancelled meanwhile.
        """
        return await self.writer.submit(Call(function))

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue an operation for the next group commit; see `Writer.submit`."""
        return self.writer.submit(operation)

    def submit_patiently(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue an operation that nobody waits for; see `Writer.submit_patiently`."""
        return self.writer.submit_patiently(operation)

    async def write_long(self, function: Callable[[Connection, Callable[[], None]], T]) -> T:
        """Run what takes long over the write connection, in steps; see `Writer.submit_long`."""
        return await self.writer.submit_long(function)

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run `function` over a read connection in a thread; it sees what was committed before."""

        def run() -> T:
            with self._readers.connect() as connection:
                return function(connection)

        return await asyncio.to_thread(run)


def connect_sqlite(path: Path) -> Engine:
    """The write engine: one connection, WAL, every commit synced (sqlite.org/pragma.html#pragma_synchronous)."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),  # not as text: a `?` in the path would begin its parameters
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "cached_statements": 256},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun by the line below, not by the driver
        cursor = connection.cursor()
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect in a new file only
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",  # NORMAL would not sync the log before the 250
            "foreign_keys = ON",
            "busy_timeout = 5000",
            "wal_autocheckpoint = 4000",
            "secure_delete = FAST",
            "cache_size = -8192",
            "temp_store = MEMORY",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _connect_readers(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true",
        poolclass=QueuePool,
        pool_size=4,  # a page asks for several things at once; each connection is opened when it is first needed
        max_overflow=2,
        pool_timeout=30,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA cache_size = -2048")

    return engine


def lock(data_dir: Path) -> IO[str]:
    """Take the lock that keeps a second process off the store; released when the file is closed. Raises StoreLocked."""
    path = data_dir / "relay.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    handle = os.fdopen(descriptor, "r+", encoding="ascii")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        holder = handle.read(32).strip()
        handle.close()
        raise StoreLocked(path, holder) from None
    handle.seek(0)
    handle.truncate()
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    return handle


@asynccontextmanager
async def open_database(
    path: Path, *, on_lost: Callable[[BaseException], None] | None = None
) -> AsyncIterator[Database]:
    """Lock, open and migrate the SQLite store at `path`; its folder is made (mode 0700) if missing.

    `on_lost` is called from the loop when the store failed in a way after which nothing may be trusted.
    Raises StoreLocked, migration.SchemaTooNew.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = lock(path.parent)
    engine: Engine | None = None
    readers: Engine | None = None
    try:
        fresh = not path.exists()
        # SQLite gives its log and its shared memory the mode of the database: no one else may read mail there.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        engine = connect_sqlite(path)
        try:
            await asyncio.to_thread(migration.upgrade, engine)
        except DBAPIError as error:
            raise _unusable(path, error) from None
        if fresh:
            sync_folder(path.parent)
        readers = _connect_readers(path)
        writer = Writer(engine, on_lost=on_lost or (lambda error: None))
        database = Database(writer, readers, path.parent, str(path))
        database.writer.start()
        try:
            yield database
        finally:
            await database.writer.close()
    finally:
        if readers is not None:
            readers.dispose()
        if engine is not None:
            engine.dispose()
        held.close()


@asynccontextmanager
async def open_store(
    settings: DatabaseSettings,
    data_dir: Path,
    *,
    on_lost: Callable[[BaseException], None] | None = None,
    alone: bool = True,
) -> AsyncIterator[Database]:
    """The store that `settings` name. `alone` False: a PostgreSQL store may be used by others meanwhile.

    Raises as `open_database`, or StorageFailed, ServerUnfit, SchemaTooOld; ExtraMissing.
    """
    if not settings.postgresql:
        async with open_database(settings.file, on_lost=on_lost) as database:
            yield database
        return
    require_driver()
    from relay.database.postgresql.store import open_postgresql

    async with open_postgresql(settings, data_dir, alone=alone, on_lost=on_lost or (lambda error: None)) as store:
        yield store


def _unusable(path: Path, error: DBAPIError) -> StorageFailed | StorageFull:
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StorageFull(f"no room for {path}: free some space on its device")
    match code:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            remedy = "restore it from a backup"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            remedy = f"let user {os.geteuid()} write {path.parent} and what is in it"
        case _:
            remedy = "see to its device"
    return StorageFailed(f"{path} cannot be used ({error.orig}): {remedy}")


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Blocking."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)  # a new file survives a power cut only when its folder was synced
    finally:
        os.close(handle)
