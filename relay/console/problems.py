"""Refusals as HTTP: problem+json (RFC 9457) for programs; a status for pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi.responses import JSONResponse, Response

from relay.control.refusal import ControlError, Kind

AnyResponse = TypeVar("AnyResponse", bound=Response)

STATUS: Mapping[Kind, int] = {
    "refused": 409,
    "invalid": 422,
    "not-found": 404,
    "conflict": 409,
    "unauthenticated": 401,
    "forbidden": 403,
    "proof": 403,
    "throttled": 429,
    "unavailable": 503,
}
_RETRY_S = {"throttled": 60, "unavailable": 5}
MEDIA_TYPE = "application/problem+json"


def problem(status: int, title: str, *, detail: str = "", remedy: str = "", more: Any = None) -> JSONResponse:
    """A problem document; `remedy` and `errors` are members of ours (RFC 9457 3.2)."""
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status}
    if detail:
        body["detail"] = detail
    if remedy:
        body["remedy"] = remedy
    if more is not None:
        body["errors"] = more
    return JSONResponse(body, status, media_type=MEDIA_TYPE)


def with_retry_after(answer: AnyResponse, refusal: ControlError | None) -> AnyResponse:
    """Says when to come back (RFC 6585 4, RFC 9110 15.6.4) where that is what helps."""
    if refusal is not None and refusal.kind in _RETRY_S:
        answer.headers["retry-after"] = str(refusal.wait_s or _RETRY_S[refusal.kind])
    return answer


def of_refusal(error: ControlError) -> JSONResponse:
    """What the daemon refused, for a program."""
    answer = problem(STATUS[error.kind], error.kind.replace("-", " "), detail=error.text, remedy=error.remedy)
    if error.kind == "unauthenticated":
        answer.headers["www-authenticate"] = "Bearer"
    return with_retry_after(answer, error)
