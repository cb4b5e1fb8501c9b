"""The administrator's first page: what flows, what waits, which accounts need somebody; live."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from relay.console.identity import Caller
from relay.console.pages.callers import Administrator, SignedIn
from relay.console.pages.render import page

router = APIRouter(include_in_schema=False)

_KEPT_S = 2.0


class Overviews:
    """The last overview: for all administrators the same, so that many open pages cost the daemon no more than one."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def now(self, caller: Caller) -> dict[str, Any]:
        """At most two seconds old; `caller` must be an administrator, which the daemon has said of this request."""
        async with self._asking:
            if time.monotonic() >= self._until:
                self._seen = await caller.call("overview")
                self._until = time.monotonic() + _KEPT_S
        return self._seen


@router.get("/")
async def overview(request: Request, caller: SignedIn) -> Response:
    """An owner's first page is another."""
    if caller.owner:
        return RedirectResponse("/me", 303)
    seen, summary = await _overviews(request).now(caller), await caller.call("queue.summary")
    return page(request, "overview.html", caller=caller, seen=seen, summary=summary)


@router.get("/overview/live")
async def live(request: Request, caller: Administrator) -> Response:
    """The part that is asked for again every few seconds."""
    return page(request, "overview_live.html", caller=caller, seen=await _overviews(request).now(caller))


@router.get("/overview/minutes")
async def minutes(request: Request, caller: Administrator) -> JSONResponse:
    """Columns for the chart: times (s), accepted, relayed, deferred, bounced a minute."""
    seen: list[list[Any]] = (await _overviews(request).now(caller))["minutes"]
    return JSONResponse([list(column) for column in zip(*(minute[:5] for minute in seen), strict=True)])


def _overviews(request: Request) -> Overviews:
    found = request.app.state.overviews
    assert isinstance(found, Overviews)
    return found
