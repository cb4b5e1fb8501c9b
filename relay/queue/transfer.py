"""Copies a whole store into an empty one, large contents included: from files to rows, or back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, insert, select

from relay.database.copying import CopyDiffers, copy_tables, require_empty
from relay.database.engine import connect_sqlite, sync_folder
from relay.database.migration import upgrade
from relay.database.schema import chunks
from relay.mail.errors import StorageFailed
from relay.queue.aging import owed_files
from relay.queue.spool import HIGH_WATER

CHUNK = HIGH_WATER  # octets of a row, as in spool_rows


@dataclass(frozen=True, slots=True)
class Copied:
    """Rows by table; names of the large contents that were copied, and of those that were gone already."""

    rows: dict[str, int]
    contents: frozenset[str]
    missing: frozenset[str]


def into_postgresql(source: Connection, spool: Path, target: Connection, now: int) -> Copied:
    """Copy SQLite's store and its spool folder into an empty database. Blocking; `target` is in a transaction.

    Raises NotEmpty, CopyDiffers, StorageFailed.
    """
    require_empty(target)
    rows = copy_tables(source, target)
    names, missing = owed_files(source), set()
    for name in sorted(names):
        try:
            written = _file_to_rows(spool / name, name, target, now)
        except FileNotFoundError:
            missing.add(name)
            continue
        except OSError as error:
            raise StorageFailed(f"{spool / name}: {error.strerror}") from None
        if written != _digest_of_rows(target, name):
            raise CopyDiffers(f"the content {name} differs from its file")
    return Copied(rows, frozenset(names - missing), frozenset(missing))


def into_folder(source: Connection, folder: Path) -> Copied:
    """Copy a database's store into `relay.db` and `spool/` of `folder`, which has neither. Blocking.

    Everything is synced on return.  Raises CopyDiffers, StorageFailed, OSError.
    """
    path, spool = folder / "relay.db", folder / "spool"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    spool.mkdir(mode=0o700)
    engine = connect_sqlite(path)
    try:
        upgrade(engine)
        with engine.connect() as target, target.begin():
            rows = copy_tables(source, target)
            names = owed_files(source)
        missing = {name for name in names if not _rows_to_file(source, name, spool / name)}
    finally:
        engine.dispose()
    sync_folder(spool)
    sync_folder(folder)
    return Copied(rows, frozenset(names - missing), frozenset(missing))


def _file_to_rows(path: Path, name: str, target: Connection, now: int) -> bytes:
    digest, number = hashlib.sha256(), 0
    with path.open("rb") as file:
        while body := file.read(CHUNK):
            digest.update(body)
            values = {"spool": name, "number": number, "node": 0, "at": now, "body": body}
            target.execute(insert(chunks).values(values))
            number += 1
    return digest.digest()


def _digest_of_rows(connection: Connection, name: str) -> bytes:
    digest = hashlib.sha256()
    for body in _bodies(connection, name):
        digest.update(body)
    return digest.digest()


def _rows_to_file(source: Connection, name: str, path: Path) -> bool:
    """False: there are no rows of it."""
    digest = hashlib.sha256()
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as file:
        for body in _bodies(source, name):
            digest.update(body)
            file.write(body)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        if hashlib.file_digest(file, "sha256").digest() != digest.digest():
            raise CopyDiffers(f"the content {name} differs from its rows")
        size = file.tell()
    if not size:
        path.unlink()
    return bool(size)


def _bodies(connection: Connection, name: str) -> Iterable[bytes]:
    query = select(chunks.c.body).where(chunks.c.spool == name).order_by(chunks.c.number)
    for row in connection.execute(query, execution_options={"yield_per": 4}):
        yield row.body
