"""The system: its log, settings and where they came from, keys, audit trail, check."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.pages.callers import Administrator, Sent
from relay.console.pages.render import page, wants_fragment
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)


@router.get("/log")
async def log(request: Request, caller: Administrator) -> Response:
    """The last lines, live."""
    lines = await caller.call("log.tail", {"limit": 200})
    return page(request, "log_lines.html" if wants_fragment(request) else "log.html", caller=caller, lines=lines)


@router.get("/system")
async def system(request: Request, caller: Administrator) -> Response:
    """Settings, keys, nodes."""
    return page(
        request,
        "system.html",
        caller=caller,
        settings=await caller.call("settings.show"),
        keys=await caller.call("key.list"),
        nodes=await caller.call("node.list"),
        health=await caller.call("overview"),
    )


@router.post("/system/rotate")
async def rotate(caller: Sent) -> Response:
    """Seal every secret under the primary key, or a new one."""
    await caller.call("key.rotate")
    return RedirectResponse("/system", 303)


@router.get("/system/check")
async def check(request: Request, caller: Administrator, login: bool = False) -> Response:
    """Everything that can be looked at without sending mail."""
    return page(request, "check.html", caller=caller, lines=await caller.call("check", {"login": login}), login=login)


@router.get("/audit")
async def audit(request: Request, caller: Administrator, since: Annotated[str, Query(max_length=40)] = "") -> Response:
    """Who did what."""
    rows, refusal = [], None
    try:
        rows = await caller.call("audit", {"limit": 500, **({"since": since} if since else {})})
    except ControlError as error:
        refusal = error
    return page(request, "audit.html", caller=caller, rows=list(reversed(rows)), since=since, refusal=refusal)


@router.get("/explain")
async def explain(
    request: Request, caller: Administrator, reply: Annotated[str, Query(max_length=4096)] = ""
) -> Response:
    """What a reply means, who must act, and how."""
    found = await caller.call("explain", {"reply": reply}) if reply.strip() else None
    return page(request, "explain.html", caller=caller, reply=reply, found=found)
