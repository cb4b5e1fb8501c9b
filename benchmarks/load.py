"""The load: an application library's dialogue (no pipelining) in a closed loop, as a process of its own.

Sends, counts, and prints one JSON line (`Sent`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import uvloop

LINE = b"0123456789" * 7 + b"abcd\r\n"
RECIPIENT = b"rcpt@example.org"


@dataclass(frozen=True)
class Sent:
    """Times are the monotonic clock's. `accepted` holds the numbers of the messages that got their 250."""

    first: float
    last: float
    accepted: list[int]
    refused: list[str]
    p50_ms: float
    p99_ms: float
    cpu_s: float  # of this process, from first to last

    @property
    def per_s(self) -> float:
        """Messages accepted in a second."""
        return len(self.accepted) / (self.last - self.first)


@dataclass
class Load:
    """What all sessions share: the numbers left to send (`numbers`), and what came of them."""

    port: int
    messages: int
    size: int
    senders: list[bytes]
    tag: str
    per_s: float = 0.0  # offered, whatever the answers take; 0: each as soon as its session has the last one's 250

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.numbers = iter(range(self.messages))
        self.accepted: list[int] = []
        self.refused: list[str] = []
        self.took: list[float] = []
        self._filler = LINE * (self.size // len(LINE) + 1)

    def sender(self, number: int) -> bytes:
        """Envelope sender of a message."""
        return self.senders[number % len(self.senders)]

    def content(self, number: int) -> bytes:
        """The message in wire form, with its final dot; `size` octets without that."""
        head = (
            b"From: <%b>\r\nTo: <%b>\r\nSubject: load %d\r\nMessage-ID: <%b-%d@load.example>\r\n"
            b"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nX-Bench-Id: %b-%d\r\n\r\n"
        ) % (self.sender(number), RECIPIENT, number, self.tag.encode(), number, self.tag.encode(), number)
        return b"".join((head, self._filler[: self.size - len(head) - 2], b"\r\n.\r\n"))

    def wait_s(self, number: int) -> float:
        """Until a message is to be sent."""
        return self.began + number / self.per_s - time.monotonic() if self.per_s else 0.0

    def settle(self, number: int, reply: bytes, began: float) -> None:
        """Note the reply to a message's final dot, or the one that ended it sooner."""
        if reply[:3] == b"250":
            self.accepted.append(number)
            self.took.append(time.monotonic() - began)
        else:
            self.refused.append(reply[:200].decode("ascii", "replace").strip())


class Session(asyncio.Protocol):
    """One connection: greeting, EHLO, a message for each of `numbers`, QUIT. `done` is set when it is over.

    `began` is when the connection was asked for, if that is to count as part of the first message.
    """

    def __init__(self, load: Load, numbers: Iterator[int], began: float | None = None) -> None:
        self.load = load
        self.done = asyncio.get_running_loop().create_future()
        self._numbers = numbers
        self._number: int | None = None
        self._first_began = began
        self._began = 0.0
        self._buffer = b""
        self._steps: deque[tuple[bytes, bytes]] = deque([(b"EHLO load.example\r\n", b"250")])
        self._expected = b"220"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.load.refused.append(f"connection lost: {exc}")
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        last = data[:-2].rpartition(b"\r\n")[2]
        if not data.endswith(b"\r\n") or last[3:4] == b"-":
            self._buffer = data
            return
        self._buffer = b""
        self._step(last)

    def _step(self, reply: bytes) -> None:
        wrong = reply[:3] != self._expected
        if self._number is not None and (wrong or not self._steps):
            self.load.settle(self._number, reply, self._began)
            self._number = None
        elif wrong:
            self.load.refused.append(reply[:200].decode("ascii", "replace").strip())
        if wrong or self._expected == b"221":
            self._transport.close()
            self.done.set_result(None)
            return
        wait_s = 0.0
        if not self._steps:
            wait_s = self._begin()
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, self._say)
        else:
            self._say()

    def _say(self) -> None:
        line, self._expected = self._steps.popleft()
        self._transport.write(line)

    def _begin(self) -> float:
        """Put the next message's dialogue into `_steps`; how long to wait before it."""
        number = self._number = next(self._numbers, None)
        if number is None:
            self._steps.append((b"QUIT\r\n", b"221"))
            return 0.0
        wait_s = max(0.0, self.load.wait_s(number))
        self._began, self._first_began = self._first_began or time.monotonic() + wait_s, None
        self._steps.append((b"MAIL FROM:<%b>\r\n" % self.load.sender(number), b"250"))
        self._steps.append((b"RCPT TO:<%b>\r\n" % RECIPIENT, b"250"))
        self._steps.append((b"DATA\r\n", b"354"))
        self._steps.append((self.load.content(number), b"250"))
        return wait_s


async def _reuse(load: Load) -> None:
    loop = asyncio.get_running_loop()
    _, session = await loop.create_connection(lambda: Session(load, load.numbers), "127.0.0.1", load.port)
    await session.done


async def _fresh(load: Load) -> None:
    loop = asyncio.get_running_loop()
    for number in load.numbers:
        began = time.monotonic()
        _, session = await loop.create_connection(
            lambda number=number, began=began: Session(load, iter((number,)), began),  # type: ignore[misc]
            "127.0.0.1",
            load.port,
        )
        await session.done


async def send(load: Load, sessions: int, *, fresh: bool) -> Sent:
    """Send all of `load` over that many sessions at a time."""
    first, cpu_s = time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(sessions):
            group.create_task(_fresh(load) if fresh else _reuse(load))
    last = time.monotonic()
    took = sorted(load.took) or [math.nan]
    p50, p99 = (took[min(len(took) - 1, int(len(took) * share))] * 1000 for share in (0.5, 0.99))
    return Sent(first, last, load.accepted, load.refused, p50, p99, time.process_time() - cpu_s)


def main() -> None:
    """Send what the arguments say and print the outcome."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description="Closed-loop SMTP load")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--size", type=int, default=4096, help="octets")
    parser.add_argument("--fresh", action="store_true", help="a new connection for each message")
    parser.add_argument("--per-s", type=float, default=0.0, help="messages offered a second; 0: as fast as they go")
    parser.add_argument("--tag", default="load", help="X-Bench-Id is TAG-NUMBER")
    parser.add_argument("senders", nargs="+", help="envelope senders, used in turn")
    arguments = parser.parse_args()
    senders = [sender.encode() for sender in arguments.senders]
    load = Load(arguments.port, arguments.messages, arguments.size, senders, arguments.tag, arguments.per_s)
    sent = uvloop.run(send(load, arguments.sessions, fresh=arguments.fresh))
    print(json.dumps(asdict(sent)))


if __name__ == "__main__":
    main()
