"""A clock of this machine that nobody sets."""

from __future__ import annotations

import time


def steady_ms() -> int:
    """Milliseconds since some moment, on a clock that nobody sets and that counts through suspension."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000
