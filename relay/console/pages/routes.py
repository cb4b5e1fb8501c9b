"""Every page by its address, and what a refusal looks like to a person."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from relay.console.problems import STATUS
from relay.control.refusal import ControlError

router = APIRouter(include_in_schema=False)


async def refused(request: Request, error: ControlError, *, status: int | None = None) -> Response:
    """Why not, and what to do."""
    return PlainTextResponse(f"{error.text}; {error.remedy}\n", status or STATUS[error.kind])
