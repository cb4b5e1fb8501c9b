"""Answers that are the same for every administrator: asked for once, drawn once, for however many pages are open."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup

from relay.console.identity import Caller
from relay.console.pages.render import drawn

# Action: how many seconds its answer serves, and its arguments.
_KEPT: Final[Mapping[str, tuple[float, Mapping[str, Any]]]] = {
    "overview": (2.0, {}),
    "queue.summary": (5.0, {}),  # looks at all that waits
    "log.tail": (2.0, {"limit": 200}),
}


class Fragment(NamedTuple):
    """A part of a page, and the tag that another one with the same text has, too."""

    text: Markup
    tag: str


@dataclass
class _Kept:
    answer: Any = None
    until_s: float = 0.0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Shared:
    """The last answers and what was drawn of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept = {action: _Kept() for action in _KEPT}
        self._drawn: dict[str, tuple[tuple[Any, ...], Fragment]] = {}

    async def now(self, caller: Caller, action: str) -> Any:
        """Some seconds old at most; `caller` must be an administrator, which the daemon has said of this request."""
        kept, (seconds, arguments) = self._kept[action], _KEPT[action]
        async with kept.asking:
            if self._clock() >= kept.until_s:
                kept.answer = await caller.call(action, arguments)
                kept.until_s = self._clock() + seconds
            return kept.answer

    def fragment(self, template: str, **facts: Any) -> Fragment:
        """`template` with these answers of `now` in it; drawn again only when one of them is another."""
        answers = tuple(facts.values())
        last = self._drawn.get(template)
        if last is not None and all(map(lambda old, new: old is new, last[0], answers)):
            return last[1]
        text = Markup(drawn(template, **facts))  # noqa: S704 - escaped already, by the template
        fragment = Fragment(text, f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"')
        self._drawn[template] = (answers, fragment)
        return fragment


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
