"""What the clocks said last, in a file of the data folder: so that a clock set while nothing ran is noticed."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

SET_MS = 60_000  # a clock that moved so far from the time passed was set; less is what NTP does all day
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MOST_OCTETS = 1024


def uptime_ms() -> int:
    """Milliseconds since some moment, on a clock that nobody sets and that counts through suspension."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


def boot_id() -> str:
    """The kernel's name of this boot, within which readings of `uptime_ms` can be compared; "": it has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class ClockMark:
    """One per data folder. Times are ms: `wall` since 1970, `uptime` as `uptime_ms` has it."""

    def __init__(self, path: Path, boot: str) -> None:
        self._path, self._boot = path, boot

    def moved_ms(self, wall: int, uptime: int) -> int:
        """By how much the clock was set since the mark was kept, as far as that can be known; 0: not, or nobody knows.

        The machine ran on: exactly.  It was started anew: a clock behind the mark was set back by so much at least.
        Whether a clock that is ahead was set, or the machine was off for so long, cannot be told apart.
        """
        try:
            kept = json.loads(self._path.read_bytes()[:_MOST_OCTETS])
            boot, began, last = str(kept["boot"]), int(kept["began"]), int(kept["wall"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0  # there is none yet, or a crash tore it
        moved = wall - uptime - began if boot and boot == self._boot else min(0, wall - last)
        return moved if abs(moved) >= SET_MS else 0

    def keep(self, wall: int, uptime: int) -> None:
        """Write it down. A mark that is lost or old is no harm, so that nothing is synced and no failure matters."""
        kept = {"boot": self._boot, "began": wall - uptime, "wall": wall}
        beside = self._path.with_name(f"{self._path.name}.new")
        with contextlib.suppress(OSError):
            beside.write_text(json.dumps(kept))
            os.replace(beside, self._path)
