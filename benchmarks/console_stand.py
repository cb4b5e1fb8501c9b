"""What the benchmarks of the console look at: a relay before an upstream, a store with a past, people signed in."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from benchmarks.scenarios import BY_NAME
from benchmarks.upstream import Site, Upstream, make_site
from tests.browser.stand import ADMIN, ADMIN_PASSWORD, Stand, standing
from tests.bulk import fill
from tests.peers.postfix import free_port

OWNER, OWNER_PASSWORD = "owner", "correct mare battery"  # of two mailboxes: app1, app2
AUDITED = 2_000  # lines in the audit trail, and as many notices
TOKENS = 20


@asynccontextmanager
async def placed() -> AsyncIterator[tuple[Path, Site, Stand, Upstream]]:
    """An upstream, and a relay with its console before it; the folder in which both are, the relay in `stand`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in ("site", "stand"):  # each has an authority of its own
            (folder / part).mkdir()
        site = make_site(folder / "site")
        upstream = Upstream(site, next(iter(BY_NAME.values())), folder / "ledger")
        try:
            # What the store is filled with would be told to be late all at once, not over its days.
            async with standing(folder / "stand", RELAY_DISPATCH__DELAY_NOTICE_S="0") as stand:
                yield folder, site, stand, upstream
        finally:
            upstream.stop()


def browser(stand: Stand) -> httpx.AsyncClient:
    """One that nobody has signed in with."""
    return httpx.AsyncClient(base_url=stand.base, trust_env=False, timeout=60)


@asynccontextmanager
async def signed_in(
    stand: Stand, name: str = ADMIN, password: str = ADMIN_PASSWORD
) -> AsyncIterator[httpx.AsyncClient]:
    """A browser's worth of cookies."""
    async with browser(stand) as web:
        answer = await web.post("/login", data={"username": name, "password": password})
        assert answer.status_code == 303
        yield web


async def started_again(stand: Stand) -> None:
    """Another process of the daemon and of the console; who was signed in still is."""
    await stand.daemon.stop()
    seen = len(stand.daemon.events)
    await stand.daemon.start()
    port = (await stand.daemon.event("console.started", since=seen, timeout_s=30))["port"]
    stand.base = f"http://127.0.0.1:{port}"


async def furnish(stand: Stand, site: Site) -> None:
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
    if address not in {sender["pattern"] for sender in await stand.act("sender.list")}:
        await stand.act("sender.add", pattern=address, account=address)
    mailboxes = ["app1@example.com", "app2@example.com"]
    await stand.act("user.add", name=OWNER, accounts=mailboxes, password=OWNER_PASSWORD)
    for number in range(TOKENS):
        await stand.act("token.add", name=f"program-{number}", scopes=["read"])


def fill_store(path: Path, messages: int) -> int:
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
async def loaded(stand: Stand, senders: Sequence[str], *, sessions: int, per_s: float = 0.0) -> AsyncIterator[None]:
    """Mail comes and goes meanwhile, so many a second; 0: as fast as it goes."""
    load = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load", "--port", str(stand.daemon.port), "--sessions", str(sessions)),
        *("--messages", "100000000", "--per-s", str(per_s), "--tag", "beside", *senders),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
        if load.returncode is not None:
            raise RuntimeError("the load ended before it was over")
    finally:
        if load.returncode is None:
            load.kill()
        await load.wait()


def console_pid(daemon: int) -> int:
    """The process id of the console."""
    children = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
    return next(int(pid) for pid in children if b"relay.console" in Path(f"/proc/{pid}/cmdline").read_bytes())


def worked_ms(pids: Sequence[int]) -> float:
    """What the threads of these processes had of a processor (proc(5): schedstat, ns)."""
    threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6
