"""How fast an account may send: a token bucket for messages a minute, a sliding day for recipients."""

from __future__ import annotations

from collections import deque

_BUCKET_S = 3600  # the day slides in steps of an hour


class Pace:
    """Messages a minute, evenly, with a small burst. Times are seconds on a monotonic clock."""

    def __init__(self, per_minute: int, *, now: float) -> None:
        """`per_minute` 0: no limit. The burst is a tenth of a minute's messages, at least one."""
        self._rate = per_minute / 60
        self._burst = max(1.0, per_minute / 10)
        self._tokens = self._burst
        self._at = now

    def wait_s(self, now: float) -> float:
        """Seconds until the next message may go; 0: now."""
        if not self._rate:
            return 0.0
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate

    def restore(self, lately: int) -> None:
        """So many messages went in the last minute through another process: the burst is what they left of it."""
        if self._rate:
            self._tokens = max(0.0, min(self._tokens, self._rate * 60 - lately))

    def spend(self) -> None:
        """A message goes now; `wait_s` was 0."""
        if self._rate:
            self._tokens -= 1


class Quota:
    """Recipients in a sliding day, counted by the hour. Times are seconds since 1970."""

    def __init__(self, per_day: int) -> None:
        """`per_day` 0: no limit."""
        self._limit = per_day
        self._hours: deque[list[int]] = deque()  # [hour number since 1970, recipients]
        self._used = 0

    def wait_s(self, recipients: int, now: float) -> float:
        """Seconds until so many more recipients fit; 0: now. More than a whole day's quota count as one day's."""
        if not self._limit:
            return 0.0
        hour = int(now // _BUCKET_S)
        while self._hours and self._hours[0][0] <= hour - 24:
            self._used -= self._hours.popleft()[1]
        excess = self._used + min(recipients, self._limit) - self._limit
        if excess <= 0:
            return 0.0
        for oldest, count in self._hours:
            excess -= count
            if excess <= 0:
                return (oldest + 24) * _BUCKET_S - now
        return 0.0

    def left(self, now: float) -> int:
        """Recipients that fit now; below 0 after one that was larger than a day's. Only where there is a limit."""
        self.wait_s(1, now)  # lets go of what is a day old
        return self._limit - self._used

    def by_hour(self) -> dict[int, int]:
        """What counts right now (hour number since 1970: recipients)."""
        return {entry[0]: entry[1] for entry in self._hours}

    def spend(self, recipients: int, now: float) -> None:
        """So many recipients were accepted upstream."""
        if self._limit:
            hour = int(now // _BUCKET_S)
            if not self._hours or self._hours[-1][0] != hour:
                self._hours.append([hour, 0])
            self._hours[-1][1] += recipients
            self._used += recipients

    def restore(self, history: dict[int, int]) -> None:
        """Count what was relayed before this process started (hour number: recipients), besides what it did since."""
        merged = dict(history)
        for hour, counted in self._hours:
            merged[hour] = max(counted, merged.get(hour, 0))
        self._hours = deque([hour, counted] for hour, counted in sorted(merged.items()))
        self._used = sum(counted for _, counted in self._hours)
