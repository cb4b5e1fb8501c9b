"""The administrator's first page: what flows, what waits, which accounts need somebody; live."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from relay.console.pages.callers import Administrator, SignedIn
from relay.console.pages.render import page

router = APIRouter(include_in_schema=False)


@router.get("/")
async def overview(request: Request, caller: SignedIn) -> Response:
    """An owner's first page is another."""
    if caller.owner:
        return RedirectResponse("/me", 303)
    return page(request, "overview.html", caller=caller, seen=await caller.call("overview"))


@router.get("/overview/live")
async def live(request: Request, caller: Administrator) -> Response:
    """The part that is asked for again every few seconds."""
    return page(request, "overview_live.html", caller=caller, seen=await caller.call("overview"))


@router.get("/overview/minutes")
async def minutes(caller: Administrator) -> JSONResponse:
    """Columns for the chart: times (s), accepted, relayed, deferred, bounced a minute."""
    seen: list[list[Any]] = (await caller.call("overview"))["minutes"]
    return JSONResponse([list(column) for column in zip(*(minute[:5] for minute in seen), strict=True)])
