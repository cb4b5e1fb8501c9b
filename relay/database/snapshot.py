"""Copies the open store into one file, over the connection that writes it, while the store goes on."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from relay.mail.errors import StorageFailed, StorageFull

_STEP_PAGES = 256  # a mebibyte: some milliseconds in which nothing is committed
_LONGEST_S = 600.0


def copy_store(connection: Connection, target: Path, go_on: Callable[[], None]) -> None:
    """Make `target` (mode 0600) the store as it is when this returns; `go_on` is called between steps. Blocking.

    Only in the writer's thread: what that connection commits between two steps goes into the copy as well
    (sqlite.org/c3ref/backup_finish.html), so that the copy never begins anew, and no second connection reads or
    checkpoints.  Raises StorageFull, StorageFailed, and what `go_on` raises; `target` is of no use then.
    """
    driver: Any = connection.connection.driver_connection
    deadline = time.monotonic() + _LONGEST_S

    def step(status: int, _remaining: int, _total: int) -> None:
        if status == sqlite3.SQLITE_DONE:
            return  # nothing may be committed between the last step and the return
        if time.monotonic() > deadline:
            raise StorageFailed(f"the store could not be copied within {_LONGEST_S:g} seconds")
        go_on()

    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            copy.execute("PRAGMA synchronous = OFF")  # who makes an archive of it syncs that
            driver.backup(copy, pages=_STEP_PAGES, progress=step)
        finally:
            copy.close()
    except sqlite3.Error as error:
        raise _reason(error) from error


def finish_copy(target: Path) -> None:
    """Make a copy whole in itself (no log beside it) and prove that it is sound. Blocking. Raises as `copy_store`."""
    try:
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            copy.execute("PRAGMA synchronous = OFF")
            copy.execute("PRAGMA journal_mode = DELETE")
            [found] = copy.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            copy.close()
    except sqlite3.Error as error:
        raise _reason(error) from error
    if found != "ok":
        raise StorageFailed(f"the store is damaged: {found}")


def _reason(error: sqlite3.Error) -> StorageFull | StorageFailed:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return StorageFull(str(error)) if code == sqlite3.SQLITE_FULL else StorageFailed(str(error))
