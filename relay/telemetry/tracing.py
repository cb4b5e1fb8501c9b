"""One trace for each message: spans that the rooms leave here, bounded, until somebody sends them on.

All spans of a message have one trace id, made of the message's own id: what one process accepted and another
delivers after a restart is one trace, and nothing has to be stored for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from relay.telemetry.counters import count

MOST_WAITING = 8192  # spans; beyond it new ones are dropped, and counted


class Step(NamedTuple):
    """A part of a span, from the end of the step before it to `ended_ns`."""

    name: str
    ended_ns: int


@dataclass(slots=True)
class Span:
    """What was done to one message; times are nanoseconds since 1970, UTC.

    `facts` by name: never content, subject or a secret.  `root`: the acceptance, under which all others stand.
    `orphan`: nobody accepted it by a front door, it is mail of our own.  `error`: why it came to nothing.
    """

    name: str
    message_id: int
    header_message_id: str
    began_ns: int
    ended_ns: int
    facts: dict[str, str | int | bool]
    steps: Sequence[Step] = ()
    root: bool = False
    orphan: bool = False
    error: str = ""


def ids_of(message_id: int, header_message_id: str) -> bytes:
    """16 octets of trace id and 8 of its first span's: of the message alone, and of no other relay's message."""
    return blake2b(f"{message_id} {header_message_id}".encode("utf-8", "replace"), digest_size=24).digest()


def trace_id(message_id: int, header_message_id: str) -> str:
    """The trace of a message as tracing tools show it: 32 hexadecimal digits."""
    return ids_of(message_id, header_message_id)[:16].hex()


class Tracer:
    """Where spans wait. `add` never waits; `take` may be called by another thread."""

    def __init__(self, *, ratio: float, addresses: bool, most: int = MOST_WAITING) -> None:
        self.addresses = addresses  # spans may hold mail addresses, and replies that quote them
        self._threshold = int(ratio * (1 << 64))
        self._most = most
        self._waiting: deque[Span] = deque()

    def wants(self, message_id: int, header_message_id: str) -> bool:
        """Is this message one that is traced? The same answer in every process."""
        if self._threshold >> 64:
            return True
        return int.from_bytes(ids_of(message_id, header_message_id)[:8]) < self._threshold

    def add(self, span: Span) -> None:
        """Have it sent; when too many wait it is dropped."""
        if len(self._waiting) >= self._most:
            count("relay_traces_dropped_total", reason="queue")
        else:
            self._waiting.append(span)

    def take(self, most: int) -> list[Span]:
        """Up to `most` of those that wait, the oldest first."""
        taken: list[Span] = []
        try:
            while len(taken) < most:
                taken.append(self._waiting.popleft())
        except IndexError:
            pass
        return taken


current: Tracer | None = None  # of this process, as its counters are; None: nothing is traced
