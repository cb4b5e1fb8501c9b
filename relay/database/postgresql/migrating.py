"""Brings a PostgreSQL database to this program's schema, one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from relay.database import migration
from relay.database.postgresql.connecting import Place
from relay.database.postgresql.faults import said, storage_error
from relay.database.postgresql.store import connect_postgresql
from relay.mail.errors import StorageFailed

if TYPE_CHECKING:
    from relay.config.database import DatabaseSettings

_LOCK = 0x72656C61796D  # "relaym": the advisory lock of whoever migrates
_SESSION = {"synchronous_commit": "on", "lock_timeout": "30s"}


def schema_of(settings: DatabaseSettings) -> str | None:
    """The revision of the database; None: it is empty. Blocking. Raises StorageFailed, ServerUnfit."""
    with _engine(settings) as engine:
        return migration.current(engine)


def upgrade(settings: DatabaseSettings) -> bool:
    """Migrate; True when there was anything to do. Blocking. Raises StorageFailed, ServerUnfit, SchemaTooNew.

    One transaction: a migration that fails leaves the schema of before.  Nodes that run meanwhile wait, at most for
    their own limits, and a second migration for the first.
    """
    with _engine(settings) as engine:
        return migration.upgrade(engine, lock=f"SELECT pg_advisory_xact_lock({_LOCK})")


@contextmanager
def _engine(settings: DatabaseSettings) -> Iterator[Engine]:
    place = Place(settings)
    engine = connect_postgresql(place, session=_SESSION, pooled=False, application="relay migrate")
    try:
        yield engine
    except DBAPIError as error:
        raise (storage_error(error) or StorageFailed(f"{place.shown}: {said(error)}")) from None
    finally:
        engine.dispose()
