"""One's own profile: password, second factor, passkeys, recovery codes."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.identity import Caller, forget_session, keep_session, origin, renewed
from relay.console.pages.asking import asking
from relay.console.pages.callers import Sent, SignedIn, Text
from relay.console.pages.render import page
from relay.console.problems import STATUS
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)

Secret = Annotated[str, Form(max_length=1024)]


@router.get("/profile")
async def profile(request: Request, caller: SignedIn) -> Response:
    """What one signs in with."""
    return await _profile(request, caller)


@router.post("/profile/password")
async def password(
    request: Request, caller: Sent, password: Secret, again: Secret, current: Secret = "", code: Secret = ""
) -> Response:
    """Set it; everybody who is signed in with the old one signs in again."""
    if password != again:
        return await _profile(request, caller, error=ControlError("the two differ", "type it again", "invalid"))
    proved = None
    try:
        if current:
            given = {"password": current, **({"code": code} if code else {})}
            proved = await caller.call("me.prove", given)
            caller = await renewed(request, proved)
        await caller.call("me.password", {"password": password})
    except ControlError as refusal:
        if refusal.kind == "proof" and not current:
            raise
        shown = await _profile(request, caller, error=refusal)
        if proved is not None:
            keep_session(request, shown, proved["session"], proved["lifetime_s"])
        return shown
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
        made = await caller.call("me.totp_finish", {"code": code})
    except ControlError as refusal:
        if refusal.kind == "proof":
            raise
        return await _profile(request, caller, error=refusal)
    return await _done(request, caller, made)


@router.post("/profile/recovery-codes")
async def recovery_codes(request: Request, caller: Sent, sure: Text = "") -> Response:
    """New ones, shown once."""
    if not sure:
        question = "Make ten new recovery codes? Those of before count no more."
        return asking(request, caller, question, {}, yes="Make them", back="/profile")
    return await _done(request, caller, await caller.call("me.recovery_codes"))


@router.post("/profile/passkeys")
async def begin_passkey(request: Request, caller: Sent) -> Response:
    """A page with what the browser is to ask an authenticator for; the rest is the browser's."""
    try:
        begun = await caller.call("me.passkey_begin", {"origin": origin(request)})
    except ControlError as refusal:
        if refusal.kind == "proof":
            raise
        return await _profile(request, caller, error=refusal)
    options = json.dumps(begun["options"])
    return page(request, "passkey_new.html", caller=caller, ceremony=begun["ceremony"], options=options)


@router.post("/profile/passkeys/add")
async def add_passkey(request: Request, caller: Sent, name: Text, ceremony: Secret, answer: Text) -> Response:
    """Register what the authenticator made."""
    try:
        made = await caller.call("me.passkey_finish", {"ceremony": ceremony, "answer": answer, "name": name})
    except ControlError as refusal:
        if refusal.kind == "proof":
            raise
        return await _profile(request, caller, error=refusal)
    return await _done(request, caller, made)


@router.post("/profile/passkeys/rename")
async def rename_passkey(caller: Sent, id: Text, name: Text) -> Response:
    """Call it something else."""
    await caller.call("me.passkey_rename", {"id": id, "name": name})
    return RedirectResponse("/profile", 303)


@router.post("/profile/passkeys/remove")
async def remove_passkey(request: Request, caller: Sent, id: Text, sure: Text = "") -> Response:
    """Nobody gets in with it any more."""
    if not sure:
        question = "Remove this passkey? Nobody signs in with it any more."
        return asking(request, caller, question, {"id": id}, yes="Remove it", back="/profile")
    await caller.call("me.passkey_remove", {"id": id})
    return RedirectResponse("/profile", 303)


async def _done(request: Request, caller: Caller, made: dict[str, Any]) -> Response:
    """The profile; recovery codes that were made are shown there, this once."""
    if not made["recovery_codes"]:
        return RedirectResponse("/profile", 303)
    return await _profile(request, caller, codes=made["recovery_codes"])


async def _profile(
    request: Request,
    caller: Caller,
    *,
    begun: dict[str, Any] | None = None,
    codes: list[str] | None = None,
    error: ControlError | None = None,
) -> Response:
    status = STATUS[error.kind] if error is not None else 200
    me = await caller.call("me")
    return page(request, "profile.html", caller=caller, status=status, me=me, begun=begun, codes=codes, error=error)


def _picture(uri: str) -> str:
    """The URI as a QR code, a data URI of an SVG."""
    import segno

    return segno.make(uri, error="m").svg_data_uri(scale=4, border=2, light="#fff")
