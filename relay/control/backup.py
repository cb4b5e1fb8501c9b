"""Backup: an online copy of everything, staged beside the store for the command that packs it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from relay import __version__
from relay.control.context import Control, ControlError, iso, now_ms
from relay.credentials.errors import KeyRefused
from relay.database.migration import HEAD
from relay.database.schema import deliveries, messages
from relay.database.schema import secrets as sealed
from relay.mail.ids import format_id

_STAGE = re.compile(r"\.backup-[0-9a-f]{12}")
_MOST_NAMED = 10_000  # the answer has to fit into a line of the control socket


async def backup_begin(control: Control, *, with_keys: bool = False) -> dict[str, Any]:
    """Copy database, spool files and, if asked, the key ring into a folder of its own; `folder` and what it holds.

    Whoever asked packs it and calls `backup_end`.  Refused: not enough room, a store that is damaged.
    """
    folder = control.queue.folder
    await asyncio.to_thread(sweep_stages, folder)
    await _check_room(control)
    await control.announce("backup", [str(folder)], {"with_keys": with_keys})
    stage = folder / f".backup-{secrets.token_hex(6)}"
    stage.mkdir(mode=0o700)
    try:
        snapshot = await control.queue.snapshot(stage)
        keys = await asyncio.to_thread(_copy_keys, control, stage) if with_keys else []
        counts = await control.database.read(_counts)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)
        raise
    return {
        "folder": str(stage),
        "facts": {
            "made_at": iso(now_ms()),
            "program": __version__,
            "schema": HEAD,
            "in_dot": [format_id(number) for number in sorted(snapshot.in_dot)],
            "missing": sorted(snapshot.missing)[:_MOST_NAMED],
            "keys": keys,
            **counts,
        },
        "spool_files": len(snapshot.files),
    }


async def backup_end(control: Control, *, folder: str) -> dict[str, Any]:
    """Remove what `backup_begin` staged."""
    stage = Path(folder)
    if stage.parent != control.queue.folder or not _STAGE.fullmatch(stage.name):
        raise ControlError("that is no folder of a backup", "leave it to `relay backup`")
    await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)
    return {"removed": folder}


def sweep_stages(folder: Path) -> None:
    """Remove what commands that were killed have left; what is being packed right now stays. Blocking."""
    for entry in folder.glob(".backup-*"):
        if _STAGE.fullmatch(entry.name):
            with contextlib.suppress(BlockingIOError), packing(entry):
                shutil.rmtree(entry, ignore_errors=True)


@contextlib.contextmanager
def packing(stage: Path) -> Iterator[None]:
    """Keep `sweep_stages` off a folder. Raises BlockingIOError when somebody else packs it, FileNotFoundError."""
    handle = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


async def _check_room(control: Control) -> None:
    """The copy must leave room for mail: below the floor none is taken."""
    control.queue.room.enough()
    needed = await control.database.size() + control.queue.room.floor_bytes
    if control.queue.room.free_bytes < needed:
        raise ControlError(
            f"the copy of the store needs {needed} octets on its device, {control.queue.room.free_bytes} are free",
            "free some space, then repeat the command",
        )


def _copy_keys(control: Control, stage: Path) -> list[str]:
    try:
        (stage / "keys").mkdir(mode=0o700)
        return control.vault.ring.copy_to(stage / "keys")
    except KeyRefused as error:
        raise ControlError(f"{error.source} {error.reason}", error.remedy) from None


def _counts(connection: Connection) -> dict[str, int]:
    owed = select(func.count()).where(deliveries.c.settled_at.is_(None))
    return {
        "deliveries": connection.scalar(owed) or 0,
        "messages": connection.scalar(select(func.count()).select_from(messages)) or 0,
        "secrets": connection.scalar(select(func.count()).select_from(sealed)) or 0,
    }
