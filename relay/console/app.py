"""Puts the console together: guard, probes, API, pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import relay
from relay.config.console import ConsoleSettings
from relay.config.own_address import own_names
from relay.console import probes
from relay.console.api import routes as api
from relay.console.guard import Guard
from relay.console.identity import Caller, program
from relay.console.pages import routes as pages
from relay.console.pages.jobs import Jobs
from relay.console.pages.shared import Shared
from relay.console.problems import of_refusal, problem
from relay.console.rates import Rates
from relay.control.client import ControlClient
from relay.control.refusal import ControlError

_STATIC = Path(__file__).with_name("static")
API = "/api/v1"


def create_app(settings: ConsoleSettings, client: ControlClient, shared: Shared | None = None) -> ASGIApp:
    """The application. `shared` is for whoever keeps it warm."""
    app = FastAPI(
        title="relay",
        version=relay.__version__,
        openapi_url=None,  # not without a login: see below
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    secure = settings.tls_cert is not None or urlsplit(settings.url).scheme == "https"
    app.state.settings, app.state.client, app.state.secure = settings, client, secure
    app.state.jobs, app.state.shared = Jobs(), shared or Shared(client)
    probes.prepare(app.state)
    app.include_router(probes.router)
    app.include_router(api.router, prefix=API)
    app.add_api_route(f"{API}/openapi.json", _document, include_in_schema=False)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.add_exception_handler(ControlError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _broken)
    rates = Rates(settings.requests_per_minute)
    return Guard(app, hosts=own_names(settings), secure=secure, rates=rates)  # around everything, errors too


async def _document(request: Request, _caller: Annotated[Caller, Depends(program)]) -> JSONResponse:
    """The API's own description, for who may use it."""
    return JSONResponse(api.document(request.app))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ControlError)
    return of_refusal(error) if _for_program(request) else await pages.refused(request, error)


async def _malformed(request: Request, error: Exception) -> Response:
    """The field and what is wrong with it, never its value: it may be a password."""
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(str(part) for part in found["loc"][1:]) or str(found["loc"][0]), "problem": found["msg"]}
        for found in error.errors()
    ]
    if _for_program(request):
        return problem(422, "invalid", detail="the request does not have the form that it needs", more=errors)
    first = errors[0] if errors else {"field": "form", "problem": "is not complete"}
    text = f"{first['field']}: {first['problem']}"
    return await pages.refused(request, ControlError(text, "fill it in, then send it again", "invalid"))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if _for_program(request):
        return problem(error.status_code, str(error.detail))
    text = "there is no such page" if error.status_code == 404 else f"this does not go: {str(error.detail).lower()}"
    return await pages.refused(
        request, ControlError(text, "go back, or start at the first page"), status=error.status_code
    )


async def _broken(request: Request, error: Exception) -> Response:
    """A fault of ours: its traceback goes to the log, nothing of it to whoever asked."""
    if _for_program(request):
        return problem(500, "internal error", detail="the console failed", remedy="try again; its log says more")
    refusal = ControlError("something broke here", "try again; the relay's log says more")
    return await pages.refused(request, refusal, status=500)


def _for_program(request: Request) -> bool:
    return request.url.path.startswith(f"{API}/")
