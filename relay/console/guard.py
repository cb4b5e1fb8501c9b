"""What every request passes before a page sees it: known host, bounded body, own origin; what it leaves with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.console.problems import STATUS, of_refusal, problem, with_retry_after
from relay.console.rates import Rates
from relay.control.refusal import ControlError

MAX_BODY = 1 << 20  # octets
_HOST = re.compile(r"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")  # RFC 9110 7.2
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_UNCOUNTED = ("/static/", "/healthz", "/readyz", "/metrics")
# Balancers and orchestrators ask by an address, or give no name at all (HAProxy); the answer is one word to strangers.
_NAMELESS = frozenset({"/healthz", "/readyz"})
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}


class TooLarge(Exception):
    """A body that does not end."""


class Guard:
    """ASGI, around the whole application. `hosts`: what may stand in the Host header, without port (DNS rebinding).

    `rates` do not count what costs nothing (static files) and what asks by itself (probes).
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], secure: bool, rates: Rates) -> None:
        self._app, self._hosts, self._secure, self._rates = app, frozenset(hosts), secure, rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, self._with_headers(scope, send))
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY:
                raise TooLarge
            return message

        try:
            await self._app(scope, bounded, self._with_headers(scope, send))
        except TooLarge:
            await _no(scope, 413, "too large")(scope, receive, self._with_headers(scope, send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        wait_s = 0 if scope["path"].startswith(_UNCOUNTED) else self._rates.wait_s((scope.get("client") or ("",))[0])
        if wait_s:
            return _too_many(scope, wait_s)
        if hostname(headers.get("host", "")) not in self._hosts and scope["path"] not in _NAMELESS:
            return _no(scope, 421, "this console does not answer to that name; see RELAY_CONSOLE__HOSTS")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal() and len(length) < 20 and int(length) <= MAX_BODY):
            return _no(scope, 413, "too large")
        if scope["method"] not in _SAFE and not self._own_origin(headers):
            return _no(scope, 403, "this came from another site")
        return None

    def _own_origin(self, headers: Headers) -> bool:
        """A browser says where a change comes from; a program with a token has no cookie that could be borrowed."""
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        if origin is not None:
            return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
        return True

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        static = scope["path"].startswith("/static/")

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self._secure:
                    headers.setdefault("strict-transport-security", "max-age=31536000")
                headers.setdefault("cache-control", "public, max-age=86400" if static else "no-store")
            await send(message)

        return sending


def _too_many(scope: Scope, wait_s: int) -> Response:
    said = ControlError("too many requests from your address", f"wait {wait_s} seconds", "throttled", wait_s)
    if scope["path"].startswith("/api/"):
        return of_refusal(said)
    return with_retry_after(PlainTextResponse(f"{said}\n", STATUS["throttled"]), said)


def _no(scope: Scope, status: int, text: str) -> Response:
    return problem(status, text) if scope["path"].startswith("/api/") else PlainTextResponse(text, status)


def hostname(host: str) -> str:
    """The name in a Host header, without port and in lower case; "" when there is none, or more than that."""
    found = _HOST.fullmatch(host)
    return found[1].strip("[]").rstrip(".").lower() if found is not None else ""
