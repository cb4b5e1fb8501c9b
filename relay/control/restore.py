"""Restore: a backup becomes the store of a data folder in which no relay runs."""

from __future__ import annotations

import asyncio
import json
import os
import secrets as random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sqlalchemy import Connection, func, insert, select, update

from relay.control.archive import open_archive, unpack
from relay.control.context import now_ms
from relay.control.refusal import ControlError
from relay.credentials.errors import KeyMissing, KeyRefused, WrongKey
from relay.credentials.keyring import SECRETS_DIR, KeyRing, load_key_ring
from relay.credentials.vault import Vault
from relay.database.engine import Database, StoreLocked, lock, open_database, sync_folder
from relay.database.migration import HEAD
from relay.database.schema import FAR_FUTURE_MS, audit, deliveries, secrets
from relay.mail.ids import parse_id
from relay.queue.aging import owed_files
from relay.queue.claims import join, take_over
from relay.queue.copies import doubt_all
from relay.queue.model import State

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings

_SIDE = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class _Found:
    """What the restored store owes."""

    waiting: int
    held: int
    in_doubt: int
    secrets: int


async def restore(
    settings: RelaySettings,
    archive: Path,
    *,
    force: bool,
    hold: bool,
    actor: str,
    secrets_dir: Path | None = SECRETS_DIR,
) -> dict[str, Any]:
    """Make the backup `archive` the store of the data folder; `hold`: nothing of it is sent until it is released.

    Everything is unpacked, proved by its checksum, migrated and opened with its keys beside the store first; the
    last step is the rename of the database, or one transaction of PostgreSQL.  `force` moves a store there into
    `replaced-…`; a PostgreSQL database must be empty.  Refused: a relay runs there, a store is there, a newer schema,
    a damaged archive, keys that do not open the secrets.
    """
    shared = settings.database.postgresql
    path = settings.data_dir / "relay.db" if shared else settings.database.file
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = _locked(folder)
    stage = folder / f".restore-{random.token_hex(6)}"
    try:
        old = [] if shared else _old(path)
        if old and not force:
            raise ControlError(
                f"{folder} holds a store already",
                "give RELAY_DATA_DIR a new folder, or --force to move the old one aside",
            )
        with open_archive(archive) as (tar, manifest):
            _check(manifest, folder)
            await asyncio.to_thread(unpack, tar, manifest, stage)
        ring, theirs = await asyncio.to_thread(_rings, settings, stage, secrets_dir)
        found = await _proved(stage, manifest, ring, theirs, hold=hold, actor=actor)
        added = await asyncio.to_thread(_take_over, ring, theirs)
        if shared:
            aside = None
            await _fill(settings, stage)
        else:
            aside = await asyncio.to_thread(_put_in_place, stage, path, old)
    finally:
        await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)
        held.close()
    return {
        "data_dir": settings.database.shown if shared else str(folder),
        "made_at": manifest.get("made_at"),
        "schema": {"backup": manifest["schema"], "now": HEAD},
        "waiting": found.waiting,
        "held": found.held,
        "in_doubt": found.in_doubt,
        "secrets": found.secrets,
        "missing": manifest["missing"],
        "keys_added": added,
        "moved_aside": str(aside) if aside is not None else None,
    }


async def _fill(settings: RelaySettings, stage: Path) -> None:
    """Copy the proved store into the database, which must be empty."""
    from relay.control.moving_store import fill

    (settings.data_dir / "dots").unlink(missing_ok=True)
    await fill(settings.database, stage / "relay.db", stage / "spool")


def _locked(folder: Path) -> IO[str]:
    try:
        return lock(folder)
    except StoreLocked as error:
        raise ControlError(
            str(error), "stop the relay first: a restored store and a running relay exclude each other"
        ) from None


def _old(path: Path) -> list[Path]:
    """The files of a store that is there; empty: none, and the folder may be used."""
    spool = path.parent / "spool"
    names = [path, *(Path(f"{path}{end}") for end in _SIDE), path.parent / "dots"]
    found = [name for name in names if name.exists()]
    if spool.is_dir() and any(spool.iterdir()):
        found.append(spool)
    return found if found != [path.parent / "dots"] else []


def _check(manifest: Mapping[str, Any], folder: Path) -> None:
    if manifest["schema"] > HEAD:
        raise ControlError(
            f"the backup has schema {manifest['schema']}, this program knows {HEAD}",
            f"install relay {manifest.get('program', 'of that time')} or newer",
        )
    if "relay.db" not in manifest["members"]:
        raise ControlError("the backup holds no database", "take another copy of the file, or make a new backup")
    needed = sum(facts["size"] for facts in manifest["members"].values())
    if shutil.disk_usage(folder).free < needed:
        raise ControlError(f"the backup needs {needed} octets in {folder}", "free some space, then repeat the command")


def _rings(settings: RelaySettings, stage: Path, secrets_dir: Path | None) -> tuple[KeyRing, KeyRing]:
    """The ring that the relay will have without the archive, and that of the archive."""
    try:
        ours = load_key_ring(settings.keys_dir, environ=os.environ, secrets_dir=secrets_dir)
        theirs = load_key_ring(stage / "keys", environ={}, secrets_dir=None)
    except KeyRefused as error:
        raise ControlError(f"{error.source} {error.reason}", error.remedy) from None
    except KeyMissing as error:
        raise ControlError(str(error), "put the missing key file into the keys folder") from None
    return ours, theirs


def _take_over(ring: KeyRing, theirs: KeyRing) -> list[str]:
    try:
        return ring.take_over(theirs)
    except KeyRefused as error:
        raise ControlError(f"{error.source} {error.reason}", error.remedy) from None


async def _proved(
    stage: Path, manifest: Mapping[str, Any], ring: KeyRing, theirs: KeyRing, *, hold: bool, actor: str
) -> _Found:
    """Migrate the unpacked store, prove that keys and files are there, settle what its instant left open."""
    in_dot = {number for text in manifest["in_dot"] if (number := parse_id(str(text))) is not None}
    async with open_database(stage / "relay.db") as database:
        await _check_keys(database, ring, theirs)
        owed = await database.read(owed_files)
        lost = owed - {name.removeprefix("spool/") for name in manifest["members"]} - set(manifest["missing"])
        if lost:
            raise ControlError(f"the backup lacks spool file {min(lost)}", "take another copy, or make a new backup")

        def settle(connection: Connection) -> _Found:
            now = now_ms()
            suspects = take_over(connection, None, in_dot, now=now)
            join(connection, in_dot, now=now, lease_ms=0)  # the nodes of then are gone: nobody waits for their leases
            unsettled = deliveries.c.settled_at.is_(None)
            doubt_all(connection, now)
            if hold:
                stopped = {"state": State.HELD.value, "due_at": FAR_FUTURE_MS}
                connection.execute(update(deliveries).where(unsettled).values(**stopped))
            detail = json.dumps({"made_at": str(manifest.get("made_at")), "hold": hold})
            connection.execute(
                insert(audit).values(at=now, actor=actor, action="restore", target="store", detail=detail)
            )
            count = select(func.count()).select_from(deliveries).where(unsettled)
            all_owed = connection.scalar(count) or 0
            stopped_now = connection.scalar(count.where(deliveries.c.state == State.HELD.value)) or 0
            sealed = connection.scalar(select(func.count()).select_from(secrets)) or 0
            return _Found(all_owed - stopped_now, stopped_now, len(suspects), sealed)

        return await database.write(settle)


async def _check_keys(database: Database, ring: KeyRing, theirs: KeyRing) -> None:
    """Every secret must open with the keys that will be there."""
    try:
        await database.read(Vault(database, ring.joined(theirs)).check_keys)
    except KeyRefused as error:
        raise ControlError(f"{error.source} {error.reason}", error.remedy) from None
    except KeyMissing as error:
        raise ControlError(
            f"secrets of the backup are sealed under {', '.join(error.key_ids)}, which is neither in it nor here",
            "put the key file into RELAY_KEYS_DIR, or make the backup with --with-keys",
        ) from None
    except WrongKey as error:
        raise ControlError(str(error), "put the right key file into RELAY_KEYS_DIR") from None


def _put_in_place(stage: Path, path: Path, old: list[Path]) -> Path | None:
    """Move the old store aside, then spool and database in; where the old one is now. Blocking."""
    aside = None
    if old:
        aside = path.parent / f"replaced-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{random.token_hex(2)}"
        aside.mkdir(mode=0o700)
        for name in old:
            os.rename(name, aside / name.name)
        sync_folder(aside)
    spool = path.parent / "spool"
    if spool.is_dir():
        spool.rmdir()  # empty: `_old` saw to that
    os.rename(stage / "spool", spool)
    sync_folder(spool)
    sync_folder(path.parent)
    (path.parent / "dots").unlink(missing_ok=True)
    log = Path(f"{stage / 'relay.db'}-wal")
    if log.exists() and log.stat().st_size:
        raise ControlError("the restored database could not be closed", "repeat the command")
    os.rename(stage / "relay.db", path)  # the commit point: before it there is no store here
    sync_folder(path.parent)
    return aside
