"""Message ids: 63-bit integers, increasing in time, shown as 13 lower-case base32 characters."""

from __future__ import annotations

import time
from collections.abc import Callable

_EPOCH_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32: no i, l, o, u
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_LENGTH = 13  # 13 x 5 bits hold 63
NODES = 1024  # that make ids at the same time


class IdSource:
    """Makes ids: 41 bits of milliseconds, 10 bits of node number, 12 bits of counter.

    Ids never repeat within a store as long as `after` is the largest id it holds: a clock that was set
    back only makes ids run ahead of the clock.  Not thread-safe: one per event loop.
    """

    def __init__(self, *, node: int = 0, after: int = 0, clock: Callable[[], float] = time.time) -> None:
        if not 0 <= node < NODES:
            raise ValueError("node number must be in 0..1023")
        self._node = node
        self._clock = clock
        self._last_tick = (after >> 22) + 1 if after else 0
        self._counter = 0

    def next(self) -> int:
        """A new id, greater than every id this source has made."""
        tick = int(self._clock() * 1000) - _EPOCH_MS
        if tick > self._last_tick:
            self._last_tick, self._counter = tick, 0
        else:
            self._counter += 1
            if self._counter == 4096:
                self._last_tick, self._counter = self._last_tick + 1, 0
        return (self._last_tick << 22) | (self._node << 12) | self._counter


def first_id_at(ms: int) -> int:
    """The smallest id that can have been made at this time (ms since 1970) or later; 0 before all, the last after."""
    return min(max(0, ms - _EPOCH_MS) << 22, (1 << 63) - 1)


def format_id(number: int) -> str:
    """The 13 characters people see for an id."""
    pairs = _PAIRS
    return (
        f"{_ALPHABET[number >> 60]}{pairs[number >> 50 & 1023]}{pairs[number >> 40 & 1023]}"
        f"{pairs[number >> 30 & 1023]}{pairs[number >> 20 & 1023]}{pairs[number >> 10 & 1023]}{pairs[number & 1023]}"
    )


def parse_id(text: str) -> int | None:
    """The id that `text` shows, or None when it is not one; case and O/0, I/L/1 confusions forgiven."""
    text = text.strip().lower().replace("o", "0").replace("i", "1").replace("l", "1")
    if len(text) != _LENGTH or any(character not in _VALUES for character in text):
        return None
    number = 0
    for character in text:
        number = number << 5 | _VALUES[character]
    return number if number < 1 << 63 else None
