"""When to try again: jittered exponential waits (RFC 5321 4.5.4.1). Pure."""

from __future__ import annotations


def backoff_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """The wait after the n-th failure in a row, before jitter: `first_s` doubled n-1 times, at most `longest_s`."""
    if failures < 1:
        return 0.0
    return min(first_s * 2.0 ** min(failures - 1, 30), longest_s)


def jittered(wait_s: float, chance: float) -> float:
    """Spread waits over 80 % to 120 %, so that what failed together does not come back together.

    `chance` is uniform in 0..1.
    """
    return wait_s * (0.8 + 0.4 * chance)
