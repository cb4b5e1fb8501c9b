"""How long every page of the console takes with a full store, while mail is relayed, and how much it weighs.

One visit after the other (`warm`), for who comes rarely (`cold`), and the very first after a start (`first`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx

from benchmarks.console_stand import (
    OWNER,
    OWNER_PASSWORD,
    browser,
    console_pid,
    fill_store,
    furnish,
    loaded,
    placed,
    signed_in,
    started_again,
    worked_ms,
)
from relay.mail.ids import format_id
from tests.browser.stand import Stand

# Where people come in: each round begins with the next of them.
ENTRANCES = (
    *("/", "/queue", "/accounts", "/senders", "/overview/live", "/find?q=user77@77.example.org"),
    *("/log", "/queue/{middle}", "/system", "/accounts/app1@example.com"),
)
PAGES = (
    *ENTRANCES,
    *("/overview/minutes", "/accounts/new", "/accounts/new?provider=m365", "/mail/app1@example.com", "/me"),
    *("/senders?which=app1@example.com", "/clients", "/clients?address=127.0.0.1&sender=app1@example.com"),
    *("/users", "/profile", "/again?next=/profile"),
    *("/queue/waits", "/queue?after={middle}/0", "/queue?state=deferred", "/queue?state=held", "/queue?state=bounced"),
    *("/queue?state=relayed", "/queue?state=relayed&after={middle}/0", "/queue?account=app1@example.com"),
    *("/queue?recipient=*@7.example.org", "/queue?recipient=nobody@example.net", "/queue?sender=app7@example.com"),
    *("/queue?state=relayed&recipient=nobody@example.net", "/queue?client=10.0.0.7", "/queue?older_than=23h"),
    *("/find?q=app1@example.com", "/find?q={middle}", "/find?q=<77@app.example>", "/find?q=nobody@example.net"),
    *("/rejected", "/audit", "/audit?since=1h", "/notices", "/notices?account=app1@example.com"),
    *("/system/check", "/system/check?login=true", "/explain", "/explain?reply=550+5.1.1+no", "/nowhere"),
    *("/api/v1/overview", "/api/v1/accounts", "/api/v1/senders", "/api/v1/clients", "/api/v1/queue"),
    *("/api/v1/queue?state=relayed", "/api/v1/queue/summary", "/api/v1/queue/{middle}", "/api/v1/notices"),
    *("/api/v1/audit", "/api/v1/keys", "/api/v1/nodes", "/api/v1/users", "/api/v1/tokens"),
)
OF_OWNER = ("/me", "/mail/app1@example.com", "/mail/app2@example.com", "/profile")
OF_NOBODY = ("/login", "{invitation}", "/oauth/callback?code=x&state=y", "/healthz", "/readyz", "/metrics")
AFTER_CHANGE = ("/", "/queue", "/accounts")  # when nothing may be shown that was found before it
REST_S = 10.0  # between two visits of one who comes rarely
_LINKED = re.compile(r'(?:href|src)="(/static/[^"]+)"')


@dataclass
class Times:
    """Of one page, in ms. `cpu`: what daemon and console worked during each of the warm visits, mail included.

    `octets`: of the page, with all that it links to as it stands on the disk.
    """

    warm: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    octets: int = 0


def p95(each: Sequence[float]) -> float:
    """The 95th percentile; with few values the largest."""
    return sorted(each)[min(len(each) - 1, int(len(each) * 0.95))]


class Visitors:
    """An administrator, an owner of two mailboxes, somebody who is not signed in: each with a browser."""

    def __init__(self, stand: Stand, admin: httpx.AsyncClient, owner: httpx.AsyncClient, nobody: httpx.AsyncClient):
        self._stand = stand
        self._webs = {"": admin, "owner": owner, "nobody": nobody}
        self._linked: dict[str, int] = {}

    async def visit(self, name: str) -> tuple[float, int]:
        """Milliseconds and octets of a page by its name: `[WHO: ]PATH[ after a change]`."""
        who, path, changed = parted(name)
        if changed:
            await self._stand.act("account.set", account="app2@example.com", per_minute=30)
        web = self._webs[who]
        began = time.monotonic()
        answer = await web.get(path)
        took = (time.monotonic() - began) * 1000
        assert answer.status_code in (200, 303, 404), (name, answer.status_code, answer.text[:500])
        octets = len(answer.content)
        for linked in set(_LINKED.findall(answer.text)):
            if linked not in self._linked:
                self._linked[linked] = len((await web.get(linked)).content)
            octets += self._linked[linked]
        return took, octets

    def moved(self, base: str) -> None:
        """The console is elsewhere now; whoever has a cookie keeps it."""
        for web in self._webs.values():
            web.base_url = httpx.URL(base)


def parted(name: str) -> tuple[str, str, bool]:
    """Who, the path, and whether something is changed before."""
    who, _, rest = name.rpartition(": ") if ": " in name else ("", "", name)
    path = rest.removesuffix(" after a change")
    return who, path, path != rest


def names() -> list[str]:
    """All that are visited, `{middle}` where an id belongs, `{invitation}` where the path of one."""
    others = [*(f"owner: {page}" for page in OF_OWNER), *(f"nobody: {page}" for page in OF_NOBODY)]
    return [*PAGES, *others, *(f"{page} after a change" for page in AFTER_CHANGE)]


async def measure(messages: int, times: int, visits: int, starts: int, per_s: float) -> Mapping[str, Times]:
    """Every page `times` times at once, `visits` times at rests, and once after each of `starts`.

    Meanwhile `per_s` messages are relayed.
    """
    async with AsyncExitStack() as stack:
        folder, site, stand, _ = await stack.enter_async_context(placed())
        await furnish(stand, site)
        middle = format_id(await asyncio.to_thread(fill_store, folder / "stand" / "data" / "relay.db", messages))
        invitation = (await stand.act("user.invite", name="invited"))["path"]
        pages = [page.format(middle=middle, invitation=invitation) for page in names()]
        found = {page: Times() for page in pages}
        admin = await stack.enter_async_context(signed_in(stand))
        owner = await stack.enter_async_context(signed_in(stand, OWNER, OWNER_PASSWORD))
        visitors = Visitors(stand, admin, owner, await stack.enter_async_context(browser(stand)))
        for number in range(starts):
            await started_again(stand)
            visitors.moved(stand.base)
            async with loaded(stand, site.senders[:1], sessions=4, per_s=per_s):
                for page in _from(pages, number):
                    found[page].first.append((await visitors.visit(page))[0])
        async with loaded(stand, site.senders[:1], sessions=4, per_s=per_s):
            await _warm(visitors, found, times, (stand.daemon.pid, console_pid(stand.daemon.pid)))
            for number in range(visits):
                began = time.monotonic()
                for page in _from(pages, number):
                    found[page].cold.append((await visitors.visit(page))[0])
                await asyncio.sleep(max(0.0, REST_S - (time.monotonic() - began)))
    return found


async def _warm(visitors: Visitors, found: Mapping[str, Times], times: int, pids: Sequence[int]) -> None:
    for number in range(times + 1):
        for page, each in found.items():
            before = worked_ms(pids)
            took, octets = await visitors.visit(page)
            each.octets = max(each.octets, octets)
            if number:
                each.warm.append(took)
                each.cpu.append(worked_ms(pids) - before)


def _from(pages: Sequence[str], number: int) -> list[str]:
    """In another order each time: the next of the entrances first."""
    first = number % len(ENTRANCES)
    return [*pages[first:], *pages[:first]]
