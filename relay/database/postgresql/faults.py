"""What PostgreSQL's errors mean: SQLSTATE (appendix A of its manual) to room, trouble for a while, or a bug."""

from __future__ import annotations

import psycopg
from sqlalchemy.exc import DBAPIError

from relay.mail.errors import StorageFailed, StorageFull

TORN = "RY003"  # relay_expect, see queue.postgresql
FENCED_WRITER = "RY002"  # relay_expect, see writer
FORBIDDEN = "42501"  # insufficient_privilege
_LATER = frozenset(("08", "25", "40", "55", "57", "58", "XX"))
# connection, wrong kind of transaction (read-only standby), serialisation, lock or state, operator, system, internal

_ENDING = frozenset(("08", "57", "58", "XX"))  # may come behind a COMMIT that went well, as the server goes down


def driver_error(error: BaseException) -> BaseException:
    """The error of the driver below an error of SQLAlchemy's."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def sqlstate(error: BaseException) -> str:
    """Five characters; empty: the server did not say, as when the connection broke."""
    return getattr(driver_error(error), "sqlstate", None) or ""


def refused(error: BaseException) -> bool:
    """Did the server say no to a statement, so that the COMMIT behind it did nothing? False: nobody knows."""
    code = sqlstate(error)
    return bool(code) and code[:2] not in _ENDING


def broken(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Is nothing possible over this connection any more?"""
    return connection.closed or connection.broken


def storage_error(error: BaseException) -> StorageFull | StorageFailed | None:
    """What the store could not do, in the words of the rooms above; None: the fault is in what it was told to do."""
    code = sqlstate(error)
    if code.startswith("53"):  # disk full, out of memory, too many connections
        return StorageFull(said(error))
    if code == TORN:
        return StorageFailed("the server lost a part of the message while it came in")
    if code == FORBIDDEN:
        return StorageFailed(f"{said(error)}: grant this role its rights again, or let it own the database")
    if isinstance(driver_error(error), psycopg.OperationalError | psycopg.InterfaceError) or code[:2] in _LATER:
        return StorageFailed(said(error))
    return None


def said(error: BaseException) -> str:
    """The first line of it, for people; no statement and no values."""
    original = driver_error(error)
    text = (original.diag.message_primary if isinstance(original, psycopg.Error) else None) or str(original)
    return next(iter(text.strip().splitlines()), type(original).__name__)[:300]
