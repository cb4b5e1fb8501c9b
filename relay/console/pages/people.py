"""People: who may sign in, tokens of programs; and one's own profile."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.identity import Caller, forget_session
from relay.console.pages.asking import asking
from relay.console.pages.callers import Administrator, Sent, SignedIn, Text
from relay.console.pages.render import page
from relay.console.problems import STATUS
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)

Secret = Annotated[str, Form(max_length=1024)]
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
    return page(request, "invited.html", caller=caller, made=made, url=f"{request.app.state.base}{made['path']}")


@router.post("/users/remove")
async def remove(request: Request, caller: Sent, name: Text, sure: Text = "") -> Response:
    """Remove a user."""
    if not sure:
        question = f"Remove {name}, and end their sessions?"
        return asking(request, caller, question, {"name": name}, yes="Remove them", back="/users")
    await caller.call("user.remove", {"name": name})
    return RedirectResponse("/users", 303)


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


@router.get("/profile")
async def profile(request: Request, caller: SignedIn) -> Response:
    """One's own password and second factor."""
    return await _profile(request, caller)


@router.post("/profile/password")
async def password(request: Request, caller: Sent, password: Secret, again: Secret) -> Response:
    """Set it; everybody who is signed in with the old one signs in again."""
    if password != again:
        return await _profile(request, caller, error=ControlError("the two differ", "type it again", "invalid"))
    try:
        await caller.call("me.password", {"password": password})
    except ControlError as refusal:
        return await _profile(request, caller, error=refusal)
    left = RedirectResponse("/login", 303)
    forget_session(request, left)
    return left


@router.post("/profile/second-factor")
async def second_factor(request: Request, caller: Sent, code: Text = "", remove: Text = "") -> Response:
    """Begin, finish or end it."""
    if remove:
        await caller.call("me.totp_remove")
        return RedirectResponse("/profile", 303)
    if not code:
        begun = await caller.call("me.totp_begin")
        return await _profile(request, caller, begun=begun | {"picture": _picture(begun["uri"])})
    try:
        await caller.call("me.totp_finish", {"code": code})
    except ControlError as refusal:
        return await _profile(request, caller, error=refusal)
    return RedirectResponse("/profile", 303)


async def _people(request: Request, caller: Caller, made: dict[str, Any] | None = None) -> Response:
    return page(
        request,
        "users.html",
        caller=caller,
        users=await caller.call("user.list"),
        tokens=await caller.call("token.list"),
        accounts=await caller.call("account.list"),
        scopes=SCOPES,
        made=made,
    )


async def _profile(
    request: Request, caller: Caller, *, begun: dict[str, Any] | None = None, error: ControlError | None = None
) -> Response:
    status = STATUS[error.kind] if error is not None else 200
    me = await caller.call("me")
    return page(request, "profile.html", caller=caller, status=status, me=me, begun=begun, error=error)


def _picture(uri: str) -> str:
    """The URI as a QR code, a data URI of an SVG."""
    import segno

    return segno.make(uri, error="m").svg_data_uri(scale=4, border=2, light="#fff")
