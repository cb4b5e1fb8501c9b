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

_KEPT_S = {"overview": 2.0, "queue.summary": 5.0}  # the latter reads all that waits


class Overviews:
    """The last answers that are the same for all administrators: many open pages cost the daemon no more than one."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, Any]] = {}
        self._until = dict.fromkeys(_KEPT_S, 0.0)
        self._asking = {action: asyncio.Lock() for action in _KEPT_S}

    async def now(self, caller: Caller, action: str = "overview") -> dict[str, Any]:
        """Some seconds old at most; `caller` must be an administrator, which the daemon has said of this request."""
        async with self._asking[action]:
            if time.monotonic() >= self._until[action]:
                self._seen[action] = await caller.call(action)
                self._until[action] = time.monotonic() + _KEPT_S[action]
        return self._seen[action]


@router.get("/")
async def overview(request: Request, caller: SignedIn) -> Response:
    """An owner's first page is another."""
    if caller.owner:
        return RedirectResponse("/me", 303)
    kept = overviews(request)
    seen, summary = await kept.now(caller), await kept.now(caller, "queue.summary")
    return page(request, "overview.html", caller=caller, seen=seen, summary=summary)


@router.get("/overview/live")
async def live(request: Request, caller: Administrator) -> Response:
    """The part that is asked for again every few seconds."""
    return page(request, "overview_live.html", caller=caller, seen=await overviews(request).now(caller))


@router.get("/overview/minutes")
async def minutes(request: Request, caller: Administrator) -> JSONResponse:
    """Columns for the chart: times (s), accepted, relayed, deferred, bounced a minute."""
    seen: list[list[Any]] = (await overviews(request).now(caller))["minutes"]
    return JSONResponse([list(column) for column in zip(*(minute[:5] for minute in seen), strict=True)])


def overviews(request: Request) -> Overviews:
    """Those of this process."""
    found = request.app.state.overviews
    assert isinstance(found, Overviews)
    return found
