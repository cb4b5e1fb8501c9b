"""When what waits for an account will be gone, at its pace and quota: arithmetic, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from relay.dispatch.pace import Quota

_HOUR_S = 3600.0
_HORIZON_S = 90 * 86_400.0
_SAME_S = 1.0  # ends that are this close are the same


class Waiting(NamedTuple):
    """`messages` that are due at `due_s` (seconds since 1970), with so many recipients each."""

    due_s: float
    recipients: int
    messages: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Of an account. 0: no limit."""

    per_minute: int  # messages
    per_day: int  # recipients in a sliding day
    recipients_per_transaction: int = 100


@dataclass(frozen=True, slots=True)
class Forecast:
    """`end_s`: when the last message goes (seconds since 1970); None: later than anybody can say.

    `limited_by`: what the end is owed to: quota, pace, retry (some is due later), rest, or nothing of ours.
    """

    end_s: float | None
    limited_by: str


def forecast(
    waiting: Iterable[Waiting], limits: Limits, *, now_s: float, rests_until_s: float = 0.0, sent: Mapping[int, int]
) -> Forecast:
    """`sent`: recipients of the last day by hour number since 1970, as Quota counts them.

    Taken for granted: the upstream takes everything at the first try and as fast as it may be sent, and nothing new
    comes.  So it is never later than what happens, but for mail that is removed.
    """
    load = [part for each in sorted(waiting) if each.messages for part in _split(each, limits)]
    if not load:
        return Forecast(now_s, "nothing")
    start = max(now_s, rests_until_s)
    last_due = max(each.due_s for each in load)
    free = max(start, last_due)
    paced = _end(load, limits.per_minute, 0, start, {})
    end = _end(load, limits.per_minute, limits.per_day, start, sent)
    if end is None or paced is None:
        return Forecast(end, "pace" if paced is None else "quota")
    for limit, later, earlier in (
        ("quota", end, paced),
        ("pace", paced, free),
        ("retry", last_due, start),
        ("rest", start, now_s),
    ):
        if later > earlier + _SAME_S:
            return Forecast(end, limit)
    return Forecast(end, "nothing")


def quota_free_at(recipients: int, per_day: int, *, now_s: float, sent: Mapping[int, int]) -> float | None:
    """When so many recipients fit into the quota again; None: now."""
    quota = Quota(per_day)
    quota.restore(dict(sent))
    wait = quota.wait_s(recipients, now_s)
    return now_s + wait if wait > 0 else None


def _split(each: Waiting, limits: Limits) -> list[Waiting]:
    """A message to more recipients than one transaction takes is several, for the pace."""
    most = limits.recipients_per_transaction
    if not most or each.recipients <= most:
        return [each]
    whole, rest = divmod(each.recipients, most)
    parts = [Waiting(each.due_s, most, each.messages * whole)]
    return [*parts, Waiting(each.due_s, rest, each.messages)] if rest else parts


def _end(load: list[Waiting], per_minute: int, per_day: int, start_s: float, sent: Mapping[int, int]) -> float | None:
    """When the last one goes, by the rules of `pace`, many messages a step: never across the end of an hour."""
    clock = _Clock(start_s, per_minute)
    quota = Quota(per_day)
    quota.restore(dict(sent))
    for due_s, recipients, messages in load:
        clock.until(due_s)
        while messages:
            if clock.now_s > start_s + _HORIZON_S:
                return None
            wait = quota.wait_s(recipients, clock.now_s)
            if wait > 0:
                clock.until(clock.now_s + wait)
                continue
            fitting = messages
            if per_day:
                fitting = max(1, quota.left(clock.now_s) // min(recipients, per_day))
            going = clock.send(min(messages, fitting))
            if going:
                quota.spend(going * recipients, clock.now_s)
                messages -= going
    return clock.now_s


class _Clock:
    """A time that passes as messages go: a token bucket that begins full, as `Pace` has it."""

    def __init__(self, now_s: float, per_minute: int) -> None:
        self.now_s = now_s
        self._rate = per_minute / 60
        self._burst = self._tokens = max(1.0, per_minute / 10)

    def until(self, at_s: float) -> None:
        """Nothing goes before then."""
        if at_s > self.now_s:
            self._tokens = min(self._burst, self._tokens + (at_s - self.now_s) * self._rate)
            self.now_s = at_s

    def send(self, messages: int) -> int:
        """Up to so many go, the time moves to the last of them; how many it were before the hour ended."""
        if not self._rate:
            return messages
        hour_ends = (self.now_s // _HOUR_S + 1) * _HOUR_S
        going = min(messages, int(self._tokens + (hour_ends - self.now_s) * self._rate - 1e-9))
        if not going:
            self.until(max(hour_ends, self.now_s + (1 - self._tokens) / self._rate))
            return 0
        wait = max(0.0, going - self._tokens) / self._rate
        self._tokens = max(0.0, self._tokens + wait * self._rate - going)
        self.now_s += wait
        return going
