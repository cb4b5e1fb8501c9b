"""Counts bad logins, by name and by address: who guesses waits."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

MOST = 10  # bad logins …
WINDOW_S = 600.0  # … in this time
_MAX_KEYS = 10_000  # the least recently used goes


class Attempts:
    """In memory: a restart forgives, which costs a guesser more than it gives. `clock`: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bad: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, *keys: str) -> float:
        """How long whoever has one of these keys must wait; 0: they may try now."""
        now = self._clock()
        return max((self._wait_s(key, now) for key in keys), default=0.0)

    def bad(self, *keys: str) -> None:
        """A login failed."""
        now = self._clock()
        for key in keys:
            tries = self._bad.setdefault(key, deque(maxlen=MOST))
            tries.append(now)
            self._bad.move_to_end(key)
        while len(self._bad) > _MAX_KEYS:
            self._bad.popitem(last=False)

    def good(self, *keys: str) -> None:
        """A login succeeded: what failed before under these keys counts no more."""
        for key in keys:
            self._bad.pop(key, None)

    def _wait_s(self, key: str, now: float) -> float:
        tries = self._bad.get(key)
        if tries is None or len(tries) < MOST:
            return 0.0
        return max(0.0, tries[0] + WINDOW_S - now)
