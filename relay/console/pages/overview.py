"""The administrator's first page: what flows, what waits, which accounts need somebody; live."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from relay.console.identity import Caller
from relay.console.pages.callers import Administrator, SignedIn
from relay.console.pages.render import page
from relay.console.pages.shared import Fragment, sent, shared

router = APIRouter(include_in_schema=False)


@router.get("/")
async def overview(request: Request, caller: SignedIn) -> Response:
    """An owner's first page is another."""
    if caller.owner:
        return RedirectResponse("/me", 303)
    return page(request, "overview.html", caller=caller, live=await _live(request, caller))


@router.get("/overview/live")
async def live(request: Request, caller: Administrator) -> Response:
    """The part that is asked for again every few seconds."""
    return sent(request, await _live(request, caller))


@router.get("/overview/minutes")
async def minutes(request: Request, caller: Administrator) -> JSONResponse:
    """Columns for the chart: times (s), accepted, relayed, deferred, bounced a minute."""
    seen: list[list[Any]] = (await shared(request).now(caller, "overview")).answer["minutes"]
    if len(seen) > 1:
        seen = seen[:-1]  # the last one has only begun: the lines would always end in a fall
    return JSONResponse([list(column) for column in zip(*(minute[:5] for minute in seen), strict=True)])


async def _live(request: Request, caller: Caller) -> Fragment:
    kept = shared(request)
    seen, since = await kept.now(caller, "overview")
    return kept.fragment("overview_live.html", seen=seen, since=since)
