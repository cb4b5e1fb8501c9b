"""Remembers the latest refusals of the front door, so that a mail that was never accepted can be found."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

_KEPT = 1000
_LONGEST = 320  # characters of an address; a reply and a remedy are ours
_RECIPIENTS = 5


class Rejection(NamedTuple):
    """One no of ours. `recipients`: those known by then; a MAIL that was refused never got so far."""

    at_ms: int  # since 1970
    client: str
    host: str
    sender: str
    recipients: tuple[str, ...]
    code: int
    status: str
    reply: str
    remedy: str


_kept: deque[Rejection] = deque(maxlen=_KEPT)


def remember(
    client: str, host: str, sender: str, recipients: Iterable[str], code: int, status: str, reply: str, remedy: str
) -> None:
    """Keep it, in memory alone: whoever is refused must not be able to fill a disk."""
    shown = tuple(recipient[:_LONGEST] for recipient in islice(recipients, _RECIPIENTS))
    now_ms = time.time_ns() // 1_000_000
    _kept.append(Rejection(now_ms, client, host, sender[:_LONGEST], shown, code, status, reply, remedy))


def rejections() -> list[Rejection]:
    """The last 1,000 of this process, newest first."""
    return list(reversed(_kept))
