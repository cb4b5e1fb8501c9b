"""What open consoles cost the mail: short slices of one daemon's life with and without them, in the order A B B A.

A console here is a client that asks for what the open page asks for, as often, with the tag of what it shows, as
console.js has it: it draws nothing, so a browser's own work is not measured.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks.console_stand import console_pid, loaded, placed, signed_in, worked_ms
from benchmarks.upstream import Site
from tests.browser.stand import Stand

# What an open page asks for, and every how many seconds: overview.html and chart.js, queue.html, log.html.
OPEN = (
    (("/overview/live", 3.0), ("/overview/minutes", 15.0)),
    (("/queue/waits", 5.0),),
    (("/log", 3.0),),
)
OFFERED_PER_S = 300.0
_TURN = (False, True, True, False)  # one block: what drifts evenly meets both alike
_SETTLE_S = 0.4  # of each slice, not counted: what began in the slice before it ends
_RESAMPLES = 10_000
_WITHIN = 0.95


class Cost(NamedTuple):
    """Milliseconds of a processor in each second."""

    daemon: float
    console: float


class Slice(NamedTuple):
    """`rate`: messages that the upstream took, a second."""

    opened: bool
    rate: float
    cost: Cost


@dataclass
class Found:
    """Blocks of four slices each: as fast as it goes (`blocks`), and at a fixed offered rate (`offered`)."""

    blocks: list[list[Slice]] = field(default_factory=list)
    offered: list[list[Slice]] = field(default_factory=list)

    def rate(self, opened: bool) -> float:
        """Messages a second, median of the slices."""
        return statistics.median(one.rate for block in self.blocks for one in block if one.opened is opened)

    def losses(self) -> list[float]:
        """The share of messages a second that the consoles cost, by block."""
        return [1 - _mean(block, True) / _mean(block, False) for block in self.blocks]

    def more_work(self) -> list[float]:
        """The share by which the daemon works longer for a message, by block: less shaken by neighbours than rates."""
        return [1 - _work(block, False) / _work(block, True) for block in self.blocks]

    def cost(self, opened: bool) -> Cost:
        """Of what is offered at a fixed rate; medians of the slices."""
        costs = [one.cost for block in self.offered for one in block if one.opened is opened]
        return Cost(*map(statistics.median, zip(*costs, strict=True)))

    def share(self) -> float:
        """What the consoles take of the one processor that the daemon can use: so much less is left for mail."""
        return (self.cost(True).daemon - self.cost(False).daemon) / 1000


def _mean(block: Sequence[Slice], opened: bool) -> float:
    return statistics.fmean(one.rate for one in block if one.opened is opened)


def _work(block: Sequence[Slice], opened: bool) -> float:
    """Milliseconds of the daemon for a message."""
    theirs = [one for one in block if one.opened is opened]
    return sum(one.cost.daemon for one in theirs) / sum(one.rate for one in theirs)


def interval(values: Sequence[float], within: float = _WITHIN) -> tuple[float, float]:
    """Where the median is, with that confidence: percentiles of the medians of resamples (bootstrap)."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    aside = (1 - within) / 2
    return medians[int(aside * _RESAMPLES)], medians[int((1 - aside) * _RESAMPLES) - 1]


def decided(values: Sequence[float], bar: float) -> bool:
    """The interval lies on one side of the bar."""
    low, high = interval(values)
    return high < bar or low >= bar


async def measure(count: int, blocks: int, most: int, slice_s: float, bar: float) -> Found:
    """`blocks` blocks, up to `most` as long as it is not decided on which side of `bar` the loss lies."""
    found = Found()
    async with AsyncExitStack() as stack:
        _, site, stand, upstream = await stack.enter_async_context(placed())
        await _furnish(stand, site)
        webs = [await stack.enter_async_context(signed_in(stand)) for _ in range(count)]
        viewers = await stack.enter_async_context(_viewing(webs))
        counter = Taken(upstream.ledger)
        async with loaded(stand, site.senders, sessions=10):
            await _slice(stand, viewers, counter, True, slice_s)  # not counted: everything is warm after it
            while len(found.blocks) < blocks or (len(found.blocks) < most and not decided(found.losses(), bar)):
                found.blocks.append(await _block(stand, viewers, counter, slice_s, len(found.blocks)))
        async with loaded(stand, site.senders, sessions=10, per_s=OFFERED_PER_S):
            for number in range(max(2, blocks // 4)):
                found.offered.append(await _block(stand, viewers, counter, slice_s, number))
    return found


async def _block(stand: Stand, viewers: Viewers, counter: Taken, slice_s: float, number: int) -> list[Slice]:
    turn = _TURN if number % 2 == 0 else [not opened for opened in _TURN]
    return [await _slice(stand, viewers, counter, opened, slice_s) for opened in turn]


async def _slice(stand: Stand, viewers: Viewers, counter: Taken, opened: bool, slice_s: float) -> Slice:
    pids = stand.daemon.pid, console_pid(stand.daemon.pid)
    viewers.show(opened)
    await asyncio.sleep(_SETTLE_S)
    counter.more()
    worked, began = [worked_ms([pid]) for pid in pids], time.monotonic()
    await asyncio.sleep(slice_s)
    taken, passed_s = counter.more(), time.monotonic() - began
    cost = Cost(*((worked_ms([pid]) - before) / passed_s for pid, before in zip(pids, worked, strict=True)))
    del stand.daemon.events[:]  # thousands a second
    return Slice(opened, taken / passed_s, cost)


class Taken:
    """Counts what the upstream took, by the lines of its ledger."""

    def __init__(self, ledger: Path) -> None:
        self._ledger, self._read = ledger, 0

    def more(self) -> int:
        """So many since it was last asked."""
        with self._ledger.open("rb") as ledger:
            ledger.seek(self._read)
            new = ledger.read()
        self._read += len(new)
        return new.count(b"\n")


class Viewers:
    """Open pages, one for each of `webs`, each with its own times to ask; nobody asks while they are hidden."""

    def __init__(self, webs: Sequence[httpx.AsyncClient]) -> None:
        self._webs = webs
        self._shown = False
        self.asked = 0

    def show(self, shown: bool) -> None:
        """Or hide all of them."""
        self._shown = shown

    def timetable(self) -> list[Coroutine[None, None, None]]:
        """What is to run for each thing that a page asks for."""
        return [
            self._ask(web, path, each_s, each_s * number / len(self._webs))
            for number, web in enumerate(self._webs)
            for path, each_s in OPEN[number % len(OPEN)]
        ]

    async def _ask(self, web: httpx.AsyncClient, path: str, each_s: float, first_s: float) -> None:
        tag = ""
        due = time.monotonic() + first_s
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += each_s
            if not self._shown:
                continue
            answer = await web.get(path, headers={"hx-request": "true", **({"if-none-match": tag} if tag else {})})
            assert answer.status_code in (200, 304), answer.text[:500]
            tag = answer.headers.get("etag", "")
            self.asked += 1


@asynccontextmanager
async def _viewing(webs: Sequence[httpx.AsyncClient]) -> AsyncIterator[Viewers]:
    viewers = Viewers(webs)
    async with asyncio.TaskGroup() as asking:
        tasks = [asking.create_task(ask) for ask in viewers.timetable()]
        yield viewers
        for task in tasks:
            task.cancel()
    if not viewers.asked:
        raise RuntimeError("no console asked for anything")


async def _furnish(stand: Stand, site: Site) -> None:
    limits = {"max_connections": 3, "per_minute": 0, "per_day": 0}
    where = {"host": "localhost", "port": site.port, "trust": str(site.certificates.ca)}
    for address, password in site.accounts.items():
        await stand.act("account.add", address=address, password=password, **where, **limits)
