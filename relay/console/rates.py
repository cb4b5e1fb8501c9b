"""Counts requests by address: whoever asks too much waits, and the relay does not notice."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

_MOST_ADDRESSES = 10_000  # the least recently seen goes
_BURST_S = 15.0  # what an address may spend at once, in time at its rate


class Rates:
    """`per_minute` requests an address (IPv6: a /64, which one machine may fill), some of them at once.

    `clock`: seconds that never go back.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._each_s, self._clock = 60.0 / per_minute, clock
        self._spent_until: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Count a request; 0: it may pass, else it counts not and may come again after so many seconds."""
        key, now = _key(address), self._clock()
        until = max(self._spent_until.get(key, now), now) + self._each_s
        if until - now > _BURST_S + self._each_s:
            return max(1, math.ceil(until - now - _BURST_S - self._each_s))
        self._spent_until[key] = until
        self._spent_until.move_to_end(key)
        while len(self._spent_until) > _MOST_ADDRESSES:
            self._spent_until.popitem(last=False)
        return 0


def _key(address: str) -> str:
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if not isinstance(known, IPv6Address):
        return str(known)
    return str(known.ipv4_mapped or ip_network((known, 64), strict=False))
