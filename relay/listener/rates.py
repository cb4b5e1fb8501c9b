"""What each client entry may still send now: messages and recipients a minute, octets a day."""

from __future__ import annotations

import time
from collections.abc import Callable, Container

from relay.accounts.model import Client

_MINUTE_S = 60.0
_HOUR_S = 3600.0
_HOURS = 24
_MOST_CLIENTS = 65_536  # entries of clients with limits; the oldest gives way


class _Bucket:
    """Tokens that come back evenly, `limit` of them in a minute; never more than `limit` at once."""

    __slots__ = ("_at_s", "_tokens")

    def __init__(self, limit: int, now_s: float) -> None:
        self._tokens = float(limit)
        self._at_s = now_s

    def take(self, limit: int, now_s: float) -> bool:
        tokens = min(limit, self._tokens + max(0.0, now_s - self._at_s) * limit / _MINUTE_S)
        self._at_s = now_s
        taken = tokens >= 1.0
        self._tokens = tokens - 1.0 if taken else tokens
        return taken


class _Day:
    """Octets by the hour: an amount counts for 23 to 24 hours."""

    __slots__ = ("_bins", "_hour", "total")

    def __init__(self, now_s: float) -> None:
        self._bins = [0] * _HOURS
        self._hour = int(now_s // _HOUR_S)
        self.total = 0

    def advance(self, now_s: float) -> None:
        """Forget what is older than a day."""
        hour = int(now_s // _HOUR_S)
        if hour == self._hour:
            return
        for passed in range(max(self._hour + 1, hour - _HOURS + 1), hour + 1):
            self.total -= self._bins[passed % _HOURS]
            self._bins[passed % _HOURS] = 0
        self._hour = max(self._hour, hour)

    def add(self, octets: int, at_s: float) -> None:
        hour = int(at_s // _HOUR_S)
        if self._hour - _HOURS < hour <= self._hour:
            self._bins[hour % _HOURS] += octets
            self.total += octets


class _Use:
    __slots__ = ("day", "messages", "recipients")

    def __init__(self) -> None:
        self.messages: _Bucket | None = None
        self.recipients: _Bucket | None = None
        self.day: _Day | None = None


class Rates:
    """One for all doors. Kept in memory alone: a restart begins with full buckets, and with the day it is told of.

    The limits are read from the entry at each call, so that a changed one counts at once.  A client without limits
    leaves nothing here.  `clock`: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def message(self, client: Client) -> bool:
        """Spend one message; False: the minute's are spent."""
        limit = client.messages_per_minute
        if not limit:
            return True
        use, now_s = self._use(client), self._clock()
        if use.messages is None:
            use.messages = _Bucket(limit, now_s)
        return use.messages.take(limit, now_s)

    def recipient(self, client: Client) -> bool:
        """Spend one recipient; False: the minute's are spent."""
        limit = client.recipients_per_minute
        if not limit:
            return True
        use, now_s = self._use(client), self._clock()
        if use.recipients is None:
            use.recipients = _Bucket(limit, now_s)
        return use.recipients.take(limit, now_s)

    def fits(self, client: Client, octets: int) -> bool:
        """Has the day room for `octets` more? Spends nothing. With the day full nothing fits, 0 octets included."""
        limit = client.bytes_per_day
        if not limit:
            return True
        day = self._day(client)
        return day.total < limit and day.total + octets <= limit

    def spend(self, client: Client, octets: int) -> None:
        """Count what was accepted."""
        self.remember(client, octets, 0.0)

    def remember(self, client: Client, octets: int, age_s: float) -> None:
        """Count what was accepted `age_s` seconds ago, be it by an earlier process."""
        if client.bytes_per_day:
            self._day(client).add(octets, self._clock() - max(0.0, age_s))

    def forget(self, known: Container[str]) -> None:
        """Drop what is kept of clients whose names are not in `known`."""
        for name in [name for name in self._uses if name not in known]:
            del self._uses[name]

    def _use(self, client: Client) -> _Use:
        use = self._uses.get(client.name)
        if use is None:
            if len(self._uses) >= _MOST_CLIENTS:
                del self._uses[next(iter(self._uses))]
            use = self._uses[client.name] = _Use()
        return use

    def _day(self, client: Client) -> _Day:
        use, now_s = self._use(client), self._clock()
        if use.day is None:
            use.day = _Day(now_s)
        use.day.advance(now_s)
        return use.day
