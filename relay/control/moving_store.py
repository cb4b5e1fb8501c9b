"""Copies the store of a relay that does not run into an empty one: SQLite to PostgreSQL, back, or between servers."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from relay.config.extras import require_driver
from relay.control.refusal import ControlError
from relay.database.copying import CopyDiffers, NotEmpty
from relay.database.engine import Database, StoreLocked, connect_sqlite, lock, open_store, sync_folder
from relay.mail.errors import StorageFailed, StorageFull
from relay.queue.transfer import Copied, into_folder, into_postgresql

if TYPE_CHECKING:
    from relay.config.database import DatabaseSettings
    from relay.config.settings import RelaySettings


async def move_store(settings: RelaySettings, to: DatabaseSettings) -> dict[str, Any]:
    """Copy all of the store into the empty one that `to` names; how many rows and contents, all of them compared.

    The store of before is not changed, and counts until RELAY_DATABASE__URL names the other.  Refused: a relay runs,
    the other is not empty, something differs; the other is as it was then.
    """
    if to.shown == settings.database.shown:
        raise ControlError(f"{to.shown} is the store already", "give another one")
    try:
        async with open_store(settings.database, settings.data_dir) as source:
            await source.keep_out()
            if to.postgresql:
                copied = await _into_database(source, to)
            else:
                copied = await _into_file(source, to.file)
    except StoreLocked as error:
        raise ControlError(str(error), "stop the relay first: what it accepts meanwhile would be left behind") from None
    except NotEmpty as error:
        raise ControlError(str(error), "give an empty one") from None
    except (CopyDiffers, StorageFailed, StorageFull) as error:
        raise ControlError(str(error), "nothing was changed; see to it, then repeat the command") from None
    return {
        "from": settings.database.shown,
        "to": to.shown,
        "rows": copied.rows,
        "contents": len(copied.contents),
        "missing": sorted(copied.missing)[:100],
    }


async def fill(to: DatabaseSettings, file: Path, spool: Path) -> Copied:
    """Copy a store in files, which nobody uses, into an empty PostgreSQL database. Raises ControlError."""
    require_driver()
    from relay.database.postgresql import migrating
    from relay.database.postgresql.store import open_postgresql
    from relay.queue.spool_rows import rows_of

    try:
        await asyncio.to_thread(migrating.upgrade, to)
        async with open_postgresql(to, file.parent, alone=False, on_lost=lambda error: None) as opened:
            target = rows_of(opened)
            now = target.now_ms()

            def copy(there: Connection) -> Copied:
                engine = connect_sqlite(file)
                try:
                    with engine.connect() as here, here.begin():
                        return into_postgresql(here, spool, there, now)
                finally:
                    engine.dispose()

            return await asyncio.to_thread(target.fill, copy)
    except NotEmpty as error:
        raise ControlError(str(error), "give an empty database: CREATE DATABASE …") from None
    except (CopyDiffers, StorageFailed, StorageFull) as error:
        raise ControlError(str(error), "nothing was changed; see to it, then repeat the command") from None


async def _into_database(source: Database, to: DatabaseSettings) -> Copied:
    if not source.shared:
        return await fill(to, source.path, source.folder / "spool")
    # By way of files: a second database is filled in one transaction, and what is read is of one instant.
    stage = source.folder / f".move-{secrets.token_hex(6)}"
    stage.mkdir(mode=0o700)
    try:
        await _out_of_database(source, stage)
        return await fill(to, stage / "relay.db", stage / "spool")
    finally:
        await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)


async def _into_file(source: Database, path: Path) -> Copied:
    folder = path.parent
    spool = folder / "spool"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() or (spool.is_dir() and any(spool.iterdir())):
        raise NotEmpty(f"{folder} holds a store already")
    if not source.shared:
        raise ControlError("both stores are files", "use `relay backup` and `relay restore`")
    stage = folder / f".move-{secrets.token_hex(6)}"
    stage.mkdir(mode=0o700)
    held = lock(folder) if folder.resolve() != source.folder.resolve() else None
    try:
        copied = await _out_of_database(source, stage)
        await asyncio.to_thread(_put_in_place, stage, path)
        return copied
    finally:
        await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)
        if held is not None:
            held.close()


async def _out_of_database(source: Database, stage: Path) -> Copied:
    from relay.queue.spool_rows import rows_of

    return await asyncio.to_thread(rows_of(source).of_one_instant, lambda connection: into_folder(connection, stage))


def _put_in_place(stage: Path, path: Path) -> None:
    """The spool first: the database is what makes a store."""
    spool = path.parent / "spool"
    if spool.is_dir():
        spool.rmdir()
    (stage / "spool").rename(spool)
    sync_folder(path.parent)
    (stage / "relay.db").rename(path)
    sync_folder(path.parent)
