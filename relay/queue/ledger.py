"""Which messages are in their final dot right now, in a page the kernel keeps when the process is killed.

Marking costs one store to mapped memory, so it is done for every message.  After `kill -9` the page still says
exactly whose dots were out; after a power cut or a reboot (the boot id differs) it says nothing, and every
message that was in memory may be a duplicate.  Accounts that hold what is in doubt get a durable mark as well.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_SLOTS = 8192  # messages in their dot, or waiting for the commit that settles them
_HEADER = 64  # octets: the boot id
_ID = struct.Struct("<q")


class LedgerFull(Exception):
    """More messages in their dot than slots: the caller waits for commits first."""


class DotLedger:
    """A file of slots, one message id each; 0 is free."""

    def __init__(self, path: Path) -> None:
        size = _HEADER + _SLOTS * _ID.size
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, size)  # a hole would be a SIGBUS on a full disk
            self._page = mmap.mmap(handle, size)
        finally:
            os.close(handle)
        self._free = list(range(_SLOTS - 1, -1, -1))

    def interrupted(self) -> set[int] | None:
        """The ids whose dot was out when the last process ended; None: nobody knows.

        Nobody does after a restart of the machine, nor when the page is new or was never written back.
        """
        return self.out() if self._page[:_HEADER].rstrip(b"\0") == _boot_id() else None

    def out(self) -> set[int]:
        """The ids whose dot is out right now, or whose outcome is not durable yet. From any thread."""
        ids = struct.unpack_from(f"<{_SLOTS}q", self._page, _HEADER)
        return {number for number in ids if number}

    def clear(self) -> None:
        """Begin a new life: no dot is out."""
        self._page[:] = _boot_id().ljust(_HEADER, b"\0") + bytes(_SLOTS * _ID.size)

    def mark(self, message_id: int) -> int:
        """The dot of this message goes out next; returns the slot to clear once its outcome is durable."""
        if not self._free:
            raise LedgerFull
        slot = self._free.pop()
        _ID.pack_into(self._page, _HEADER + slot * _ID.size, message_id)
        return slot

    def unmark(self, slot: int) -> None:
        """The outcome is durable, or the dot never went out."""
        _ID.pack_into(self._page, _HEADER + slot * _ID.size, 0)
        self._free.append(slot)

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()


def _boot_id() -> bytes:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:_HEADER]
    except OSError:
        return b"unknown"
