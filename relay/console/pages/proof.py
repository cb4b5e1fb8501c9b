"""Asks whoever is signed in to show again that it is them, then goes on with what they were about to do."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from relay.console.identity import (
    CSRF_FIELD,
    CSRF_HEADER,
    Caller,
    base_of,
    keep_session,
    origin,
    renewed,
    require_csrf,
    signed_in,
)
from relay.console.pages.callers import Sent, SignedIn
from relay.console.pages.entrance import OIDC_CALLBACK, away
from relay.console.pages.render import page
from relay.console.problems import STATUS
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)

Field = Annotated[str, Form(max_length=1024)]
Answer = Annotated[str, Form(max_length=16_384)]
_CARRIED = "with:"  # before the names of fields of the form that goes on
_SECRET = frozenset({"password", "again", "current", "code", "answer", "ceremony"})  # never rendered, so not carried
_FORMS = re.compile(  # of this console, nothing behind
    r"/(?:senders|clients|queue|(?:users|profile|system|accounts|senders|clients)"
    r"(?:/[A-Za-z0-9_~@+-][A-Za-z0-9._~@+-]*)+)"
)
_PAGES = ("/profile", "/users", "/system")
GOES_ON = "form"  # the value of `then`: the form that was held up, not the page it stands on


async def asked(request: Request, error: ControlError) -> Response:
    """The page that asks, in place of the form that was sent; its fields come along, but no secret."""
    caller = await signed_in(request)
    form = await request.form()
    sent = [(name, value) for name, value in form.multi_items() if isinstance(value, str) and name != CSRF_FIELD]
    target, carried = request.url.path, [(name, value) for name, value in sent if name not in _SECRET]
    if target == "/again":
        target, then = str(form.get("to", "")), str(form.get("then", ""))
        carried = [(name.removeprefix(_CARRIED), value) for name, value in carried if name.startswith(_CARRIED)]
        return await _question(request, caller, target, carried, then=then, error=error)
    typed = any(name in _SECRET and value for name, value in sent)
    return await _question(
        request, caller, _page_of(target) if typed else target, carried, then="" if typed else GOES_ON
    )


async def before(request: Request, caller: Caller, to: str) -> Response:
    """The same question before a form with a secret is filled in at all: nobody has to type that twice."""
    return await _question(request, caller, to, [], then="", status=200)


async def _question(
    request: Request,
    caller: Caller,
    to: str,
    carried: list[tuple[str, str]],
    *,
    then: str,
    error: ControlError | None = None,
    status: int = STATUS["proof"],
) -> Response:
    return page(
        request,
        "again.html",
        caller=caller,
        status=status,
        error=error,
        me=await caller.call("me"),
        to=to,
        then=then,
        lost=request.method == "POST" and then != GOES_ON,
        back=_page_of(to),
        carried=[(f"{_CARRIED}{name}", value) for name, value in carried],
    )


@router.post("/again")
async def again(
    request: Request, caller: Sent, to: Field = "", then: Field = "", password: Field = "", code: Field = "",
    ceremony: Field = "", answer: Answer = "",
) -> Response:  # fmt: skip
    """Prove it; then the form goes on by itself, without scripts by a button."""
    given = {"password": password, "code": code, "ceremony": ceremony, "answer": answer}
    proved = await caller.call("me.prove", {name: value for name, value in given.items() if value})
    form = await request.form()
    carried = [
        (name.removeprefix(_CARRIED), value)
        for name, value in form.multi_items()
        if name.startswith(_CARRIED) and isinstance(value, str)
    ]
    gone_on: Response
    if then == GOES_ON and _FORMS.fullmatch(to):
        fresh = await renewed(request, proved)
        gone_on = page(request, "go_on.html", caller=fresh, to=to, back=_page_of(to), carried=carried)
    else:
        gone_on = RedirectResponse(_page_of(to), 303)
    keep_session(request, gone_on, proved["session"], proved["lifetime_s"])
    return gone_on


@router.post("/again/passkey")
async def begin_passkey(request: Request, caller: Annotated[Caller, Depends(signed_in)]) -> JSONResponse:
    """What the browser is to ask an authenticator for."""
    require_csrf(caller, request.headers.get(CSRF_HEADER, ""))
    return JSONResponse(await caller.call("me.proof_begin", {"origin": origin(request)}))


@router.post("/again/oidc")
async def at_provider(request: Request, caller: Sent, to: Field = "") -> Response:
    """Off to the OpenID provider, which asks again; the person goes on from the page they came from."""
    redirect = f"{base_of(request)}{OIDC_CALLBACK}"
    return away(request, await caller.call("me.oidc_begin", {"redirect": redirect, "back": _page_of(to)}))


@router.get("/again")
async def nothing_to_prove(caller: SignedIn) -> Response:
    """Somebody loads the page again: there is no form to go on with."""
    return RedirectResponse("/me" if caller.owner else "/", 303)


def _page_of(form: str) -> str:
    """The page on which the form of that address stands."""
    parts = form.split("/")
    if not _FORMS.fullmatch(form):
        return form if form in _PAGES else "/profile"
    return "/".join(parts[:3]) if parts[1] == "accounts" else f"/{parts[1]}"
