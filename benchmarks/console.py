"""`python -m benchmarks.console`: pages with a full store, and what ten open consoles cost the mail, in turn with none.

Prints one line a page (median and 95th percentile), then messages a second with and without consoles.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from benchmarks.scenarios import BY_NAME
from benchmarks.upstream import Upstream, make_site
from tests.browser.stand import ADMIN, ADMIN_PASSWORD, Stand, standing
from tests.bulk import fill

LIVE_S, CHART_S = 3.0, 15.0  # as the pages ask
PAGES = (
    *("/", "/overview/live", "/accounts", "/accounts/app1@example.com", "/queue", "/queue?state=relayed"),
    *("/queue?account=app1@example.com", "/queue?recipient=*@7.example.org", "/find?q=user77@77.example.org"),
    *("/senders", "/clients", "/log", "/users", "/system", "/audit", "/notices", "/profile"),
)


@asynccontextmanager
async def signed_in(stand: Stand) -> AsyncIterator[httpx.AsyncClient]:
    """A browser's worth of cookies."""
    async with httpx.AsyncClient(base_url=stand.base, trust_env=False, timeout=60) as web:
        answer = await web.post("/login", data={"username": ADMIN, "password": ADMIN_PASSWORD})
        assert answer.status_code == 303
        yield web


async def pages(messages: int, times: int) -> float:
    """Time every page `times` times, in turn; the worst 95th percentile in ms."""
    with tempfile.TemporaryDirectory() as name:
        async with standing(Path(name)) as stand:
            for number in range(1, 11):
                address = f"app{number}@example.com"
                await stand.act("account.add", address=address, host="mail.example.com", password="x")
                await stand.act("account.suspend", account=address)
            await asyncio.to_thread(fill, Path(name) / "data" / "relay.db", messages)
            took: dict[str, list[float]] = {page: [] for page in PAGES}
            async with signed_in(stand) as web:
                for round_ in range(times + 1):
                    for page in PAGES:
                        began = time.monotonic()
                        answer = await web.get(page)
                        assert answer.status_code in (200, 303), (page, answer.status_code)
                        if round_:
                            took[page].append((time.monotonic() - began) * 1000)
    worst = 0.0
    for page, each in took.items():
        p95 = statistics.quantiles(each, n=20)[18]
        worst = max(worst, p95)
        print(f"{page:42} median {statistics.median(each):6.1f} ms   p95 {p95:6.1f} ms", flush=True)
    return worst


async def open_console(stand: Stand, stop: asyncio.Event, *, log: bool) -> None:
    """What a page that stays open asks for: the overview with its chart, or the log."""
    async with signed_in(stand) as web:
        chart_at = 0.0
        while not stop.is_set():
            answer = await web.get("/log" if log else "/overview/live", headers={"hx-request": "true"})
            assert answer.status_code == 200
            if not log and time.monotonic() >= chart_at:
                await web.get("/overview/minutes")
                chart_at = time.monotonic() + CHART_S
            try:
                await asyncio.wait_for(stop.wait(), LIVE_S)
            except TimeoutError:
                pass


async def relaying(stand: Stand, senders: Sequence[str], messages: int, tag: str) -> float:
    """Messages a second from the first MAIL to the last delivery."""
    seen = len(stand.daemon.events)
    began = time.monotonic()
    load = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load", "--port", str(stand.daemon.port), "--sessions", "10"),
        *("--messages", str(messages), "--tag", tag, *senders),
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    sent = json.loads((await load.communicate())[0])
    assert len(sent["accepted"]) == messages, sent["refused"][:3]
    while sum(event.get("event") == "delivery.relayed" for event in stand.daemon.events[seen:]) < messages:
        await asyncio.sleep(0.02)
    return messages / (time.monotonic() - began)


async def consoles(count: int, messages: int, rounds: int) -> float:
    """The share of throughput that `count` open consoles cost, median of `rounds` in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site = make_site(folder)
        upstream = Upstream(site, next(iter(BY_NAME.values())), folder / "ledger")
        async with AsyncExitStack() as stack:
            stack.callback(upstream.stop)
            stand = await stack.enter_async_context(standing(folder))
            limits = {"max_connections": 3, "per_minute": 0, "per_day": 0}
            where = {"host": "localhost", "port": site.port, "trust": str(site.certificates.ca)}
            for address, password in site.accounts.items():
                await stand.act("account.add", address=address, password=password, **where, **limits)
            shares = []
            await relaying(stand, site.senders, messages, "warm")
            for number in range(rounds):
                rates = {}
                for opened in (False, True) if number % 2 else (True, False):
                    stop = asyncio.Event()
                    async with asyncio.TaskGroup() as open_pages:
                        for one in range(count if opened else 0):
                            open_pages.create_task(open_console(stand, stop, log=bool(one % 2)))
                        await asyncio.sleep(1 if opened else 0.2)
                        rates[opened] = await relaying(stand, site.senders, messages, f"r{number}{opened}")
                        stop.set()
                shares.append(1 - rates[True] / rates[False])
                print(f"none open {rates[False]:6.0f}/s   {count} open {rates[True]:6.0f}/s", flush=True)
    return statistics.median(shares)


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, help="in the store while pages are timed")
    parser.add_argument("--times", type=int, default=20, help="each page")
    parser.add_argument("--load", type=int, default=4000, help="messages of a run with or without consoles")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--consoles", type=int, default=10)
    arguments = parser.parse_args()
    worst = asyncio.run(pages(arguments.messages, arguments.times))
    print(f"worst p95 with {arguments.messages} messages: {worst:.1f} ms")
    cost = asyncio.run(consoles(arguments.consoles, arguments.load, arguments.rounds))
    print(f"{arguments.consoles} open consoles cost {cost * 100:.1f} % of the messages a second")


if __name__ == "__main__":
    main()
