"""Contents on their way in: up to the inline limit in memory, larger ones in a file that is made durable first."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from relay.database.engine import Database
from relay.mail.content import Content, Stored
from relay.mail.errors import StorageFailed, StorageFull

HIGH_WATER = 192 * 1024  # octets held before they must go to the file; with what arrives meanwhile under 256 KiB
_NAME = re.compile(r"[0-9a-f]{32}")
_FULL = {28, 122, 27}  # ENOSPC, EDQUOT, EFBIG


class Spool(Protocol):
    """Keeps large contents, by a name of its own making. The row of a message is the commit point of its content."""

    inline_bytes: int
    node: int  # who receives

    def open(self) -> None:
        """Make ready. Blocking. Raises StorageFailed."""

    def draft(self) -> ContentDraft:
        """A new content being received."""

    def source(self, name: str) -> Path | Stored:
        """Where whoever sends a content reads it."""

    def read(self, name: str, at: int, length: int) -> bytes:
        """Exactly `length` octets of a content, from `at` on. Blocking. Raises StorageFailed."""

    def holds(self, name: str) -> bool:
        """Is it (still) there? Blocking. Raises StorageFailed."""

    def remove(self, names: Iterable[str]) -> None:
        """Delete contents, missing ones included. Blocking. Raises StorageFailed."""

    def sweep(self, known: set[str]) -> int:
        """Delete what no message names and nobody receives; how many there were. Blocking. Raises StorageFailed."""


def open_spool(database: Database, *, inline_bytes: int) -> Spool:
    """The spool that goes with a store: rows of PostgreSQL, a folder beside SQLite's file."""
    if database.shared:
        from relay.queue.spool_rows import RowSpool, rows_of

        return RowSpool(rows_of(database), inline_bytes=inline_bytes)
    return FileSpool(database.folder / "spool", inline_bytes=inline_bytes)


class ContentDraft(Protocol):
    """Collects one content in wire form. Give it up with `discard` unless the queue accepted it."""

    size: int

    def add(self, chunk: bytes) -> bool:
        """Append octets; True: call `drain` before adding more."""

    async def drain(self) -> None:
        """Write what is held to the spool; the loop goes on meanwhile. Raises StorageFull, StorageFailed."""

    async def finish(self) -> Content:
        """The complete content; a spooled one is durable with its message at the latest. Raises as `drain`."""

    def discard(self) -> None:
        """Forget the content. Idempotent, and of no effect on what `finish` returned."""


class FileSpool:
    """A folder of large contents. The row of a message is its commit point: a file without a row is swept once."""

    def __init__(self, folder: Path, *, inline_bytes: int) -> None:
        self.folder = folder
        self.inline_bytes = inline_bytes
        self.node = 0
        self._new: set[str] | None = set()  # files of this process, which `sweep` does not know; None: it was done

    def open(self) -> None:
        """Make the folder; durable before the first file. Raises StorageFailed when something else has its name."""
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise StorageFailed(f"{self.folder} is not a folder of its own; move it away")
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700, parents=True)
            _sync_folder(self.folder.parent)

    def draft(self) -> FileDraft:
        """A new content being received."""
        return FileDraft(self)

    def source(self, name: str) -> Path:
        """See `Spool.source`."""
        return self.path(name)

    def holds(self, name: str) -> bool:
        """See `Spool.holds`."""
        return self.path(name).exists()

    def path(self, name: str) -> Path:
        """The file of a spooled content."""
        return self.folder / name

    def read(self, name: str, at: int, length: int) -> bytes:
        """Exactly `length` octets of a spooled content, from `at` on. Blocking. Raises StorageFailed."""
        try:
            with open(self.path(name), "rb", buffering=0) as file:
                file.seek(at)
                found = file.read(length)
        except OSError as error:
            raise _storage_error(error) from error
        if len(found) != length:
            raise StorageFailed(f"{name} has less than {at + length} octets")
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Delete files, missing ones included. Blocking."""
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def sweep(self, known: set[str]) -> int:
        """Delete the files of earlier processes that no message names; how many there were. Blocking; once.

        Those of this one are left alone.  What has another kind of name than ours is not ours and stays.
        """
        new = self._new
        if new is None:
            return 0
        try:
            swept = [
                entry.name
                for entry in os.scandir(self.folder)
                if _NAME.fullmatch(entry.name)
                and entry.is_file(follow_symlinks=False)
                and entry.name not in known
                and entry.name not in new  # its name was noted before the file was made
            ]
            self.remove(swept)
        finally:
            self._new = None
        return len(swept)

    def named(self) -> str:
        """A name for a new file."""
        name, new = secrets.token_hex(16), self._new
        if new is not None:
            new.add(name)
        return name


class FileDraft:
    """A ContentDraft that becomes a file."""

    __slots__ = ("_chunks", "_file", "_held", "_name", "_spool", "size")

    def __init__(self, spool: FileSpool) -> None:
        self._spool = spool
        self._chunks: list[bytes] = []
        self._held = 0
        self._file: int | None = None
        self._name: str | None = None
        self.size = 0

    def add(self, chunk: bytes) -> bool:
        """Append octets; True: call `drain` before adding more."""
        self._chunks.append(chunk)
        length = len(chunk)
        self._held += length
        self.size += length
        return self._held >= HIGH_WATER

    async def drain(self) -> None:
        """Write what is held to the spool file; the loop goes on meanwhile."""
        chunks, self._chunks, self._held = self._chunks, [], 0
        if chunks:
            await asyncio.to_thread(self._write, chunks)

    async def finish(self) -> Content:
        """The complete content; a spooled one is on disk and synced, its folder too, before this returns."""
        if self._file is None and self.size <= self._spool.inline_bytes:
            return Content(self.size, inline=b"".join(self._chunks))
        await asyncio.to_thread(self._sync)
        name, self._name = self._name, None  # from here on the file belongs to whoever accepts the content
        return Content(self.size, spool=name)

    def discard(self) -> None:
        """Forget the content, remove its file. Idempotent, and of no effect on what `finish` returned."""
        self._chunks.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._name is not None:
            self._spool.path(self._name).unlink(missing_ok=True)
            self._name = None

    def _write(self, chunks: list[bytes]) -> None:
        try:
            if self._file is None:
                name = self._spool.named()
                self._file = os.open(self._spool.path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                self._name = name
            view = memoryview(b"".join(chunks))
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise _storage_error(error) from error

    def _sync(self) -> None:
        if self._chunks:
            chunks, self._chunks, self._held = self._chunks, [], 0
            self._write(chunks)
        assert self._file is not None
        try:
            os.fdatasync(self._file)
            _sync_folder(self._spool.folder)
        except OSError as error:
            raise _storage_error(error) from error
        finally:
            os.close(self._file)
            self._file = None


def _storage_error(error: OSError) -> StorageFull | StorageFailed:
    return StorageFull(str(error)) if error.errno in _FULL else StorageFailed(str(error))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
