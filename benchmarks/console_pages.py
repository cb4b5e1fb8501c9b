"""How long every page of the console takes with a full store, while mail is relayed: warm, and for who comes rarely."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.scenarios import BY_NAME
from benchmarks.upstream import Site, Upstream, make_site
from relay.mail.ids import format_id
from tests.browser.stand import ADMIN, ADMIN_PASSWORD, Stand, standing
from tests.bulk import fill
from tests.peers.postfix import free_port

PAGES = (
    *("/", "/overview/live", "/overview/minutes", "/accounts", "/accounts/app1@example.com", "/accounts/new"),
    *("/mail/app1@example.com", "/senders?which=app1@example.com", "/senders", "/clients", "/users", "/profile"),
    *("/queue", "/queue?after={middle}/0", "/queue?state=deferred", "/queue?state=held", "/queue?state=bounced"),
    *("/queue?state=relayed", "/queue?state=relayed&after={middle}/0", "/queue?account=app1@example.com"),
    *("/queue?recipient=*@7.example.org", "/queue?recipient=nobody@example.net", "/queue?sender=app7@example.com"),
    *("/queue?state=relayed&recipient=nobody@example.net", "/queue?client=10.0.0.7", "/queue?older_than=23h"),
    *("/queue/{middle}", "/find?q=user77@77.example.org", "/find?q=app1@example.com", "/find?q={middle}"),
    *("/find?q=<77@app.example>", "/find?q=nobody@example.net"),
    *("/log", "/audit", "/audit?since=1h", "/notices", "/explain?reply=550+5.1.1+no", "/system"),
    *("/api/v1/overview", "/api/v1/accounts", "/api/v1/senders", "/api/v1/clients", "/api/v1/queue"),
    *("/api/v1/queue?state=relayed", "/api/v1/queue/summary", "/api/v1/queue/{middle}", "/api/v1/notices"),
)
AUDITED = 2_000  # lines in the audit trail, and as many notices
REST_S = 10.0  # between two visits of one who comes rarely


@dataclass
class Times:
    """Of one page, in ms. `cpu`: what daemon and console worked during each of the warm visits, mail included."""

    warm: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)


def p95(each: Sequence[float]) -> float:
    """The 95th percentile; with few values the largest."""
    return sorted(each)[min(len(each) - 1, int(len(each) * 0.95))]


@asynccontextmanager
async def signed_in(stand: Stand) -> AsyncIterator[httpx.AsyncClient]:
    """A browser's worth of cookies."""
    async with httpx.AsyncClient(base_url=stand.base, trust_env=False, timeout=60) as web:
        answer = await web.post("/login", data={"username": ADMIN, "password": ADMIN_PASSWORD})
        assert answer.status_code == 303
        yield web


@asynccontextmanager
async def placed() -> AsyncIterator[tuple[Path, Site, Stand]]:
    """An upstream, and a relay with its console before it; the folder in which both are, the relay in `stand`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in ("site", "stand"):  # each has an authority of its own
            (folder / part).mkdir()
        site = make_site(folder / "site")
        upstream = Upstream(site, next(iter(BY_NAME.values())), folder / "ledger")
        try:
            async with standing(folder / "stand") as stand:
                yield folder, site, stand
        finally:
            upstream.stop()


async def measure(messages: int, times: int, visits: int, per_s: float) -> dict[str, Times]:
    """Time every page `times` times at once and `visits` times at rests, with `per_s` messages relayed meanwhile."""
    async with AsyncExitStack() as stack:
        folder, site, stand = await stack.enter_async_context(placed())
        await _furnish(stand, site)
        middle = await asyncio.to_thread(_fill, folder / "stand" / "data" / "relay.db", messages)
        pages = [page.format(middle=format_id(middle)) for page in PAGES]
        found = {page: Times() for page in pages}
        web = await stack.enter_async_context(signed_in(stand))
        pids = stand.daemon.pid, console_pid(stand.daemon.pid)
        async with _relaying(stand, site, per_s):
            for number in range(times + 1):
                for page in pages:
                    before = _worked_ms(pids)
                    took = await _visit(web, page)
                    if number:
                        found[page].warm.append(took)
                        found[page].cpu.append(_worked_ms(pids) - before)
            for number in range(visits):
                began = time.monotonic()
                for page in pages[number % len(pages) :] + pages[: number % len(pages)]:
                    found[page].cold.append(await _visit(web, page))
                await asyncio.sleep(max(0.0, REST_S - (time.monotonic() - began)))
    return found


async def _visit(web: httpx.AsyncClient, page: str) -> float:
    began = time.monotonic()
    answer = await web.get(page)
    took = (time.monotonic() - began) * 1000
    assert answer.status_code in (200, 303, 404), (page, answer.status_code, answer.text[:500])
    return took


async def _furnish(stand: Stand, site: Site) -> None:
    """Ten accounts that owe mail, half of them suspended and half without an upstream; an eleventh that works."""
    nowhere = {"host": "localhost", "port": free_port(), "password": "x", "per_minute": 30}
    for number in range(1, 11):
        address = f"app{number}@example.com"
        await stand.act("account.add", address=address, **nowhere)
        if number % 2:
            await stand.act("account.suspend", account=address)
    trust = str(site.certificates.ca)
    address, password = next(iter(site.accounts.items()))
    where = {"host": "localhost", "port": site.port, "trust": trust, "per_minute": 0, "per_day": 0}
    await stand.act("account.add", address=address, password=password, **where)


def _fill(path: Path, messages: int) -> int:
    """The id of a message in the middle; what is deferred is due in the next four hours."""
    fill(path, messages)
    now = time.time_ns() // 1_000_000
    store = sqlite3.connect(path)
    with store:
        store.execute(
            "UPDATE deliveries SET due_at = ? + (message_id >> 10) % 14400000 WHERE state = 'deferred'", (now + 60_000,)
        )
        store.executemany(
            "INSERT INTO audit (at, actor, action, target, detail) VALUES (?, 'admin', 'account.set', ?, '{}')",
            [(now - number, f"app{number % 10 + 1}@example.com") for number in range(AUDITED)],
        )
        store.executemany(
            "INSERT INTO notices (at, kind, account_id, about, channel, recipient, outcome, detail)"
            " VALUES (?, 'trouble', ?, 'x', 'mail', 'a@example.com', 'queued', '')",
            [(now - number, number % 10 + 1) for number in range(AUDITED)],
        )
    middle = store.execute(
        "SELECT message_id FROM deliveries WHERE settled_at IS NULL LIMIT 1 OFFSET ?", (messages // 4,)
    ).fetchone()
    store.close()
    return int(middle[0])


@asynccontextmanager
async def _relaying(stand: Stand, site: Site, per_s: float) -> AsyncIterator[None]:
    """Mail comes and goes meanwhile."""
    load = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load", "--port", str(stand.daemon.port), "--sessions", "4"),
        *("--messages", "1000000", "--per-s", str(per_s), "--tag", "beside", site.senders[0]),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        load.kill()
        await load.wait()


def console_pid(daemon: int) -> int:
    """The process id of the console."""
    children = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
    return next(int(pid) for pid in children if b"relay.console" in Path(f"/proc/{pid}/cmdline").read_bytes())


def _worked_ms(pids: Sequence[int]) -> float:
    """What the threads of these processes had of a processor (proc(5): schedstat, ns)."""
    threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6
