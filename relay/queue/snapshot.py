"""A copy of all that is owed, as it was at one instant: the store, the spool files it names, whose dots were out."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from relay.database.engine import Database
from relay.database.snapshot import copy_store, finish_copy
from relay.mail.errors import StorageFailed
from relay.queue.aging import owed_files
from relay.queue.ledger import DotLedger
from relay.queue.spool import FileSpool, Spool

DATABASE = "relay.db"
SPOOL = "spool"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`in_dot`: messages that may have been upstream already at that instant. `missing`: spool files that are gone."""

    in_dot: frozenset[int]
    files: frozenset[str]
    missing: frozenset[str]


async def take_snapshot(database: Database, spool: Spool, ledger: DotLedger, folder: Path) -> Snapshot:
    """Fill the empty `folder`, on the device of the spool, with `relay.db` and `spool/`.

    A PostgreSQL store becomes one of SQLite's by that: a backup fits either engine.
    """
    if isinstance(spool, FileSpool):
        return await _of_files(database, spool, ledger, folder)
    from relay.queue.spool_rows import rows_of
    from relay.queue.transfer import into_folder

    before = ledger.out()
    copied = await asyncio.to_thread(rows_of(database).of_one_instant, lambda c: into_folder(c, folder))
    # A dot that went out after the instant is taken for one that was out then: it is only sent again with a mark.
    return Snapshot(frozenset(before | ledger.out()), copied.contents, copied.missing)


async def _of_files(database: Database, spool: FileSpool, ledger: DotLedger, folder: Path) -> Snapshot:
    """As `take_snapshot`, of SQLite's store and spool folder.

    The instant is in the writer's thread: what a message of which something is owed then needs is still there, for
    a spool file goes only after the commit that settles its message.  Raises StorageFull, StorageFailed.
    """
    links = folder / SPOOL
    links.mkdir(mode=0o700)

    def copy(connection: Connection, go_on: Callable[[], None]) -> Snapshot:
        copy_store(connection, folder / DATABASE, go_on)
        in_dot = ledger.out()
        with connection.begin():
            owed = owed_files(connection)
        missing = _link(spool, links, owed)
        return Snapshot(frozenset(in_dot), frozenset(owed - missing), frozenset(missing))

    # Most files are linked before, so that few are left for the instant in which nothing is committed.
    early = await database.read(owed_files)
    await asyncio.to_thread(_link, spool, links, early)
    snapshot = await database.write_long(copy)
    await asyncio.to_thread(_tidy, folder, snapshot)
    return snapshot


def _link(spool: FileSpool, links: Path, names: Iterable[str]) -> set[str]:
    """Give each file a second name in `links`: it costs no room and stays when the first goes. Those that are gone."""
    missing: set[str] = set()
    for name in names:
        source, target = spool.path(name), links / name
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            pass  # linked before
        except FileNotFoundError:
            missing.add(name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise StorageFailed(str(error)) from error
            shutil.copyfile(source, target, follow_symlinks=False)
    return missing


def _tidy(folder: Path, snapshot: Snapshot) -> None:
    """Prove the copy; drop the files of messages that were settled after they had been linked."""
    finish_copy(folder / DATABASE)
    for entry in os.scandir(folder / SPOOL):
        if entry.name not in snapshot.files:
            os.unlink(entry.path)
