"""Signing in and out: login page, passkey, provider, invitation."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from relay.console.identity import (
    COOKIE,
    LONGEST_TOKEN,
    Caller,
    address_of,
    base_of,
    client_of,
    forget_session,
    keep_session,
    origin,
    require_csrf,
    signed_in,
)
from relay.console.pages.render import page
from relay.console.pages.shared import shared
from relay.console.problems import STATUS, with_retry_after
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)

OIDC_COOKIE = "relay_oidc"
OIDC_CALLBACK = "/login/oidc/callback"

Field = Annotated[str, Form(max_length=1024)]
Answer = Annotated[str, Form(max_length=16_384)]  # of an authenticator


@router.get("/login")
async def login_page(request: Request) -> Response:
    """The form; before there is an administrator, how to make one."""
    return await _login(request, None)


@router.post("/login")
async def login(request: Request, username: Field, password: Field, code: Field = "") -> Response:
    """A session, or the form again with why not."""
    arguments = {"username": username, "password": password, "code": code, "address": address_of(request)}
    try:
        opened = await client_of(request).call("console.login", arguments)
    except ControlError as refusal:
        return await _login(request, refusal, needs="code" if code else "", username=username[:254])
    if "needs" in opened:
        return await _login(request, None, needs=opened["needs"], username=username[:254])
    return await _entered(request, opened)


@router.post("/login/passkey/begin")
async def begin_passkey(request: Request) -> JSONResponse:
    """What the browser is to ask an authenticator for."""
    begun = await client_of(request).call(
        "console.passkey_begin", {"origin": origin(request), "address": address_of(request)}
    )
    return JSONResponse(begun)


@router.post("/login/passkey")
async def with_passkey(request: Request, ceremony: Field, answer: Answer) -> Response:
    """A session for whoever's passkey it is, or the form again with why not."""
    arguments = {"ceremony": ceremony, "answer": answer, "address": address_of(request)}
    try:
        opened = await client_of(request).call("console.passkey_login", arguments)
    except ControlError as refusal:
        return await _login(request, refusal)
    return await _entered(request, opened)


@router.post("/login/oidc")
async def to_provider(request: Request) -> Response:
    """Off to the OpenID provider; the browser keeps what proves that it began this."""
    redirect = f"{base_of(request)}{OIDC_CALLBACK}"
    try:
        begun = await client_of(request).call("console.oidc_begin", {"redirect": redirect})
    except ControlError as refusal:
        return await _login(request, refusal)
    return away(request, begun)


def away(request: Request, begun: dict[str, Any]) -> Response:
    """To the provider; Lax: the cookie has to come along when it sends the browser back."""
    leaving = page(request, "off.html", url=begun["url"], account="")
    leaving.set_cookie(
        OIDC_COOKIE, begun["browser"], max_age=600, path=OIDC_CALLBACK, httponly=True, samesite="lax",
        secure=request.app.state.secure,
    )  # fmt: skip
    return leaving


@router.get(OIDC_CALLBACK)
async def from_provider(request: Request) -> Response:
    """Back from it. The page in between makes the next request one of our own, which brings the session cookie."""
    arguments = {
        "answer": f"{base_of(request)}{OIDC_CALLBACK}?{request.url.query[:8192]}",
        "browser": request.cookies.get(OIDC_COOKIE, "")[:256],
        "address": address_of(request),
    }
    try:
        opened = await client_of(request).call("console.oidc_finish", arguments)
    except ControlError as refusal:
        return await _login(request, refusal)
    answer = page(request, "back.html", target=opened["back"] or ("/me" if opened["owner"] else "/"))
    answer.headers["referrer-policy"] = "no-referrer"
    answer.delete_cookie(OIDC_COOKIE, path=OIDC_CALLBACK)
    if not opened["back"]:
        await _end_former(request)
    keep_session(request, answer, str(opened["session"]), int(str(opened["lifetime_s"])))
    return answer


@router.get("/invite/{token}")
async def invitation_page(request: Request, token: str) -> Response:
    """Whose it is; pressing the button uses it up (a mail scanner that follows links does not)."""
    invited = await client_of(request).call(
        "console.invitation", {"token": token[:256], "address": address_of(request)}
    )
    shared(request).used()
    return page(request, "invite.html", name=invited["name"], token=token)


@router.post("/invite/{token}")
async def accept(request: Request, token: str) -> Response:
    """A session for whoever was invited."""
    return await _entered(
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


async def _login(request: Request, refusal: ControlError | None, *, needs: str = "", username: str = "") -> Response:
    """The page; while the relay does not answer it says so, and can be tried again."""
    ready = {"administrators": 1, "provider": "", "passkeys": False}
    shared(request).used()
    try:
        ready = await client_of(request).call("console.ready")
    except ControlError as silent:
        refusal = refusal or silent
    answer = page(
        request,
        "login.html",
        status=STATUS[refusal.kind] if refusal is not None else 200,
        needs=needs,
        username=username,
        error=refusal,
        administrators=ready["administrators"],
        provider=ready["provider"],
        passkeys=ready["passkeys"],
    )
    return with_retry_after(answer, refusal)


async def _end_former(request: Request) -> None:
    """Whoever signs in anew leaves the session that this browser had: nothing of it lives on."""
    former = request.cookies.get(COOKIE, "")
    if 0 < len(former) <= LONGEST_TOKEN:
        await client_of(request).call("console.logout", {"session": former})


async def _entered(request: Request, opened: dict[str, object]) -> Response:
    await _end_former(request)
    where = RedirectResponse("/me" if opened["owner"] else "/", 303)
    keep_session(request, where, str(opened["session"]), int(str(opened["lifetime_s"])))
    return where
