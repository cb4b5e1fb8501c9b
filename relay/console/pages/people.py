"""People: who may sign in, tokens of programs."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.identity import Caller, base_of
from relay.console.pages.asking import asking
from relay.console.pages.callers import Administrator, Sent, Text
from relay.console.pages.render import page

router = APIRouter(include_in_schema=False)

SCOPES = ("read", "queue", "accounts", "admin")


@router.get("/users")
async def users(request: Request, caller: Administrator) -> Response:
    """Everybody who may sign in, and the programs."""
    return await _people(request, caller)


@router.post("/users/invite")
async def invite(request: Request, caller: Sent, name: Text) -> Response:
    """A link that signs them in once."""
    mailboxes = [str(one) for one in (await request.form()).getlist("account")]
    made = await caller.call("user.invite", {"name": name, **({"accounts": mailboxes} if mailboxes else {})})
    return page(request, "invited.html", caller=caller, made=made, url=f"{base_of(request)}{made['path']}")


@router.post("/users/remove")
async def remove(request: Request, caller: Sent, name: Text, sure: Text = "") -> Response:
    """Remove a user."""
    if not sure:
        question = f"Remove {name}, and end their sessions?"
        return asking(request, caller, question, {"name": name}, yes="Remove them", back="/users")
    await caller.call("user.remove", {"name": name})
    return RedirectResponse("/users", 303)


@router.post("/users/second-factor")
async def reset_second_factor(request: Request, caller: Sent, name: Text, sure: Text = "") -> Response:
    """For whoever lost their phone, keys and recovery codes: they are signed out, and start anew."""
    if not sure:
        question = (
            f"Take the second factor from {name}? Codes, passkeys and recovery codes end, and they are signed out."
        )
        return asking(request, caller, question, {"name": name}, yes="Reset it", back="/users")
    reset = await caller.call("user.set", {"name": name, "reset_second_factor": True})
    return await _people(request, caller, reset=reset)


@router.post("/users/token")
async def token(request: Request, caller: Sent, name: Text) -> Response:
    """A token, shown once."""
    scopes = [str(one) for one in (await request.form()).getlist("scope")]
    made = await caller.call("token.add", {"name": name.strip(), "scopes": scopes})
    return await _people(request, caller, made=made)


@router.post("/users/revoke")
async def revoke(request: Request, caller: Sent, name: Text, sure: Text = "") -> Response:
    """End a token."""
    if not sure:
        return asking(request, caller, f"End the token {name}?", {"name": name}, yes="End it", back="/users")
    await caller.call("token.remove", {"name": name})
    return RedirectResponse("/users", 303)


async def _people(
    request: Request, caller: Caller, *, made: dict[str, Any] | None = None, reset: dict[str, Any] | None = None
) -> Response:
    users, tokens, accounts = await asyncio.gather(*map(caller.call, ("user.list", "token.list", "account.list")))
    return page(
        request,
        "users.html",
        caller=caller,
        users=users,
        tokens=tokens,
        accounts=accounts,
        scopes=SCOPES,
        made=made,
        reset=reset,
    )
