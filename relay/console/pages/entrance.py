"""Signing in and out: login page, invitation, second factor."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.identity import (
    COOKIE,
    Caller,
    address_of,
    client_of,
    forget_session,
    keep_session,
    require_csrf,
    signed_in,
)
from relay.console.pages.render import page
from relay.console.problems import STATUS
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)

Field = Annotated[str, Form(max_length=1024)]


@router.get("/login")
async def login_page(request: Request) -> Response:
    """The form; before there is an administrator, how to make one."""
    ready = await client_of(request).call("console.ready")
    return page(request, "login.html", needs="", username="", error=None, administrators=ready["administrators"])


@router.post("/login")
async def login(request: Request, username: Field, password: Field, code: Field = "") -> Response:
    """A session, or the form again with why not."""
    arguments = {"username": username, "password": password, "code": code, "address": address_of(request)}
    try:
        opened = await client_of(request).call("console.login", arguments)
    except ControlError as refusal:
        return page(
            request,
            "login.html",
            status=STATUS[refusal.kind],
            needs="code" if code else "",
            username=username[:254],
            error=refusal,
            administrators=1,
        )
    if "needs" in opened:
        return page(request, "login.html", needs="code", username=username[:254], error=None, administrators=1)
    return _entered(request, opened)


@router.get("/invite/{token}")
async def invitation_page(request: Request, token: str) -> Response:
    """Whose it is; pressing the button uses it up (a mail scanner that follows links does not)."""
    invited = await client_of(request).call(
        "console.invitation", {"token": token[:256], "address": address_of(request)}
    )
    return page(request, "invite.html", name=invited["name"], token=token)


@router.post("/invite/{token}")
async def accept(request: Request, token: str) -> Response:
    """A session for whoever was invited."""
    return _entered(
        request, await client_of(request).call("console.accept", {"token": token[:256], "address": address_of(request)})
    )


@router.post("/logout")
async def logout(request: Request, caller: Annotated[Caller, Depends(signed_in)], csrf: Field) -> Response:
    """End the session."""
    require_csrf(caller, csrf)
    await client_of(request).call("console.logout", {"session": request.cookies[COOKIE]})
    left = RedirectResponse("/login", 303)
    forget_session(request, left)
    return left


def _entered(request: Request, opened: dict[str, object]) -> Response:
    where = RedirectResponse("/me" if opened["owner"] else "/", 303)
    keep_session(request, where, str(opened["session"]), int(str(opened["lifetime_s"])))
    return where
