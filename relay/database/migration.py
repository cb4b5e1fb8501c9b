"""Brings a store to this program's schema with Alembic; refuses a newer one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, inspect, text

from relay.mail.errors import RelayError

HEAD = "0017"  # the newest revision in `migrations/versions`; a test compares


class SchemaTooNew(RelayError):
    """The store was written by a newer program."""

    def __init__(self, found: str) -> None:
        super().__init__(f"the database has schema {found}, this program knows {HEAD}: install the newer program again")
        self.found = found


class SchemaTooOld(RelayError):
    """The store is to be migrated by a command, not by the way: others may be working on it."""

    def __init__(self, found: str | None) -> None:
        what = f"has schema {found}" if found else "has no schema yet"
        super().__init__(f"the database {what}, this program needs {HEAD}; run: relay migrate")
        self.found = found


def prove(engine: Engine) -> None:
    """Raises SchemaTooNew or SchemaTooOld unless the store has exactly this program's schema."""
    found = current(engine)
    if found is not None and found > HEAD:
        raise SchemaTooNew(found)
    if found != HEAD:
        raise SchemaTooOld(found)


def current(engine: Engine) -> str | None:
    """The revision of the store, None when it is empty."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def needed(path: Path) -> bool:
    """Is the store at `path` missing or of an older schema? False when that cannot be told: opening it says why."""
    if not path.exists():
        return True
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as store:
            found = store.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return False
    return found is not None and str(found[0]) < HEAD


def upgrade(engine: Engine, *, lock: str | None = None) -> bool:
    """Migrate to HEAD; True when there was anything to do. Alembic is loaded only then.

    `lock`: what takes, for the transaction, a lock that keeps others from migrating.
    """
    found = current(engine)
    if found == HEAD:
        return False
    if found is not None and found > HEAD:
        raise SchemaTooNew(found)
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        if lock is None:
            command.upgrade(config, "head")
            return True
        with connection.begin():
            connection.execute(text(lock))
            command.upgrade(config, "head")  # nothing is left to do when somebody else was first
    return True
