"""Answers that are the same for every administrator: asked for once, drawn once, for however many pages are open."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup

from relay.console.identity import Caller
from relay.console.pages.render import drawn
from relay.control.client import ControlClient
from relay.control.refusal import ControlError

# Action: how many seconds its answer is as good as new, at least, and its arguments.
_KEPT: Final[Mapping[str, tuple[float, Mapping[str, Any]]]] = {
    "overview": (2.0, {"waits": True}),
    "log.tail": (2.0, {"limit": 200}),
    "health": (2.0, {}),
}
_WARM = "overview"  # looks at all that waits
_ANSWER_S = 30.0
_PATIENCE_S = 0.05  # a page waits so long for news, then shows what was known, and since when
# What took long serves long, so that open pages take 4 % of a processor at most, and rests long while nobody asks: 1 %.
_SERVES, _MOST_SERVES_S = 25, 30.0
_RESTS, _REST_S, _MOST_REST_S = 100, 10.0, 300.0


class Known(NamedTuple):
    """An answer of the daemon. `since_ms`: since 1970, when it was found out; None: now."""

    answer: Any
    since_ms: int | None


class Fragment(NamedTuple):
    """A part of a page, and the tag that another one with the same text has, too. `old`: newer figures are coming."""

    text: Markup
    tag: str
    old: bool = False


@dataclass
class _Kept:
    """The last answer to an action. `changes`: of the daemon; it knows of all up to there."""

    action: str
    answer: Any = None
    changes: int = -1
    asked_s: float = float("-inf")
    since_ms: int = 0
    took_s: float = 0.0
    asking: asyncio.Task[None] | None = None

    @property
    def serves_s(self) -> float:
        """So long it is as good as new."""
        return max(_KEPT[self.action][0], min(self.took_s * _SERVES, _MOST_SERVES_S))

    @property
    def rest_s(self) -> float:
        """Between two questions while nobody asks."""
        return min(max(_REST_S, self.took_s * _RESTS), _MOST_REST_S)


class Shared:
    """The last answers and what was drawn of them. `client` asks by the console's own right, for all alike.

    Nothing is shown that was found out before a change that whoever looks may know of (`Caller.changes`).
    """

    def __init__(
        self, client: ControlClient, *, idle_s: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._idle_s, self._clock = client, idle_s, clock
        self._kept = {action: _Kept(action) for action in _KEPT}
        self._drawn: dict[str, tuple[tuple[Any, ...], Fragment]] = {}
        self._used_s = clock()
        self._used = asyncio.Event()
        self._used.set()

    def used(self) -> None:
        """Somebody is here, or about to sign in."""
        self._used_s = self._clock()
        self._used.set()

    async def known(self, within_s: float) -> None:
        """The first figures are there, or that time is over."""
        await asyncio.wait((self._asked(self._kept[_WARM]),), timeout=within_s)

    async def keep(self, first_s: float) -> None:
        """Ask now and then while anybody may still be signed in, so that no page waits for a count; until cancelled.

        `first_s`: until it is tried again when there is no answer yet.
        """
        kept = self._kept[_WARM]
        while True:
            await self._used.wait()
            with contextlib.suppress(ControlError):
                await self._asked(kept)
            if self._clock() - self._used_s > self._idle_s:
                self._used.clear()
            await asyncio.sleep(kept.rest_s if kept.answer is not None else first_s)

    async def now(self, caller: Caller, action: str) -> Known:
        """The answer, or the last one while a new one takes longer than a page should.

        `caller` must be an administrator, which the daemon has said of this request.  Raises ControlError.
        """
        kept = self._kept[action]
        while True:
            knows, age_s = kept.changes >= caller.changes, self._clock() - kept.asked_s
            if knows and age_s < kept.serves_s:
                return Known(kept.answer, None)
            asking = self._asked(kept)
            if knows and age_s < 2 * kept.rest_s:
                await asyncio.wait((asking,), timeout=_PATIENCE_S)
                if not asking.done():
                    return Known(kept.answer, kept.since_ms)
            await asyncio.shield(asking)  # one that began before the last change may not know of it: then once more

    def fragment(self, template: str, **facts: Any) -> Fragment:
        """`template` with these answers of `now` in it; drawn again only when one of them is another."""
        answers = tuple(facts.values())
        last = self._drawn.get(template)
        if last is not None and all(map(lambda old, new: old is new, last[0], answers)):
            return last[1]
        text = Markup(drawn(template, **facts))  # noqa: S704 - escaped already, by the template
        tag = f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'
        fragment = Fragment(text, tag, old=facts.get("since") is not None)
        self._drawn[template] = (answers, fragment)
        return fragment

    def _asked(self, kept: _Kept) -> asyncio.Task[None]:
        """The question that is under way, or a new one."""
        if kept.asking is None or kept.asking.done():
            kept.asking = asyncio.create_task(self._ask(kept), name=f"asks for {kept.action}")
            kept.asking.add_done_callback(_looked_at)
        return kept.asking

    async def _ask(self, kept: _Kept) -> None:
        began_s, began_ms = self._clock(), time.time_ns() // 1_000_000
        answer = await self._client.ask(kept.action, _KEPT[kept.action][1], timeout_s=_ANSWER_S)
        kept.answer, kept.changes = answer
        kept.asked_s, kept.since_ms, kept.took_s = began_s, began_ms, self._clock() - began_s


def _looked_at(asking: asyncio.Task[None]) -> None:
    """Whoever waits for it is told what it was refused; often nobody does."""
    if not asking.cancelled():
        asking.exception()


def shared(request: Request) -> Shared:
    """Those of this process."""
    found = request.app.state.shared
    assert isinstance(found, Shared)
    return found


def sent(request: Request, fragment: Fragment) -> Response:
    """The part for a page that shows it already, or 304: it shows that very one (RFC 9110 13.1.2)."""
    headers = {"etag": fragment.tag}
    if request.headers.get("if-none-match") == fragment.tag:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(fragment.text, headers=headers)
