"""Who is asking: the session cookie of a page, the bearer token of a program, and the proof that a form is ours."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from relay.config.console import ConsoleSettings
from relay.config.own_address import origin_of
from relay.control.client import ControlClient
from relay.control.refusal import ControlError

COOKIE = "relay_session"
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
LONGEST_TOKEN = 256


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever is signed in, and the daemon in their name. `proof_s`: how long their proof counts yet."""

    name: str
    owner: bool
    scopes: frozenset[str]
    csrf: str
    proof_s: int
    client: ControlClient
    credential: Mapping[str, str]
    changes: int = 0  # how far the daemon's had come when this request came

    async def call(
        self,
        action: str,
        arguments: Mapping[str, Any] | None = None,
        on_progress: Callable[[Mapping[str, Any]], None] = lambda _: None,
        *,
        key: str | None = None,
    ) -> Any:
        """Have the daemon do `action`, which decides whether they may; with a `key`, once. Raises ControlError."""
        return await self.client.call(action, arguments, credential=self.credential, on_progress=on_progress, key=key)

    async def listed(
        self, action: str, arguments: Mapping[str, Any] | None = None
    ) -> tuple[list[dict[str, Any]], ControlError | None]:
        """What the daemon lists, or nothing and why: a page says it beside the form that asked."""
        try:
            return await self.call(action, arguments), None
        except ControlError as refusal:
            return [], refusal


def client_of(request: Request) -> ControlClient:
    """The daemon."""
    client = request.app.state.client
    assert isinstance(client, ControlClient)
    return client


def address_of(request: Request) -> str:
    """Where a request comes from (a trusted proxy's word for it counts)."""
    return request.client.host if request.client is not None else ""


def base_of(request: Request) -> str:
    """The console's address as it is set, or as this browser has it: by a name that the guard let through."""
    settings = request.app.state.settings
    assert isinstance(settings, ConsoleSettings)
    scheme = "https" if request.app.state.secure else "http"
    return settings.url or f"{scheme}://{request.headers.get('host', '').lower()}"


def origin(request: Request) -> str:
    """What a passkey of this console is bound to."""
    return origin_of(base_of(request))[1]


async def signed_in(request: Request) -> Caller:
    """Who the session cookie belongs to. Raises ControlError (unauthenticated)."""
    token = request.cookies.get(COOKIE, "")
    if not token or len(token) > LONGEST_TOKEN:
        raise ControlError("nobody is signed in", "sign in", "unauthenticated")
    caller = await _caller(request, {"session": token})
    request.app.state.shared.used()
    return caller


async def program(request: Request) -> Caller:
    """Whose bearer token it is (RFC 6750 2.1); a page's own session counts too, with its CSRF token for changes."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and 0 < len(token) <= LONGEST_TOKEN:
        return await _caller(request, {"token": token.strip()})
    if scheme or COOKIE not in request.cookies:
        raise ControlError("no token was given", "send Authorization: Bearer TOKEN", "unauthenticated")
    caller = await signed_in(request)
    if request.method not in ("GET", "HEAD"):
        require_csrf(caller, request.headers.get(CSRF_HEADER, ""))
    return caller


def require_csrf(caller: Caller, given: str) -> None:
    """Raises ControlError (forbidden) unless the form was made for this session."""
    if not given or not hmac.compare_digest(given.encode("utf-8", "replace"), caller.csrf.encode()):
        raise ControlError("this form is too old, or not from here", "load the page again", "forbidden")


def keep_session(request: Request, response: Response, token: str, lifetime_s: int) -> None:
    """The cookie: not for scripts, not for other sites, only over TLS where there is TLS."""
    response.set_cookie(
        COOKIE, token, max_age=lifetime_s, path="/", httponly=True, samesite="strict", secure=request.app.state.secure
    )


def forget_session(request: Request, response: Response) -> None:
    """Signed out."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict", secure=request.app.state.secure)


async def _caller(request: Request, credential: Mapping[str, str]) -> Caller:
    client = client_of(request)
    facts, changes = await client.ask("principal", credential=credential)
    name, scopes = facts["name"].partition(":")[2], frozenset(facts["scopes"])
    return Caller(name, facts["owner"], scopes, facts["csrf"], facts["proof_s"], client, credential, changes)


async def renewed(request: Request, proved: Mapping[str, Any]) -> Caller:
    """Whoever has just shown again that it is them, by the session that goes on under a new token."""
    return await _caller(request, {"session": str(proved["session"])})
