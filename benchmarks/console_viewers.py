"""What open consoles cost the mail: messages a second, and processor time a message, with them and without, in turn.

A console here is a client that asks for what the open page asks for, as often, with the tag of what it shows, as
console.js has it: it draws nothing, so a browser's own work is not measured.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks.console_pages import console_pid, placed, signed_in
from benchmarks.gauge import TICK
from benchmarks.upstream import Site
from tests.browser.stand import Stand

# What an open page asks for, and every how many seconds: overview.html and chart.js, queue.html, log.html.
OPEN = (
    (("/overview/live", 3.0), ("/overview/minutes", 15.0)),
    (("/queue/waits", 5.0),),
    (("/log", 3.0),),
)
OFFERED_PER_S = 300.0
_SETTLE_S = 0.5
_PATIENCE_S = 30.0  # for what is accepted to be relayed


class Cost(NamedTuple):
    """Processor seconds for 1,000 messages."""

    daemon: float
    console: float


@dataclass
class Found:
    """By run: `rates` in messages a second, `costs` at a fixed offered rate; index 0 without, 1 with open consoles."""

    rates: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    costs: tuple[list[Cost], list[Cost]] = field(default_factory=lambda: ([], []))

    def lost(self) -> float:
        """The share of messages a second that the consoles cost: median of the runs in turn."""
        return statistics.median(1 - some / none for none, some in zip(*self.rates, strict=True))

    def cost(self, opened: bool) -> Cost:
        """Medians."""
        return Cost(*map(statistics.median, zip(*self.costs[opened], strict=True)))

    def share(self) -> float:
        """What the consoles take of the one processor that the daemon can use: so much less is left for mail."""
        return (self.cost(True).daemon - self.cost(False).daemon) * OFFERED_PER_S / 1000


async def measure(count: int, messages: int, rounds: int, offered_s: float) -> Found:
    """`rounds` pairs of runs as fast as it goes, then as many at OFFERED_PER_S for `offered_s` each."""
    found = Found()
    async with AsyncExitStack() as stack:
        _, site, stand = await stack.enter_async_context(placed())
        await _furnish(stand, site)
        webs = [await stack.enter_async_context(signed_in(stand)) for _ in range(count)]
        pids = stand.daemon.pid, console_pid(stand.daemon.pid)
        await _relayed(stand, site.senders, messages, "warm")
        for number in range(rounds):
            for opened in _turns(number):
                async with _open(webs if opened else []):
                    found.rates[opened].append(await _relayed(stand, site.senders, messages, f"r{number}{opened:d}"))
        offered = int(OFFERED_PER_S * offered_s)
        for number in range(rounds):
            for opened in _turns(number):
                async with _open(webs if opened else []):
                    before = [_cpu_s(pid) for pid in pids]
                    await _relayed(stand, site.senders, offered, f"o{number}{opened:d}", OFFERED_PER_S)
                    used = [(_cpu_s(pid) - since) * 1000 / offered for pid, since in zip(pids, before, strict=True)]
                    found.costs[opened].append(Cost(*used))
    return found


def _turns(number: int) -> tuple[bool, bool]:
    """Who is first changes."""
    return (False, True) if number % 2 else (True, False)


async def _furnish(stand: Stand, site: Site) -> None:
    limits = {"max_connections": 3, "per_minute": 0, "per_day": 0}
    where = {"host": "localhost", "port": site.port, "trust": str(site.certificates.ca)}
    for address, password in site.accounts.items():
        await stand.act("account.add", address=address, password=password, **where, **limits)


@asynccontextmanager
async def _open(webs: Sequence[httpx.AsyncClient]) -> AsyncIterator[None]:
    """The pages in turn, one for each of `webs`, each from another moment on."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as asking:
        for number, web in enumerate(webs):
            for path, each_s in OPEN[number % len(OPEN)]:
                asking.create_task(_ask(web, path, each_s, stop, each_s * number / len(webs)))
        await asyncio.sleep(_SETTLE_S)
        yield
        stop.set()


async def _ask(web: httpx.AsyncClient, path: str, each_s: float, stop: asyncio.Event, first_s: float) -> None:
    tag, wait_s = "", first_s
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), wait_s)
        except TimeoutError:
            answer = await web.get(path, headers={"hx-request": "true", **({"if-none-match": tag} if tag else {})})
            assert answer.status_code in (200, 304), answer.text[:500]
            tag = answer.headers.get("etag", "")
        wait_s = each_s


async def _relayed(stand: Stand, senders: Sequence[str], messages: int, tag: str, per_s: float = 0.0) -> float:
    """Messages a second from the first MAIL to the last delivery."""
    seen = len(stand.daemon.events)
    began = time.monotonic()
    load = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load", "--port", str(stand.daemon.port), "--sessions", "10"),
        *("--messages", str(messages), "--tag", tag, "--per-s", str(per_s), *senders),
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    sent = json.loads((await load.communicate())[0])
    assert len(sent["accepted"]) == messages, sent["refused"][:3]
    async with asyncio.timeout(_PATIENCE_S):
        while sum(event.get("event") == "delivery.relayed" for event in stand.daemon.events[seen:]) < messages:
            await asyncio.sleep(0.02)
    del stand.daemon.events[:]
    return messages / (time.monotonic() - began - _started_s(sent, began))


def _started_s(sent: dict[str, float], began: float) -> float:
    """What the load's own process took to start; its clock is ours."""
    return sent["first"] - began


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICK
