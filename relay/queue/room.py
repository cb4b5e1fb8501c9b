"""Room on the device: accepting stops at a floor so that what was accepted can still be delivered and recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_GIB = 1 << 30


class Room:
    """Free space of the device that holds the store, asked of the system at most once a second."""

    def __init__(
        self,
        folder: Path,
        *,
        floor_bytes: int | None,
        max_message_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`floor_bytes` None: the larger of 1.5 x `max_message_bytes` and 5 % of the device, the latter up to 1 GiB."""
        self._folder = folder
        self._floor = floor_bytes
        self._max_message_bytes = max_message_bytes
        self._clock = clock
        self._asked_at = float("-inf")
        self.free_bytes = 0
        self.floor_bytes = 0

    def enough(self) -> bool:
        """Is there room for another message?"""
        now = self._clock()
        if now - self._asked_at >= 1.0:
            self._asked_at = now
            try:
                device = os.statvfs(self._folder)
            except OSError:
                self.free_bytes = 0
                self.floor_bytes = 1
                return False
            self.free_bytes = device.f_bavail * device.f_frsize
            self.floor_bytes = self._floor if self._floor is not None else self._default(device)
        return self.free_bytes >= self.floor_bytes

    def configure(self, *, floor_bytes: int | None, max_message_bytes: int) -> None:
        """Other numbers from now on, see the constructor."""
        self._floor, self._max_message_bytes = floor_bytes, max_message_bytes
        self.spent()

    def spent(self) -> None:
        """A write found no room: ask the system again before the next message."""
        self._asked_at = float("-inf")

    def _default(self, device: os.statvfs_result) -> int:
        twentieth = device.f_blocks * device.f_frsize // 20
        return max(self._max_message_bytes * 3 // 2, min(twentieth, _GIB))
